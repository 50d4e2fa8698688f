# What --losses knows of methods on detectors, and on any head: NAME_HEAD is for heads of a kind, NAME for all that the loss
# means something on. CKD's are in files of their own. For classifiers: classifiers.py.

# AEKT (reconstructed, see docs/aekt.md). Nothing is published: alpha, beta and temperature are those of DKD and no result of
# a search. On RoI heads and other softmax heads, with DKD's for Faster R-CNN:
aekt_softmax = dict(
    aekt=dict(
        type='mmkd.AEKTLoss',
        weight=1.0,
        alpha=1.0,
        beta=0.25,
        temperature=1.0,
        gamma=1.0,
        r_max=4.0,
    )
)

# On heads with focal loss, on what the teacher is most confident of, with its class as the target. Weight and beta were chosen on the
# validation images of the embedded RetinaNet (docs/aekt.md).
aekt_sigmoid = dict(
    aekt=dict(
        type='mmkd.AEKTLoss',
        weight=4.0,
        alpha=1.0,
        beta=1.0,
        temperature=1.0,
        gamma=1.0,
        r_max=4.0,
        non_target='nckd',
        target='teacher',
        samples=dict(type='mmkd.TeacherTopK', k=64),
    )
)

# ---- logits

# KD on softmax heads. Nothing is published for detectors: as on ImageNet, where 0.5 CE + 0.5 KD are published, KD at
# temperature 1 weighs as much as the student's own losses, which keep their weight here (model.task_weight is 1).
kd = dict(kd=dict(type='mmkd.KDLoss', weight=1.0, temperature=1.0))

# DKD as published for Faster R-CNN: on the RoIs that the student sampled, background included.
dkd_rcnn = dict(dkd=dict(type='mmkd.DKDLoss', weight=1.0, alpha=1.0, beta=0.25, temperature=1.0))

# NKD as published: gamma 1.5, lambda (the temperature of the other classes) 1.
nkd = dict(nkd=dict(type='mmkd.NKDLoss', weight=1.0, gamma=1.5, temperature=1.0))

# DIST as published: beta = gamma = 1, weight 2, temperature 1 (ImageNet). On CIFAR-100 the temperature is 4.
dist = dict(dist=dict(type='mmkd.DISTLoss', weight=2.0, beta=1.0, gamma=1.0, temperature=1.0))

# QFL-KD on sigmoid heads as CrossKD and BCKD publish it for their scores: over all anchors, divided by the number of
# positives, beta 1, weight 1.
qfl_kd = dict(qfl_kd=dict(type='mmkd.QFLKDLoss', weight=1.0, beta=1.0))

# The second-order form of KD (arXiv 2203.10163). No weight is published for it alone: this one is a starting point.
quadratic_kd = dict(quadratic_kd=dict(type='mmkd.QuadraticKDLoss', weight=1.0, temperature=1.0))

# ---- feature maps, and maps of a head

# PKD on the first four levels of the neck, P3 to P6, as published for RetinaNet R50 under X101. For other dense heads
# nothing is published with these settings: they are a starting point.
pkd_detector = dict(pkd=dict(type='mmkd.PKDLoss', weight=10.0, strides=[8, 16, 32, 64]))

# P2 to P5, as published for Faster R-CNN R50 under R101.
pkd_rcnn = dict(pkd=dict(type='mmkd.PKDLoss', weight=6.0, strides=[4, 8, 16, 32]))

# ReviewKD on the maps of the neck. Published: 1.0 for most pairs; what it is for students with an FPN stands in
# configs/ckd_paper.
review_kd_detector = dict(review_kd=dict(type='mmkd.ReviewKDLoss', weight=1.0))

# FGD as its authors' configs have it (CVPR 2022) for RetinaNet and GFL, on all levels. FCOS has its own settings in
# pairs/fcos_r101_r50.py. For query heads nothing is published: those of dense heads are a starting point.
fgd_detector = dict(
    fgd=dict(type='mmkd.FGDLoss', temperature=0.5, alpha=1e-3, beta=5e-4, gamma=5e-4, relation=5e-6)
)

