_base_ = '../faster_rcnn_r101_r50/plain.py'
model = {{_base_.mobilenet_v2}}
find_unused_parameters = True  # see MobileNetV2's last convolution in detectron2.py

# Published for this pair: beside CKD, beside DKD and alone.
presets = dict(review_kd=dict(review_kd=dict(weight=2.0)))
