# KD-DETR (CVPR 2024) on sigmoid heads: the teacher's own queries and random reference points through both decoders, weighted by
# the teacher's confidence; scores, corners and GIoU with weights 1, 5 and 2 as published. Scores by binary cross entropies, whose
# gradient is that of KL; 300 random queries are ours. Published, and not run here: DINO R50 51.6 AP after 49.0.
kd_detr = dict(
    kd_detr=dict(
        type='mmkd.QFLKDLoss',
        weight=1.0,
        beta=0.0,
        average='samples',
        samples=dict(type='mmkd.SharedQueries', random=300),
    ),
    kd_detr_l1=dict(
        type='mmkd.BoxL1Loss', weight=5.0, samples=dict(type='mmkd.SharedQueries', random=300)
    ),
    kd_detr_giou=dict(
        type='mmkd.BoxGIoULoss', weight=2.0, samples=dict(type='mmkd.SharedQueries', random=300)
    ),
)
