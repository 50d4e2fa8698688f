"""FGDLoss gives the function the ground truth, the strides and what its blocks make of the maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from mmengine.structures import InstanceData

from mmkd.functional import fgd_loss
from mmkd.structures import Features

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
CLASSES = 4


@pytest.fixture(scope='module')
def model() -> Any:
    pair = zoo.pair(RETINANET, bbox_head__num_classes=CLASSES)
    return zoo.distiller(*pair, dict(fgd=dict(type='mmkd.FGDLoss', alpha=0.1, relation=1e-3)))


def test_it_is_the_functions_sum_over_the_levels_of_the_neck(model: Any) -> None:
    loss = model.distill['fgd']
    for blocks in (loss.student_blocks, loss.teacher_blocks):
        for block in blocks:  # which are the identity in the beginning
            torch.nn.init.normal_(block.channel_add_conv[-1].weight, std=0.1)
    steps = zoo.record_steps(model)
    data = zoo.batch(num_classes=CLASSES, boxes=(3, 0))
    value = zoo.one_step(model, data, of='loss_fgd')['loss_fgd']

    pairs = steps[0].ask(Features())
    boxes = data['data_samples'][0].gt_instances.bboxes
    expected = [
        fgd_loss(
            pair.student,
            pair.teacher,
            boxes,
            torch.zeros(3, dtype=torch.long),
            8 << level,
            loss.student_blocks[level](pair.student),
            loss.teacher_blocks[level](pair.teacher),
            alpha=0.1,
            relation=1e-3,
        )
        for level, pair in enumerate(pairs)
    ]
    torch.testing.assert_close(value, sum(expected))
    for part in (model.student.backbone, loss.student_blocks, loss.teacher_blocks):
        assert zoo.gradient(part).isfinite().all()
        assert zoo.gradient(part).any()


def test_what_it_trains_is_kept_apart_from_the_student(model: Any) -> None:
    own = [key for key in model.state_dict() if key.startswith('distill.')]
    assert len(own) == 2 * 5 * 8
    assert model.state_dict().keys() - set(own) == model.student.state_dict().keys() - set(own)
    assert all(key.split('.')[2] in ('student_blocks', 'teacher_blocks') for key in own)


def test_a_classifier_has_no_objects() -> None:
    import test_classifier as classifiers

    losses = dict(
        fgd=dict(
            type='mmkd.FGDLoss',
            at='backbone.layer1',
            connector=dict(type='mmkd.ConvConnector'),
        )
    )
    model = classifiers.distiller(
        classifiers.STUDENTS['linear'], classifiers.TEACHERS['linear'], losses
    )
    with pytest.raises(RuntimeError, match=r'no gt_instances\.bboxes'):
        classifiers.take_step(model)


def test_a_batch_without_objects_is_all_background(model: Any) -> None:
    data = zoo.batch(num_classes=CLASSES, boxes=(0,))
    for sample in data['data_samples']:
        sample.gt_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
    assert zoo.one_step(model, data, of='loss_fgd')['loss_fgd'] > 0
    assert zoo.gradient(model.student.backbone).isfinite().all()
