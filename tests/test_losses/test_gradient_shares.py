"""Shares of the gradient: what was asked for is what ``torch.autograd.grad`` finds, on a detector and a classifier."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from tiny import NUM_CLASSES, TINY_RETINANET, fresh_hub, student_model, teacher_model
from torch import Tensor
from zoo import batch, distiller, mmdet_scope

from mmkd.distillers import Distiller, describe
from mmkd.losses import GradientShare, GradientShares
from mmkd.losses.gradient_shares import recomputing
from mmkd.structures import Progress

CKD = dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=8))
PKD = dict(type='mmkd.PKDLoss')
EXACT = dict(interval=1, momentum=0)


def share(value: Any, **options: Any) -> dict[str, Any]:
    return dict(type='mmkd.GradientShare', share=value, **options)


def detector(losses: Mapping[str, Any], **student: Any) -> Distiller:
    return distiller(student_model(**student), teacher_model(), losses)


def classifier(losses: Mapping[str, Any]) -> Distiller:
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    config.model.head.num_classes = 5
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(
            config.model,
            teacher=dict(config=config, checkpoint='random_init'),
            losses=losses,
            data_preprocessor=config.data_preprocessor,
        )
        model.init_weights()
    return model.train()


def scenes(seed: int = 0, **options: Any) -> dict[str, Any]:
    return batch(size=64, num_classes=NUM_CLASSES, seed=seed, **options)


def step(model: Distiller, data: Mapping[str, Any], iteration: int = 0) -> dict[str, Tensor]:
    """The losses of one step, and under ``'task'`` the student's own."""
    fresh_hub(iter=iteration, epoch=0, max_iters=1000, max_epochs=10)
    with mmdet_scope():
        losses = model(**copy.deepcopy(dict(data)), mode='loss')
    ours = [f'loss_{name}' for name in model.distill_losses]
    own = {name: value for name, value in losses.items() if name not in ours}
    return {name: losses[name] for name in ours if name in losses} | {
        'task': model.parse_losses(own)[0]
    }


def norm(loss: Tensor, model: Distiller, prefix: str) -> float:
    parameters = [
        parameter for name, parameter in model.named_parameters() if name.startswith(prefix)
    ]
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    squares = [part.double().square().sum() for part in parts if part is not None]
    return float(torch.stack(squares).sum().sqrt())


def shares(losses: Mapping[str, Tensor], model: Distiller, prefix: str) -> dict[str, float]:
    norms = {name: norm(loss, model, prefix) for name, loss in losses.items()}
    return {name: value / sum(norms.values()) for name, value in norms.items()}


def place(model: Distiller) -> str:
    found = model.distill['gradient_shares']
    assert isinstance(found, GradientShares)
    return found.place


def test_a_detector_has_the_shares_that_were_asked_for() -> None:
    """Of two losses with a share, beside one with a weight, and a task with one."""
    losses = dict(
        ckd=CKD | dict(weight=share(0.2, **EXACT)),
        pkd=PKD | dict(weight=share(0.3, **EXACT)),
        giou=dict(type='mmkd.BoxGIoULoss', weight=2.0, samples=CKD['samples']),
    )
    model = detector(losses)
    model._task_schedule = lambda progress: 0.5
    for iteration in range(2):
        found = shares(step(model, scenes(iteration), iteration), model, 'neck.')
        assert found['loss_ckd'] == pytest.approx(0.2, rel=1e-4)
        assert found['loss_pkd'] == pytest.approx(0.3, rel=1e-4)
        assert found['loss_giou'] > 0.001
    assert all(parameter.grad is None for parameter in model.parameters()), 'nothing accumulates'


def test_a_classifier_has_the_share_that_was_asked_for() -> None:
    model = classifier(dict(kd=dict(type='mmkd.KDLoss', weight=share(0.4, **EXACT))))
    samples = [DataSample().set_gt_label(label) for label in range(4)]
    found = step(model, dict(inputs=torch.randn(4, 3, 32, 32), data_samples=samples))
    assert place(model) == 'backbone.layer4.1'
    assert shares(found, model, 'backbone.layer4.1.')['loss_kd'] == pytest.approx(0.4, rel=1e-4)


def test_with_the_defaults_the_share_holds_in_the_mean_of_training() -> None:
    model = detector(dict(ckd=CKD | dict(weight=share(0.2, interval=5))))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found, weights = [], set()
    for iteration in range(20):
        losses = step(model, scenes(iteration), iteration)
        found.append(shares(losses, model, 'neck.')['loss_ckd'])
        model.observe_next_step(lambda record: weights.add(float(record.weights['ckd'])))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert torch.tensor(found[5:]).mean() == pytest.approx(0.2, rel=0.2)
    assert len(weights) == 6, 'measured at 0, 1, 2, 4, 5, 10 and 15'


