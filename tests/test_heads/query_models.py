"""MMDetection's query detectors, small: students of 2 layers and 20 queries, teachers with 3 layers and 30 queries."""

from __future__ import annotations

from typing import Any

import zoo
from mmengine.config import Config
from torch import nn

SIZE = 128
QUERIES = 20
TEACHER_QUERIES = 30
LAYERS = 2

DETRS = {
    'DETR': 'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'Conditional DETR': 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'DAB-DETR': 'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'Deformable DETR': 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'two-stage Deformable DETR': (
        'mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py'
    ),
    'DINO': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'DDQ': 'mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
}
SPARSE = {
    'Sparse R-CNN': 'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'QueryInst': 'mmdet::queryinst/queryinst_r50_fpn_1x_coco.py',
}
DETECTORS = DETRS | SPARSE
FULL_WIDTH = ('Conditional DETR', 'two-stage Deformable DETR')
"""Their code encodes positions with 128 numbers per coordinate, whatever the config says."""


def models(name: str, teacher_layers: int = 3) -> tuple[Config, Config]:
    """Model configs of a student of 2 layers and 20 queries, and of a teacher with 3 layers and 30 queries."""
    student, teacher = zoo.pair(DETECTORS[name])
    for model, layers, queries in (
        (student, LAYERS, QUERIES),
        (teacher, teacher_layers, TEACHER_QUERIES),
    ):
        if name in FULL_WIDTH:
            restore_width(model)
        if name in SPARSE:
            model.rpn_head.num_proposals = queries
            model.rpn_head.proposal_feature_channel = zoo.WIDTH
            model.roi_head.proposal_feature_channel = zoo.WIDTH
            model.roi_head.num_stages = layers
            model.roi_head.stage_loss_weights = [1] * layers
            model.roi_head.bbox_head = model.roi_head.bbox_head[:layers]
            if 'mask_head' in model.roi_head:
                model.roi_head.mask_head = model.roi_head.mask_head[:layers]
            model.train_cfg.rcnn = model.train_cfg.rcnn[:layers]
            model.test_cfg.rcnn.max_per_img = queries
        else:
            model.bbox_head.embed_dims = model.neck.out_channels
            model.num_queries = queries
            model.encoder.num_layers = 1
            model.decoder.num_layers = layers
            model.test_cfg.max_per_img = queries
    return student, teacher


def restore_width(node: Any) -> None:
    """Undo the zoo's shrinking of embeddings."""
    for key, value in node.items():
        if isinstance(value, dict):
            restore_width(value)
        elif key in ('embed_dims', 'out_channels') and value == zoo.WIDTH:
            node[key] = 256
        elif key == 'num_feats':
            node[key] = 128


def batch(name: str = '', **options: Any) -> dict[str, Any]:
    """The zoo's batch, with masks for QueryInst; the second image is smaller than the input."""
    data = zoo.batch(size=SIZE, masks=name == 'QueryInst', **options)
    data['data_samples'][1].set_metainfo(dict(img_shape=(SIZE - 16, SIZE - 32)))
    return data


def vary_boxes(*networks: Any) -> None:
    """Let boxes be others than the places of the queries, which they are in the beginning."""
    for network in networks:
        for part, weight in network.bbox_head.named_parameters():
            if 'reg' in part and weight.dim() > 1:
                nn.init.normal_(weight, std=0.1)
