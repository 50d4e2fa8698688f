# Imitation of the teacher's boxes on the student's positives, weighted by the teacher's confidence. Nothing is published
# in this form: 2 is the weight of the GIoU loss in GFL and DETR, and no result of a search.
box_giou = dict(box_giou=dict(type='mmkd.BoxGIoULoss', weight=2.0))