def test_a_share_that_warms_up_has_its_value_of_the_moment() -> None:
    warmup = dict(type='LinearWarmup', value=0.4, begin=2, end=10, by_epoch=False)
    model = detector(dict(ckd=CKD | dict(weight=share(warmup, **EXACT))))
    assert 'loss_ckd' not in step(model, scenes(), 2)
    for iteration, expected in ((4, 0.1), (10, 0.4)):
        found = shares(step(model, scenes(), iteration), model, 'neck.')
        assert found['loss_ckd'] == pytest.approx(expected, rel=1e-4)


def test_a_share_that_begins_between_two_measurements_is_measured_then() -> None:
    late = dict(type='LinearWarmup', value=0.2, begin=9, end=9, by_epoch=False)
    model = detector(dict(ckd=CKD | dict(weight=share(late, interval=50))))
    found = shares(step(model, scenes(), 9), model, 'neck.')
    assert found['loss_ckd'] == pytest.approx(0.2, rel=1e-4)


def test_a_loss_of_zero_keeps_the_weight_it_had() -> None:
    losses = dict(
        ckd=dict(
            type='mmkd.CKDLoss',
            samples=dict(type='mmkd.Positives'),
            weight=share(0.2, interval=1, momentum=0),
        )
    )
    model, nothing = detector(losses), scenes(boxes=(0, 0))
    weights: list[Any] = []
    for iteration, data in enumerate((nothing, scenes(), nothing)):
        model.observe_next_step(lambda record: weights.append(record.weights['ckd']))
        found = step(model, data, iteration)
        assert torch.stack(list(found.values())).isfinite().all()
    assert weights[0] == 0
    assert weights[1] > 0
    own = model.distill['gradient_shares'].counts
    assert own.tolist() == [1, 1]


def test_float16_gradients_do_not_vanish() -> None:
    found = {}
    for enabled in (False, True):
        model = detector(dict(pkd=PKD | dict(weight=share(0.2, **EXACT))))
        with torch.autocast('cpu', dtype=torch.float16, enabled=enabled):
            losses = step(model, scenes())
        found[enabled] = float(losses['loss_pkd'].detach())
    assert found[True] == pytest.approx(found[False], rel=0.05)


def test_a_gradient_that_is_not_finite_does_not_count() -> None:
    model = detector(dict(ckd=CKD | dict(weight=share(0.2, **EXACT))))
    first = step(model, scenes(), 0)['loss_ckd']
    kept = {
        name: value.clone() for name, value in model.distill['gradient_shares'].state_dict().items()
    }
    shift = model.student.neck.lateral_convs[0].conv.weight.register_hook(
        lambda gradient: gradient * torch.inf
    )
    again = step(model, scenes(), 1)['loss_ckd']
    shift.remove()
    assert torch.equal(again, first)
    found = model.distill['gradient_shares'].state_dict()
    assert all(torch.equal(found[name], kept[name]) for name in ('norms', 'counts'))
    assert (found['scales'] < kept['scales']).all()


def test_a_peer_and_its_student_have_their_shares() -> None:
    mate = dict(
        type='mmkd.PeerTeacher',
        config=dict(model=teacher_model(), default_scope='mmdet'),
        losses=dict(ckd=CKD | dict(weight=share(0.3, **EXACT))),
    )
    with mmdet_scope():
        model = Distiller(
            student_model(), teacher=mate, losses=dict(ckd=CKD | dict(weight=share(0.2, **EXACT)))
        ).train()
    losses = step(model, scenes())
    fresh_hub(iter=0)
    with mmdet_scope():
        losses = model(**scenes(), mode='loss')
    for prefix, ckd, own, expected in (
        ('neck.', 'loss_ckd', '', 0.2),
        ('distill.teacher.model.neck.', 'teacher.loss_ckd', 'teacher.', 0.3),
    ):
        task = {name: losses[f'{own}{name}'] for name in ('loss_cls', 'loss_bbox')}
        parts = dict(task=model.parse_losses(task)[0], ckd=losses[ckd])
        assert shares(parts, model, prefix)['ckd'] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ('at', 'expected'),
    [
        ('neck', 'neck'),
        ('backbone', 'backbone.layer4.1'),
        ('backbone.layer3', 'backbone.layer3.1'),
    ],
)
def test_it_is_measured_where_the_earliest_loss_looks(at: str, expected: str) -> None:
    losses = dict(
        pkd=PKD | dict(at=at, connector=dict(type='mmkd.ConvConnector')),
        ckd=CKD | dict(weight=share(0.2)),
    )
    model = detector(losses)
    assert place(model) == expected
    assert describe(model, Progress())['loss_ckd'].startswith(
        f'CKDLoss, share 0.2 of the gradient on {expected}'
    )


