# MMDetection has no Mask R-CNN R18 on this schedule: its R50 with another depth.
_base_ = '../mask_rcnn_r101_r50/plain.py'
model = {{_base_.resnet18}}

# Published for this pair: ReviewKD alone, beside CKD and beside DKD.
presets = dict(
    review_kd=dict(review_kd=dict(weight=1.5)),
    ckd_review_kd=dict(review_kd=dict(weight=0.8)),
    dkd_review_kd=dict(review_kd=dict(weight=1.2)),
)