# On P2 to P5, as for Faster R-CNN R50 under R101.
fgd_rcnn = dict(
    fgd=dict(
        type='mmkd.FGDLoss',
        strides=[4, 8, 16, 32],
        temperature=0.5,
        alpha=5e-5,
        beta=2.5e-5,
        gamma=5e-5,
        relation=5e-7,
    )
)

# MGD as its authors' configs have it (ECCV 2022) for RetinaNet and RepPoints, on all levels. For query heads nothing is
# published: those of dense heads are a starting point.
mgd_detector = dict(mgd=dict(type='mmkd.MGDLoss', weight=2e-5, mask_ratio=0.65))

# On P2 to P5, as for Faster R-CNN R50 under a Cascade Mask R-CNN.
mgd_rcnn = dict(mgd=dict(type='mmkd.MGDLoss', weight=5e-7, mask_ratio=0.45, strides=[4, 8, 16, 32]))

# FGFI as published (CVPR 2019): weight 0.01, threshold 0.5. Published with Faster R-CNN on one map and with a one-stage
# detector; how the levels of a neck share an object is ours.
fgfi_detector = dict(fgfi=dict(type='mmkd.FGFILoss', weight=0.01, threshold=0.5))

# DeFeat's maps with the weights that its authors' config has for Faster R-CNN (CVPR 2021, VOC). For other heads nothing
# is published.
defeat_detector = dict(defeat=dict(type='mmkd.DeFeatLoss', objects=3.0, background=12.0))

# On RoI heads also the class logits, of objects and of background, each a mean of its own with weight 2, temperature 1.
defeat_rcnn = dict(
    defeat=dict(type='mmkd.DeFeatLoss', objects=3.0, background=12.0),
    defeat_objects=dict(
        type='mmkd.KDLoss', weight=2.0, temperature=1.0, samples=dict(type='mmkd.Positives')
    ),
    defeat_background=dict(
        type='mmkd.KDLoss', weight=2.0, temperature=1.0, samples=dict(type='mmkd.Negatives')
    ),
)

# Mimic (CVPR 2017) on the regions of the RoI head, and on the ground truth's where there are none. What is published is older
# than FPN: weight 1 is a starting point.
mimic_rcnn = dict(
    mimic=dict(type='mmkd.MimicLoss', weight=1.0, regions='rois', strides=[4, 8, 16, 32])
)
mimic_detector = dict(mimic=dict(type='mmkd.MimicLoss', weight=1.0, regions='objects'))

# CWD on the maps of the neck as published for detectors (ICCV 2021): weight 10, temperature 10.
cwd_detector = dict(cwd=dict(type='mmkd.CWDLoss', weight=10.0, temperature=10.0))

# CWD on the class logits of dense heads with the settings published for segmentation's logits (ICCV 2021): weight 2,
# temperature 5. On detection heads nothing is published.
cwd_class_maps_dense = dict(
    cwd_class_maps=dict(type='mmkd.CWDLoss', at='class_maps', weight=2.0, temperature=5.0)
)

# Methods that are published for classifiers, on the maps of the neck. No weight is known there: each has a fifth of the
# gradient.
at_detector = dict(at=dict(type='mmkd.ATLoss', weight=dict(type='mmkd.GradientShare', share=0.2)))
ickd_detector = dict(
    ickd=dict(type='mmkd.ICKDLoss', weight=dict(type='mmkd.GradientShare', share=0.2))
)
fitnet_detector = dict(
    fitnet=dict(
        type='mmkd.FitNetLoss',
        weight=dict(type='mmkd.GradientShare', share=0.2),
        connector=dict(type='mmkd.ConvConnector'),
    )
)
nst_detector = dict(
    nst=dict(type='mmkd.NSTLoss', weight=dict(type='mmkd.GradientShare', share=0.2))
)
vid_detector = dict(
    vid=dict(type='mmkd.VIDLoss', weight=dict(type='mmkd.GradientShare', share=0.2))
)

