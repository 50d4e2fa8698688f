# ReviewKD on the maps of the neck. Published: 1.0 for most pairs; what it is for students with an FPN stands in
# configs/_base_/ckd_paper and configs/ckd_paper.
review_kd = dict(review_kd=dict(type='mmkd.ReviewKDLoss', weight=1.0))
