"""Shared queries: both networks answer the same ones, row by row; of each kind of DETR."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import zoo
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.config import Config
from query_models import DETRS, QUERIES, SIZE, TEACHER_QUERIES, batch, models, vary_boxes
from torch import nn

from mmkd.distillers import Distiller
from mmkd.losses import SharedQueries
from mmkd.structures import Step

RANDOM = 7
LEARNT = ('DETR', 'Conditional DETR')
"""Their queries have no reference points to draw."""
TWO_STAGE = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
KINDS = [name for name in DETRS if name != 'DDQ']


def shared(name: str, **options: Any) -> dict[str, Any]:
    return dict(type='mmkd.SharedQueries', random=0 if name in LEARNT else RANDOM, **options)


def losses(name: str) -> dict[str, Any]:
    """What KD-DETR sums, and CKD."""
    scores = 'KDLoss' if name == 'DETR' else 'QFLKDLoss'
    average = {} if name == 'DETR' else dict(average='samples')
    return dict(
        ckd=dict(type='mmkd.CKDLoss', mask_iou=0.5, samples=shared(name)),
        aekt=dict(type='mmkd.AEKTLoss', target='teacher', samples=shared(name)),
        scores=dict(type=f'mmkd.{scores}', samples=shared(name), **average),
        l1=dict(type='mmkd.BoxL1Loss', samples=shared(name, k=10)),
        giou=dict(type='mmkd.BoxGIoULoss', samples=shared(name, k=10)),
    )


def distiller(name: str, configs: tuple[Config, Config], **options: Any) -> Distiller:
    model = zoo.distiller(*configs, losses=losses(name), **options)
    model.teacher.model.init_weights()
    vary_boxes(model.student, model.teacher.model)
    return model


def one_step(model: Distiller, data: Mapping[str, Any]) -> tuple[Step, dict[str, Any]]:
    steps = zoo.record_steps(model)
    found = zoo.one_step(model, data, of=[f'loss_{name}' for name in model.distill_losses])
    return steps[0], found


@pytest.mark.parametrize('name', KINDS)
def test_two_equal_networks_answer_alike(name: str) -> None:
    """Whatever the queries: the teacher's or random ones, its contents, its places."""
    config, _ = models(name)
    model = distiller(name, (config, copy.deepcopy(config)), teacher_options=dict(fuse=False))
    model.teacher.model.load_state_dict(model.student.state_dict())
    for module in model.student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    step, _ = one_step(model, batch())
    (pairs,) = step.ask(model.distill_losses['ckd'].requests()[0])
    (boxes,) = step.ask(model.distill_losses['ckd'].requests()[1])
    random = 0 if name in LEARNT else RANDOM
    assert len(pairs) == 2 * (QUERIES + random)
    torch.testing.assert_close(pairs.student, pairs.teacher, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(boxes.student, boxes.teacher, rtol=1e-3, atol=1e-2)
    assert pairs.student.std(dim=0).max() > 1e-4, 'queries differ'
    assert zoo.gradient(model.student.encoder).any()
    assert zoo.gradient(model.student.backbone).any()


@pytest.mark.parametrize('name', ['DETR', 'DAB-DETR', 'DINO'])
def test_the_teachers_own_queries_are_answered_as_it_predicts(name: str) -> None:
    """By a teacher of another depth and number of queries; the student learns of every loss."""
    model = distiller(name, models(name))
    data = batch()
    steps = zoo.record_steps(model)
    values, gradients = zoo.gradients_of_each_loss(model, data, model.student)
    for loss, gradient in gradients.items():
        assert values[f'loss_{loss}'].isfinite(), loss
        assert gradient.isfinite().all(), loss
        assert gradient.any(), loss
    step = steps[0]
    (pairs,) = step.ask(model.distill_losses['ckd'].requests()[0])
    (boxes,) = step.ask(model.distill_losses['ckd'].requests()[1])
    network = model.teacher.model
    with torch.no_grad():
        features = network.extract_feat(data['inputs'])
        outputs = network.forward_transformer(features, copy.deepcopy(data['data_samples']))
        logits, places = (each[-1] for each in network.bbox_head(**outputs))
    own = pairs.teacher.unflatten(0, (2, -1))[:, :TEACHER_QUERIES]
    torch.testing.assert_close(own, logits)
    expected = bbox_cxcywh_to_xyxy(places)
    expected[0] *= SIZE
    expected[1] *= torch.tensor([SIZE - 32, SIZE - 16] * 2)
    torch.testing.assert_close(
        boxes.teacher.unflatten(0, (2, -1))[:, :TEACHER_QUERIES], expected, rtol=1e-4, atol=1e-3
    )
    assert pairs.labels is None
    torch.testing.assert_close(pairs.weights, boxes.teacher_confidence)
    assert (boxes.weights == 1).all(), 'their losses weigh by the confidence themselves'
    assert not any(key.startswith('distill.') for key in model.state_dict())


def test_random_queries_are_others_in_every_step_and_the_same_again() -> None:
    model = distiller('DAB-DETR', models('DAB-DETR'))
    rows = [one_step(model, batch())[0] for _ in range(2)]
    tables = [
        step.ask(model.distill_losses['ckd'].requests()[0])[0].teacher.unflatten(0, (2, -1))
        for step in rows
    ]
    assert torch.equal(*tables), 'the same iteration'
    random = tables[0][:, -RANDOM:]
    assert not torch.isclose(random[0], random[1]).all(), 'images draw their own'


def test_all_layers_give_a_table_each() -> None:
    model = distiller('DAB-DETR', models('DAB-DETR', teacher_layers=2), head=dict(layers='all'))
    step, _ = one_step(model, batch())
    assert len(step.ask(model.distill_losses['ckd'].requests()[0])) == 2


def test_the_k_of_which_the_teacher_is_most_confident_are_picked() -> None:
    model = distiller('DAB-DETR', models('DAB-DETR'))
    step, _ = one_step(model, batch())
    (all_pairs,) = step.ask(model.distill_losses['ckd'].requests()[0])
    (picked,) = step.ask(model.distill_losses['l1'].requests()[0])
    highest = all_pairs.weights.unflatten(0, (2, -1)).topk(10).values.sort().values
    found = picked.teacher_confidence.unflatten(0, (2, -1)).sort().values
    torch.testing.assert_close(found, highest)


def other(name: str) -> Config:
    """The teacher of another pair."""
    return models(name)[1]


def wide() -> Config:
    teacher = Config(models('DINO')[1].to_dict())
    text = (
        teacher.dump()
        .replace('embed_dims=32', 'embed_dims=64')
        .replace('out_channels=32', 'out_channels=64')
    )
    text = text.replace('num_feats=16', 'num_feats=32')
    return Config.fromstring(text, '.py')


@pytest.mark.parametrize(
    ('student', 'teacher', 'loss', 'named'),
    [
        ('DDQ', None, {}, 'samples=mmkd.SharedQueries: queries of DDQDETR'),
        ('DETR', None, dict(samples=shared('')), r'SharedQueries\.random'),
        ('Sparse R-CNN', None, {}, 'samples=mmkd.SharedQueries: SparseRoIHead'),
        ('DETR', lambda: zoo.pair(TWO_STAGE)[1], {}, 'samples=mmkd.SharedQueries: StandardRoIHead'),
        ('Deformable DETR', lambda: other('DINO'), {}, 'of different kinds'),
        ('DINO', wide, {}, 'embed_dims'),
        (
            'DAB-DETR',
            None,
            dict(type='mmkd.AEKTLoss', target='assigned'),
            r'AEKTLoss\.samples',
        ),
        ('DAB-DETR', None, dict(type='mmkd.QFLKDLoss'), r'QFLKDLoss\.average'),
        ('DAB-DETR', None, dict(samples=dict(type='mmkd.SharedQueries', k=0)), r'samples\.k'),
    ],
)
def test_what_cannot_share_queries_is_refused(
    student: str, teacher: Any, loss: dict[str, Any], named: str
) -> None:
    ours, theirs = models(student)
    base = dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.SharedQueries'))
    with pytest.raises(ValueError, match=named):
        zoo.distiller(ours, teacher() if teacher else theirs, losses=dict(tested=base | loss))


def test_dense_heads_have_no_queries() -> None:
    pair = zoo.pair('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    samples = dict(type='mmkd.SharedQueries')
    with pytest.raises(ValueError, match=r'losses\.ckd: samples=mmkd\.SharedQueries'):
        zoo.distiller(*pair, losses=dict(ckd=dict(type='mmkd.CKDLoss', samples=samples)))


def test_a_number_of_random_queries_is_whole() -> None:
    with pytest.raises(ValueError, match='random'):
        SharedQueries(random=-1)