# CrossKD as published (CVPR 2024): the student's first three of four convolutions; scores and boxes with weight 1. Published
# there, and not run here: RetinaNet R50 (2x) under R101 39.7 AP after 37.4; GFL R50 (1x) with PKD beside it 43.9 after 40.2.
cross_kd_dense = dict(cross_kd=dict(type='mmkd.CrossKDLoss', weight=1.0, layer=3, box_weight=1.0))

# BCKD as its authors' config has it (ICCV 2023) for GFL: scores with beta 1 and weight 1, boxes with weight 4. Published there, and
# not run here: GFL R50 (1x) under R101.
bckd_dense = dict(bckd=dict(type='mmkd.BCKDLoss', weight=1.0, beta=1.0, box_weight=4.0))

# ---- boxes

# Imitation of the teacher's boxes on the student's positives, weighted by the teacher's confidence. Nothing is published
# in this form: 2 is the weight of the GIoU loss in GFL and DETR, and no result of a search.
box_giou_detector = dict(box_giou=dict(type='mmkd.BoxGIoULoss', weight=2.0))

# The same on query heads, with the weights of DETR's own losses on boxes, L1 in units of the image and GIoU.
box_l1_query = dict(
    box_l1=dict(type='mmkd.BoxL1Loss', weight=5.0, unit='image'),
    box_giou=dict(type='mmkd.BoxGIoULoss', weight=2.0),
)

# LD on GFL heads as published, and as LDHead of MMDetection has it: weight 0.25, temperature 10, on the positives, weighted
# by the student's highest class probability and summed over boxes. Published with MMDetection for GFL R50 (1x) under R101:
# 41.0 box AP after 40.2; not run here.
ld_dense = dict(ld=dict(type='mmkd.LDLoss', weight=0.25, temperature=10.0))

# KD-DETR (CVPR 2024) on sigmoid query heads: the teacher's own queries and random reference points through both decoders, weighted by
# the teacher's confidence; scores, corners and GIoU with weights 1, 5 and 2 as published. Scores by binary cross entropies, whose
# gradient is that of KL; 300 random queries are ours. Published, and not run here: DINO R50 51.6 AP after 49.0.
kd_detr_query = dict(
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

# DETRDistill's logit part (ICCV 2023) on sigmoid query heads: the teacher's predictions matched with the student's, those that found
# an object with their scores and boxes, the others with their boxes only; weights 1, 5 and 2 as in DETR's own loss. Scores by
# binary cross entropies; that boxes count by the teacher's confidence is ours. Published for all decoder layers: set
# model.head=dict(layers='all'), which needs as many in the teacher. Its parts on features and query priors are not built.
detr_distill_query = dict(
    detr_distill=dict(
        type='mmkd.QFLKDLoss',
        weight=1.0,
        beta=0.0,
        average='samples',
        samples=dict(type='mmkd.MatchedQueries', which='positives'),
    ),
    detr_distill_l1=dict(
        type='mmkd.BoxL1Loss',
        weight=5.0,
        samples=dict(type='mmkd.MatchedQueries', which='positives'),
    ),
    detr_distill_giou=dict(
        type='mmkd.BoxGIoULoss',
        weight=2.0,
        samples=dict(type='mmkd.MatchedQueries', which='positives'),
    ),
    detr_distill_l1_others=dict(
        type='mmkd.BoxL1Loss',
        weight=5.0,
        samples=dict(type='mmkd.MatchedQueries', which='negatives'),
    ),
    detr_distill_giou_others=dict(
        type='mmkd.BoxGIoULoss',
        weight=2.0,
        samples=dict(type='mmkd.MatchedQueries', which='negatives'),
    ),
)
