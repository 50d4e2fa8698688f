# RTMDet-l teaches RTMDet-s on its 300 epochs: 51.3 box AP teaches 44.5 (both published with MMDetection, not measured
# here). The necks have 256 and 128 channels: losses on features that need equal widths have no recipe here.
_base_ = ['mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', '../distill.py']
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth',
    ),
)
