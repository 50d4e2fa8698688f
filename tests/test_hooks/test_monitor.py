"""The monitor's numbers against gradients and counts made the plain way, and a training that it does not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from tiny import CKD, NUM_CLASSES, fresh_hub, same, student_model, teacher_model
from torch import Tensor, nn
from torchvision.ops import box_iou
from zoo import batch, distiller, gradient, mmdet_scope

from mmkd.distillers import Distiller
from mmkd.distillers.record import StepRecord
from mmkd.hooks import DistillMonitorHook, DistillVisualizationHook, monitor
from mmkd.hooks.monitor import PREFIX

MONITOR = dict(type='mmkd.DistillMonitorHook', interval=3)
LOSSES = dict(ckd=CKD | dict(weight=2.0), pkd=dict(type='mmkd.PKDLoss', weight=0.5))


class FakeRunner:
    """As much of a runner as the monitor reads between two steps."""

    def __init__(self, model: nn.Module, scaler: Any = None) -> None:
        fresh_hub(iter=0, epoch=0, max_iters=8, max_epochs=2)
        self.model = model
        self.iter = 0
        self.message_hub = MessageHub.get_current_instance()
        self.optim_wrapper = type('OptimWrapper', (), {'loss_scaler': scaler})()

    def step(self, hook: DistillMonitorHook, **data: Any) -> dict[str, Tensor]:
        hook.before_train_iter(self, batch_idx=self.iter)  # type: ignore[arg-type]
        with mmdet_scope():
            losses = self.model(**data, mode='loss')
        self.iter += 1
        return losses

    @property
    def numbers(self) -> dict[str, float]:
        return {
            key.removeprefix(PREFIX): float(buffer.current())
            for key, buffer in self.message_hub.log_scalars.items()
            if key.startswith(PREFIX)
        }


def small_batch() -> dict[str, Any]:
    return batch(size=64, num_classes=NUM_CLASSES)


def alike(losses: Any) -> Distiller:
    """Student and teacher with the same weights; they differ in training, by the student's batch normalisation."""
    model = distiller(student_model(), student_model(), losses, teacher_options=dict(fuse=False))
    model.teacher.model.load_state_dict(model.student.state_dict(), strict=False)
    return model


def measured(model: Distiller, **options: Any) -> tuple[dict[str, float], dict[str, Tensor], Any]:
    """The monitor's numbers of one step, the step's losses and its record."""
    records: list[StepRecord] = []
    runner = FakeRunner(model, options.pop('scaler', None))
    hook = DistillMonitorHook(interval=1, **options)
    hook.before_train(runner)  # type: ignore[arg-type]
    model.observe_next_step(records.append)
    losses = runner.step(hook, **small_batch())
    return runner.numbers, losses, records[0]


@pytest.mark.parametrize('parameters', ['backbone', 'backbone.layer4', ['backbone', 'neck']])
def test_shares_and_cosines_are_those_of_separate_backward_passes(parameters: Any) -> None:
    model = distiller(student_model(), teacher_model(), LOSSES)
    numbers, losses, _ = measured(model, parameters=parameters)
    prefixes = tuple([parameters] if isinstance(parameters, str) else parameters)
    gradients = {}
    for name in ('ckd', 'pkd', 'task'):
        model.zero_grad()
        if name == 'task':
            own = {key: value for key, value in losses.items() if key in ('loss_cls', 'loss_bbox')}
            total = sum(sum(part) for part in own.values())
        else:
            total = losses[f'loss_{name}']
        total.backward(retain_graph=True)
        parts = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for key, parameter in model.named_parameters()
            if key.startswith(prefixes) and parameter.requires_grad
        ]
        gradients[name] = torch.cat([part.flatten() for part in parts]).double()
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    total_norm = sum(norms.values())
    for name in ('ckd', 'pkd'):
        assert numbers[f'{name}/grad_share'] == pytest.approx(float(norms[name] / total_norm), 1e-4)
        cosine = gradients[name] @ gradients['task'] / norms[name] / norms['task']
        assert numbers[f'{name}/task_cosine'] == pytest.approx(float(cosine), rel=1e-3, abs=1e-5)
    assert numbers['task_grad_share'] == pytest.approx(float(norms['task'] / total_norm), 1e-4)
    assert 0 < numbers['ckd/grad_share'] < 1


def test_values_and_weights_are_those_of_the_step() -> None:
    model = distiller(student_model(), teacher_model(), LOSSES)
    numbers, losses, _ = measured(model)
    assert (numbers['ckd/weight'], numbers['pkd/weight']) == (2.0, 0.5)
    assert numbers['ckd/value'] == pytest.approx(float(losses['loss_ckd']) / 2)
    assert numbers['pkd/value'] == pytest.approx(float(losses['loss_pkd']) / 0.5)


