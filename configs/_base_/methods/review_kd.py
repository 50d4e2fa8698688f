# ReviewKD on the maps of the neck. Published: 1.0 for most pairs; beside CKD on FPN levels P2 to P6 of Faster R-CNN 1.2
# for ResNet18, 1.0 for ResNet50 and 2.0 for MobileNetV2, of Mask R-CNN 0.8, 1.0 and 1.0.
review_kd = dict(review_kd=dict(type='mmkd.ReviewKDLoss', weight=1.0))
