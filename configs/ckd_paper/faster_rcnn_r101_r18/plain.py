# MMDetection has no Faster R-CNN R18 on this schedule: its R50 with another depth. The published CKD run has 4 images
# in a batch, at the same rate, and so has every recipe for this pair; the published ReviewKD and DKD runs have 8.
_base_ = '../faster_rcnn_r101_r50/plain.py'
model = {{_base_.resnet18}}
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=4)

# Published for this pair: beside CKD, beside DKD and alone.
presets = dict(review_kd=dict(review_kd=dict(weight=1.2)))
