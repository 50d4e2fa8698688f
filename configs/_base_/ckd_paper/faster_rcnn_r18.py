# MMDetection has no Faster R-CNN R18 on this schedule: its R50 with another depth. 4 images in a batch, at the same
# rate.
_base_ = ['./faster_rcnn_r50.py', './resnet18.py']
model = {{_base_.resnet18}}
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=4)
