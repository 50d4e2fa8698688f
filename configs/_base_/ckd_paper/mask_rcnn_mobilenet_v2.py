_base_ = ['./mask_rcnn_r50.py', './mobilenet_v2.py']
model = {{_base_.mobilenet_v2}}
