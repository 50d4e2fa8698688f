# Imitation of the teacher's boxes on query heads, weighted by the teacher's confidence. Nothing is published in this form:
# the weights are those of DETR's own losses on boxes, L1 in units of the image and GIoU, and no result of a search.
box_l1 = dict(
    box_l1=dict(type='mmkd.BoxL1Loss', weight=5.0, unit='image'),
    box_giou=dict(type='mmkd.BoxGIoULoss', weight=2.0),
)