@pytest.mark.parametrize(
    ('ckd', 'pkd', 'named'),
    [
        (share(1.0), 1.0, r'losses\.ckd\.weight\.share'),
        (share(-0.1), 1.0, r'losses\.ckd\.weight\.share'),
        (share(share(0.1)), 1.0, r'losses\.ckd\.weight\.share'),
        (share(0.1, interval=0), 1.0, r'losses\.ckd\.weight\.interval'),
        (share(0.1, momentum=1), 1.0, r'losses\.ckd\.weight\.momentum'),
        (share(0.1, parameters='trunk'), 1.0, r'losses\.ckd\.weight\.parameters'),
        (share(0.6), share(0.4), 'add up to 1'),
        (share(0.1), share(0.1, interval=7), r'losses\.pkd\.weight\.interval'),
        (dict(type='Chain', schedules=[share(0.1)]), 1.0, r'losses\.ckd\.weight\.schedules'),
    ],
)
def test_what_cannot_be_a_share_is_refused(ckd: Any, pkd: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        detector(dict(ckd=CKD | dict(weight=ckd), pkd=PKD | dict(weight=pkd)))


def test_the_task_has_no_share() -> None:
    with mmdet_scope(), pytest.raises(ValueError, match=r'model\.task_weight'):
        Distiller(
            student_model(), task_weight=share(0.5), teacher=dict(type='mmkd.AveragedTeacher')
        )


@pytest.mark.parametrize('rest', [{}, dict(pkd=PKD | dict(weight=0))])
def test_shares_without_a_rest_are_refused(rest: Any) -> None:
    options = dict(teacher=dict(type='mmkd.AveragedTeacher'), task_weight=0)
    losses = dict(ckd=CKD | dict(weight=share(0.2)))
    with mmdet_scope():
        Distiller(student_model(), losses=losses | dict(pkd=PKD), **options)
        with pytest.raises(ValueError, match=r'losses\.ckd\.weight: .*task_weight is 0'):
            Distiller(student_model(), losses=losses | rest, **options)


def test_parameters_that_a_loss_does_not_reach_are_named() -> None:
    losses = dict(
        pkd=PKD | dict(at='backbone', connector=dict(type='mmkd.ConvConnector')),
        ckd=CKD | dict(weight=share(0.2, parameters='neck')),
    )
    with pytest.raises(
        ValueError, match=r'parameters: the gradient of loss_pkd does not reach neck'
    ):
        step(detector(losses), scenes())


def test_parameters_that_a_wrapper_has_moved_are_named() -> None:
    model = detector(dict(ckd=CKD | dict(weight=share(0.2))))
    model.student.neck.fpn_convs[0] = torch.nn.Sequential(model.student.neck.fpn_convs[0])
    with pytest.raises(ValueError, match=r'losses\.ckd\.weight: .*FSDP'):
        step(model, scenes())


def test_recomputed_activations_on_the_way_back_are_refused() -> None:
    losses = dict(ckd=CKD | dict(weight=share(0.2)))
    assert place(detector(losses, backbone__with_cp=True)) == 'neck'
    losses['ckd']['weight']['parameters'] = 'backbone.layer4'
    with pytest.raises(ValueError, match='with_cp'):
        detector(losses, backbone__with_cp=True)


def test_layers_of_an_encoder_that_recompute_are_found() -> None:
    encoder = torch.nn.Identity()
    network = torch.nn.ModuleDict(dict(neck=torch.nn.Linear(1, 1), encoder=encoder))
    encoder.num_cp = -1  # type: ignore[assignment]
    assert recomputing(network, ['neck']) is None
    encoder.num_cp = 6  # type: ignore[assignment]
    assert recomputing(network, ['neck']) == 'encoder'


def test_a_schedule_may_be_a_share_of_any_kind() -> None:
    assert GradientShare(0.3)(Progress()) == 0.3
    assert GradientShare(dict(type='Stop', at=1, value=0.3)).is_over(Progress(epoch=1.0))