def test_agreement_is_counted_on_the_samples_of_the_loss() -> None:
    model = alike(LOSSES)
    class_weights = model.bbox_head.retina_cls.weight.data
    noise = torch.randn(class_weights.shape, generator=torch.Generator().manual_seed(1))
    class_weights += 0.01 * noise  # enough to agree in some samples only
    numbers, _, record = measured(model)
    (pairs,) = record.step.ask(model.distill_losses['ckd'].requests()[0])
    student, teacher = pairs.student.detach().double(), pairs.teacher.double()
    agreed = sum(int(s.argmax()) == int(t.argmax()) for s, t in zip(student, teacher, strict=True))
    assert numbers['ckd/top1_agreement'] == pytest.approx(agreed / len(pairs))

    student, teacher = student - student.mean(1, True), teacher - teacher.mean(1, True)
    won = 0
    for i in range(len(pairs)):
        cosines = torch.cosine_similarity(teacher[i], student, dim=1)
        one_object = (pairs.object_groups == pairs.object_groups[i]) & (pairs.object_groups >= 0)
        rivals = [j for j in range(len(pairs)) if j != i and not one_object[j]]
        won += bool((cosines[i] > cosines[rivals]).all())
    assert 0 < won < len(pairs)
    assert numbers['ckd/matching_accuracy'] == pytest.approx(won / len(pairs))
    assert not {'pkd/top1_agreement', 'pkd/matching_accuracy'} & numbers.keys()


def test_samples_that_ckd_takes_for_one_object_do_not_compete() -> None:
    """Here all that overlap at all."""
    numbers, pairs = {}, {}
    for iou in (None, 0.0):
        model = alike(dict(ckd=CKD | dict(mask_iou=iou)))
        class_weights = model.bbox_head.retina_cls.weight.data
        class_weights += 0.01 * torch.randn(
            class_weights.shape, generator=torch.Generator().manual_seed(1)
        )
        numbers[iou], _, record = measured(model)
        (pairs[iou],) = record.step.ask(model.distill_losses['ckd'].requests()[0])
    found, boxes = pairs[0.0], pairs[0.0].teacher_boxes
    student, teacher = (
        rows.detach() - rows.detach().mean(1, True) for rows in (found.student, found.teacher)
    )
    won = 0
    for i in range(len(found)):
        cosines = torch.cosine_similarity(teacher[i], student, dim=1)
        shared = box_iou(boxes[i : i + 1], boxes)[0] > 0
        one = (found.object_groups == found.object_groups[i]) & (found.object_groups >= 0)
        rivals = ~((shared & (found.image_ids == found.image_ids[i])) | one)
        rivals[i] = False
        won += bool((cosines[i] > cosines[rivals]).all())
    assert numbers[0.0]['ckd/matching_accuracy'] == pytest.approx(won / len(found))
    assert numbers[0.0]['ckd/matching_accuracy'] > numbers[None]['ckd/matching_accuracy']


def test_a_student_equal_to_its_teacher_agrees_in_all() -> None:
    model = alike(dict(ckd=CKD))
    model.student.eval()
    numbers, _, _ = measured(model)
    assert numbers['ckd/top1_agreement'] == 1
    assert numbers['ckd/matching_accuracy'] > 0.9


def test_a_gradient_scalers_factor_changes_no_number() -> None:
    class Scaler:
        def is_enabled(self) -> bool:
            return True

        def get_scale(self) -> float:
            return 65536.0

    model = distiller(student_model(), teacher_model(), LOSSES)
    assert measured(model, scaler=Scaler())[0] == pytest.approx(measured(model)[0], rel=1e-4)


def test_what_is_no_longer_measured_leaves_the_log() -> None:
    losses = dict(LOSSES, ckd=CKD | dict(weight=dict(type='Stop', at=1)))
    model = distiller(student_model(), teacher_model(), losses)
    runner, hook = FakeRunner(model), DistillMonitorHook(interval=1)
    runner.step(hook, **small_batch())
    assert 'ckd/task_cosine' in runner.numbers
    runner.message_hub.update_info('iter', 4)
    runner.step(hook, **small_batch())
    assert runner.numbers.keys() == {
        'ckd/weight',
        'pkd/weight',
        'pkd/value',
        'pkd/grad_share',
        'pkd/task_cosine',
        'task_grad_share',
    }
    assert runner.numbers['ckd/weight'] == 0


def test_recomputed_activations_are_left_alone() -> None:
    model = distiller(student_model(backbone__with_cp=True), teacher_model(), LOSSES)
    numbers, losses, _ = measured(model)
    assert 'ckd/value' in numbers
    assert not any('grad' in name or 'cosine' in name for name in numbers)
    model.parse_losses(losses)[0].backward()


