"""BCKDLoss on dense heads: scores over all anchors, boxes where the scores are apart, by the number of positives."""

from __future__ import annotations

from typing import Any

import asks
import pytest
import torch
import zoo

from mmkd.functional import bckd_box_loss, qfl_kd_loss
from mmkd.losses import AllSamples, BCKDLoss

CLASSES = 5
CONFIGS = {
    'GFL': 'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    'RetinaNet': 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'FCOS': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
}


@pytest.mark.parametrize('name', CONFIGS)
def test_it_is_the_sum_over_all_anchors_by_the_positives(name: str) -> None:
    pair = zoo.pair(CONFIGS[name], bbox_head__num_classes=CLASSES)
    model = zoo.distiller(*pair, dict(bckd=dict(type='mmkd.BCKDLoss', box_weight=3.0)))
    steps = zoo.record_steps(model)
    data = zoo.batch(num_classes=CLASSES, boxes=(3, 0))
    value = zoo.one_step(model, data, of='loss_bckd')['loss_bckd']

    (table,) = asks.tables(steps[0])
    (logits,) = asks.logit_pairs(steps[0], AllSamples())
    (boxes,) = asks.box_pairs(steps[0], AllSamples())
    assert len(logits) == len(boxes) == len(table)
    positives = table.is_foreground().sum()
    weights = dict(weights=logits.weights, avg_factor=positives)
    scores = qfl_kd_loss(logits.student, logits.teacher, **weights)
    overlaps = bckd_box_loss(
        boxes.student, boxes.teacher, logits.student, logits.teacher, **weights
    )
    assert min(scores, overlaps) > 0
    torch.testing.assert_close(value, scores + 3.0 * overlaps)
    for part in (model.student.backbone, model.student.bbox_head):
        assert zoo.gradient(part).isfinite().all()
        assert zoo.gradient(part).any()


def test_a_batch_without_objects_is_finite() -> None:
    pair = zoo.pair(CONFIGS['GFL'], bbox_head__num_classes=CLASSES)
    model = zoo.distiller(*pair, dict(bckd=dict(type='mmkd.BCKDLoss')))
    value = zoo.one_step(model, zoo.batch(num_classes=CLASSES, boxes=(0,)), of='loss_bckd')
    assert value['loss_bckd'].isfinite()
    assert zoo.gradient(model.student.backbone).isfinite().all()


@pytest.mark.parametrize(
    ('options', 'name'), [(dict(beta=0.5), 'beta'), (dict(box_weight=-1), 'box_weight')]
)
def test_options_out_of_range_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf'BCKDLoss\.{name}'):
        BCKDLoss(**options)


def test_softmax_heads_are_refused() -> None:
    pair = zoo.pair('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    with pytest.raises(ValueError, match=r'BCKDLoss: QFLKDLoss is for sigmoid heads'):
        zoo.distiller(*pair, dict(bckd=dict(type='mmkd.BCKDLoss')))
