"""Every loss on every kind of head where it means something; dense heads are in test_dense.py, classifiers in
test_classifier.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo

ANY = (
    'CKDLoss',
    'AEKTLoss',
    'ComparativeKDLoss',
    'CLKDLoss',
    'CorrelationKDLoss',
    'QuadraticKDLoss',
)
SOFTMAX = ('KDLoss', 'DKDLoss', 'NKDLoss', 'DISTLoss', 'OFALoss', 'TTMLoss', 'MLLDLoss', 'CTKDLoss')
FEATURES = (
    'PKDLoss',
    'ReviewKDLoss',
    'CWDLoss',
    'ICKDLoss',
    'ATLoss',
    'NSTLoss',
    'FitNetLoss',
    'VIDLoss',
    'OFDLoss',
    'FGDLoss',
    'MGDLoss',
    'FGFILoss',
    'DeFeatLoss',
    'MimicLoss',
)

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
FCOS = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
FASTER_RCNN = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
DETR = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'


def pair(config: str) -> tuple[Any, Any]:
    student, teacher = zoo.pair(config)
    if config in (DETR, DINO):
        for model in (student, teacher):
            model.bbox_head.embed_dims = model.neck.out_channels
            model.encoder.num_layers = 1
            model.decoder.num_layers = 2
            model.num_queries = 20
    return student, teacher


@pytest.mark.parametrize(
    ('config', 'losses'),
    [
        (FASTER_RCNN, ANY + SOFTMAX + FEATURES),
        (DETR, ANY + SOFTMAX + FEATURES),
        (DINO, (*ANY, 'QFLKDLoss', *FEATURES)),
        (RETINANET, FEATURES),
        (FCOS, FEATURES),
    ],
    ids=['RoI, softmax', 'query, softmax', 'query, sigmoid', 'anchors', 'points'],
)
def test_each_loss_alone_reaches_the_backbone(config: str, losses: tuple[str, ...]) -> None:
    model = zoo.distiller(
        *pair(config), losses={name: dict(type=f'mmkd.{name}') for name in losses}
    )

    values, gradients = zoo.gradients_of_each_loss(model, zoo.batch(), model.backbone)

    for name, gradient in gradients.items():
        assert torch.isfinite(values[f'loss_{name}']), name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize(
    ('config', 'loss', 'instead'),
    [(DINO, loss, r'use mmkd\.\w+Loss') for loss in SOFTMAX]
    + [(FASTER_RCNN, 'QFLKDLoss', r'use mmkd\.KDLoss')],
)
def test_a_loss_that_means_nothing_on_a_head_names_another(
    config: str, loss: str, instead: str
) -> None:
    with pytest.raises(ValueError, match=f'{loss} is for .* heads.*{instead}'):
        zoo.distiller(*pair(config), losses=dict(kd=dict(type=f'mmkd.{loss}')))