def test_what_is_before_the_measured_parameters_may_be_recomputed() -> None:
    model = distiller(student_model(backbone__with_cp=True), teacher_model(), LOSSES)
    numbers, losses, _ = measured(model, parameters='neck')
    assert 0 < numbers['ckd/grad_share'] < 1
    model.parse_losses(losses)[0].backward()


def test_compiled_parts_are_measured_too() -> None:
    """They give their memory away in the first backward pass, if nobody says that there is another."""
    model = distiller(student_model(), teacher_model(), LOSSES)
    expected, _, _ = measured(model)
    torch._dynamo.reset()
    model.student.backbone.layer4.compile(backend='aot_eager')
    numbers, losses, _ = measured(model)
    assert numbers == pytest.approx(expected, rel=1e-2, abs=1e-4)
    model.parse_losses(losses)[0].backward()


def test_parameters_that_there_are_not_are_named() -> None:
    model = distiller(student_model(), teacher_model(), LOSSES)
    with pytest.raises(ValueError, match=r'begins with trunk; its parts are .*backbone, neck'):
        measured(model, parameters='trunk')


def test_several_processes_measure_only_what_all_of_them_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = FakeRunner(distiller(student_model(), teacher_model(), LOSSES))
    for parameters in ('bbox_head', ['backbone', 'neck.fpn_convs']):
        DistillMonitorHook(parameters=parameters).before_train(runner)  # type: ignore[arg-type]
    monkeypatch.setattr(monitor, 'get_world_size', lambda: 2)
    DistillMonitorHook(parameters=['backbone', 'neck.fpn_convs']).before_train(runner)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='bbox_head may have no part in the step of one process'):
        DistillMonitorHook(parameters='bbox_head').before_train(runner)  # type: ignore[arg-type]


def test_a_plain_model_is_refused() -> None:
    runner = FakeRunner(distiller(student_model(), teacher_model(), {}).student)
    with pytest.raises(ValueError, match=r'but the model is a plain RetinaNet: take the hook out'):
        DistillMonitorHook().before_train(runner)  # type: ignore[arg-type]


def test_ddp_does_not_notice(tmp_path: Path) -> None:
    """The extra backward passes do not set off its reduction, which would be ready twice then."""
    dist.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        gradients = []
        for observed in (False, True):
            model = distiller(student_model(), teacher_model(), LOSSES)
            wrapped = MMDistributedDataParallel(model)
            runner = FakeRunner(wrapped)
            hook = DistillMonitorHook(interval=1 if observed else 99)
            hook.before_train(runner)  # type: ignore[arg-type]
            for _ in range(2):
                model.zero_grad()
                losses = runner.step(hook, **small_batch())
                model.parse_losses(losses)[0].backward()
            assert bool(runner.numbers) is observed
            gradients.append(gradient(model))
        assert torch.equal(*gradients)
    finally:
        dist.destroy_process_group()


# ---- whole runs


@pytest.fixture(scope='module')
def monitored(run_with: Callable[..., Any]) -> Any:
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    return run_with(MONITOR, visualizer__vis_backends=backends)


def test_training_is_the_same_with_and_without_the_monitor(
    monitored: Any, without_hooks: Any
) -> None:
    assert same(monitored.weights, without_hooks.weights)


def test_only_every_nth_iteration_is_measured(
    monitored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = monitored.runner.message_hub.get_scalar(f'{PREFIX}ckd/value')
    assert len(buffer.data[0]) == 8 // 3
    backward_passes: list[int] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **options: Any) -> Any:
        backward_passes.append(runner.iter)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, 'grad', counted)
    runner = FakeRunner(distiller(student_model(), teacher_model(), LOSSES))
    hook = DistillMonitorHook(interval=3)
    for _ in range(4):
        runner.step(hook, **small_batch())
    assert backward_passes == [2, 2, 2], 'the task and two losses, in the third iteration'


def test_the_numbers_are_in_the_local_files_and_in_tensorboard(monitored: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = monitored.work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    logged = [line for line in lines if 'distill/ckd/grad_share' in line]
    assert [line['step'] for line in logged] == [3, 4, 5, 6, 7, 8]
    assert logged[0]['distill/ckd/weight'] == 2.0
    (events,) = monitored.work_dir.glob('*/vis_data/events*')
    accumulator = EventAccumulator(str(events)).Reload()
    wanted = {
        f'distill/{name}'
        for name in ('ckd/matching_accuracy', 'ckd/task_cosine', 'pkd/grad_share', 'pkd/value')
    }
    assert wanted <= set(accumulator.Tags()['scalars'])
    assert isinstance(monitored.runner, Runner)


@pytest.mark.parametrize('hook', [DistillMonitorHook, DistillVisualizationHook])
def test_an_interval_of_nothing_is_refused(hook: Any) -> None:
    with pytest.raises(ValueError, match=rf'{hook.__name__}\.interval is 0'):
        hook(interval=0)
