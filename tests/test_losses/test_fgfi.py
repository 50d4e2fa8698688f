"""FGFILoss gives the function all levels at once, and adapts the student's maps."""

from __future__ import annotations

import pytest
import torch
import zoo

from mmkd.functional import fgfi_loss
from mmkd.losses import FGFILoss
from mmkd.structures import Features

CLASSES = 4


def test_it_is_the_functions_value_on_adapted_maps() -> None:
    pair = zoo.pair('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', bbox_head__num_classes=CLASSES)
    model = zoo.distiller(*pair, dict(fgfi=dict(type='mmkd.FGFILoss', strides=[8, 32])))
    steps = zoo.record_steps(model)
    data = zoo.batch(num_classes=CLASSES, boxes=(3, 2))
    value = zoo.one_step(model, data, of='loss_fgfi')['loss_fgfi']

    connectors = model.distill['fgfi'].connectors
    assert list(connectors) == ['0', '2']
    chosen = [steps[0].ask(Features())[int(level)] for level in connectors]
    adapted = [layer(each.student) for each, layer in zip(chosen, connectors.values(), strict=True)]
    boxes = torch.cat([sample.gt_instances.bboxes for sample in data['data_samples']])
    expected = fgfi_loss(
        adapted, [each.teacher for each in chosen], boxes, torch.tensor([0, 0, 0, 1, 1]), [8, 32]
    )
    torch.testing.assert_close(value, expected)
    assert value > 0
    for part in (model.student.backbone, connectors):
        assert zoo.gradient(part).isfinite().all()
        assert zoo.gradient(part).any()


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ValueError, match=r'FGFILoss\.threshold: 2'):
        FGFILoss(threshold=2)
    with pytest.raises(TypeError, match='FGFILoss has no option gather'):
        FGFILoss(gather=False)
