"""DeFeat on a Faster R-CNN, with its preset: maps and class logits, objects and background apart."""

from __future__ import annotations

import torch
import zoo

from mmkd.functional import defeat_loss
from mmkd.structures import Features
from mmkd.utils.recipe import presets_of

CLASSES = 4


def test_maps_and_logits_of_objects_and_background() -> None:
    pair = zoo.pair(
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        roi_head__bbox_head__num_classes=CLASSES,
    )
    model = zoo.distiller(*pair, presets_of(['rcnn', 'detector', 'softmax'])['defeat'])
    steps = zoo.record_steps(model)
    data = zoo.batch(num_classes=CLASSES)
    names = ('loss_defeat', 'loss_defeat_objects', 'loss_defeat_background')
    losses = zoo.one_step(model, data, of=names)

    loss = model.distill['defeat']
    levels = steps[0].ask(Features())
    adapted = [
        layer(level.student) for level, layer in zip(levels, loss.connectors.values(), strict=True)
    ]
    boxes = torch.cat([sample.gt_instances.bboxes for sample in data['data_samples']])
    expected = defeat_loss(
        adapted,
        [level.teacher for level in levels],
        boxes,
        torch.tensor([0, 0, 0, 1, 1]),
        [4, 8, 16, 32, 64],
    )
    torch.testing.assert_close(losses['loss_defeat'], expected)
    labels = [
        steps[0].ask(model.distill[name].requests()[0])[0].labels
        for name in ('defeat_objects', 'defeat_background')
    ]
    assert len(labels[0]) > 0
    assert (labels[0] < CLASSES).all()
    assert (labels[1] == CLASSES).all()
    for part in (model.student.backbone, model.student.roi_head, loss.connectors):
        assert zoo.gradient(part).isfinite().all()
        assert zoo.gradient(part).any()
