# MMDetection has no Mask R-CNN R18 on this schedule: its R50 with another depth.
_base_ = ['./mask_rcnn_r50.py', './resnet18.py']
model = {{_base_.resnet18}}
