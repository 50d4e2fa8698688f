# DINO Swin-L (5 scales, 12 epochs) teaches DINO R50 (4 scales) on its 12 epochs: 57.2 box AP teaches 49.0 (both
# published with MMDetection, not measured here). MMDetection has no checkpoint of a DINO with R101, nor of one with
# R50 and 5 scales. The necks have 5 and 4 levels: losses on features have no recipe here.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v3.0/dino/dino-5scale_swin-l_8xb2-12e_coco/dino-5scale_swin-l_8xb2-12e_coco_20230228_072924-a654145f.pth',
    ),
)
