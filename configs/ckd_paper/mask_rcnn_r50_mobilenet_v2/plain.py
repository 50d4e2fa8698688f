_base_ = '../mask_rcnn_r101_r50/plain.py'
model = {{_base_.mobilenet_v2}}
find_unused_parameters = True  # see MobileNetV2's last convolution in detectron2.py

# Published for this pair: ReviewKD alone, beside CKD and beside DKD.
presets = dict(
    review_kd=dict(review_kd=dict(weight=1.0)),
    ckd_review_kd=dict(review_kd=dict(weight=1.0)),
    dkd_review_kd=dict(review_kd=dict(weight=2.0)),
)
