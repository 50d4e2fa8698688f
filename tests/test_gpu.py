"""What only a GPU can show, on the tiny RetinaNet; ``tools/gpu_check.sh`` runs this and what takes full-size images.

With ``MMKD_TEST_DEVICE=cpu`` all that a CPU can do of it runs there: so the tests themselves are tried without a GPU.
"""

from __future__ import annotations

import copy
import os
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import query_models
import torch
import training_runs
import zoo
from mmengine.optim import AmpOptimWrapper
from tiny import NUM_CLASSES, fresh_hub, student_model, teacher_model, teacher_options
from torch import Tensor

from mmkd.distillers import Distiller

pytestmark = pytest.mark.gpu

LOSSES = dict(
    ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=16), mask_iou=0.5),
    qfl=dict(type='mmkd.QFLKDLoss'),
    pkd=dict(type='mmkd.PKDLoss', weight=dict(type='mmkd.GradientShare', share=0.2)),
    cwd=dict(type='mmkd.CWDLoss', at='class_maps'),
    giou=dict(type='mmkd.BoxGIoULoss', samples=dict(type='mmkd.TeacherTopK', k=16)),
)
LAST = 'iter_12.pth'
KILLED = -9


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    """Convolutions of all 24 bits, so that tolerances are those of rounding."""
    fresh_hub()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def device() -> str:
    return os.environ.get('MMKD_TEST_DEVICE', 'cuda')


@pytest.fixture
def cuda(device: str) -> str:
    if device != 'cuda':
        pytest.skip('PyTorch has this for CUDA only')
    return device


def batch(device: str) -> dict[str, Any]:
    data = zoo.batch(size=96, num_classes=NUM_CLASSES)
    samples = [sample.to(device) for sample in data['data_samples']]
    return dict(inputs=data['inputs'].to(device), data_samples=samples)


def retinanet(device: str, **options: Any) -> Distiller:
    torch.manual_seed(0)
    with zoo.mmdet_scope():
        model = Distiller(
            student=student_model(),
            teacher=teacher_options(teacher_model()),
            losses=LOSSES,
            **options,
        )
        model.init_weights()
    for network in (model.student, model.teacher.model):  # logits that differ, as trained ones do
        network.bbox_head.retina_cls.weight.data.mul_(50)
    return model.to(device).train()


def step(
    model: Distiller, data: dict[str, Any], context: AbstractContextManager[Any] | None = None
) -> dict[str, Tensor]:
    """Losses and the gradient of a step."""
    model.zero_grad()
    with zoo.mmdet_scope(), context or nullcontext():
        losses = model(**copy.deepcopy(data), mode='loss')
        total, values = model.parse_losses(losses)
    total.backward()
    return values | {'gradient': zoo.gradient(model)}


def assert_near(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value - theirs[name]).norm() <= tolerance * theirs[name].norm(), name


# ---- One step


def test_the_device_computes_what_the_cpu_does(device: str) -> None:
    expected = step(retinanet('cpu'), batch('cpu'))
    found = step(retinanet(device), batch(device))
    # Of samples that are nearly equal another one may be picked.
    assert_near({name: value.cpu() for name, value in found.items()}, expected, 1e-2)


def test_half_precision_keeps_losses_and_gradient(device: str) -> None:
    model, data = retinanet(device), batch(device)
    expected = step(model, data)
    found = step(model, data, torch.autocast(device, torch.float16))
    assert all(found[f'loss_{name}'].dtype == torch.float32 for name in LOSSES)
    assert_near(found, expected, 0.05)


def test_channels_last_changes_the_memory_and_not_the_numbers(device: str) -> None:
    model, data = retinanet(device, channels_last=True), batch(device)
    assert_near(step(model, data), step(retinanet(device), data), 1e-3)
    for network in (model.student, model.teacher.model):
        level = network.extract_feat(data['inputs'])[0]
        assert level.is_contiguous(memory_format=torch.channels_last)


def test_compiled_parts_give_the_same(device: str) -> None:
    torch._dynamo.reset()
    options = {} if device == 'cuda' else dict(backend='aot_eager')
    model, data = retinanet(device, compile=options or True), batch(device)
    assert_near(step(model, data), step(retinanet(device), data), 1e-3)


@pytest.mark.parametrize('name', ['DAB-DETR', 'DINO'])
def test_shared_queries_are_answered_on_the_device(device: str, name: str) -> None:
    samples = dict(type='mmkd.SharedQueries', random=7)
    losses = dict(
        ckd=dict(type='mmkd.CKDLoss', samples=samples),
        giou=dict(type='mmkd.BoxGIoULoss', samples=samples),
    )
    model = zoo.distiller(*query_models.models(name), losses=losses).to(device)
    data = query_models.batch()
    data['data_samples'] = [sample.to(device) for sample in data['data_samples']]
    data['inputs'] = data['inputs'].to(device)
    for context in (nullcontext(), torch.autocast(device, torch.bfloat16)):
        found = step(model, data, context)
        assert all(found[f'loss_{loss}'].dtype == torch.float32 for loss in losses)
        assert all(value.isfinite().all() for value in found.values())


def test_overflowing_gradients_are_skipped_and_training_goes_on(cuda: str) -> None:
    model, data = retinanet(cuda), batch(cuda)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scale = dict(init_scale=2.0**30, backoff_factor=2.0**-8)
    wrapper = AmpOptimWrapper(loss_scale=scale, optimizer=optimizer)
    pixels = (data['inputs'] * 40 + 128).clamp(0, 255).byte()
    before = copy.deepcopy(dict(model.named_parameters()))
    steps = 0
    while all(torch.equal(value, before[name]) for name, value in model.named_parameters()):
        steps += 1
        assert steps < 5, 'the scale does not shrink'
        with zoo.mmdet_scope():
            raw = dict(inputs=list(pixels), data_samples=copy.deepcopy(data['data_samples']))
            model.train_step(raw, wrapper)
    assert steps > 1, 'nothing overflowed'
    assert all(value.isfinite().all() for value in model.parameters())


@pytest.fixture
def waits(cuda: str) -> Callable[[Callable[[], Any]], Counter[str]]:
    """Counts the operations of a function that make the host wait for the GPU, by the line that calls them."""

    def count(function: Callable[[], Any]) -> Counter[str]:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode('warn')
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter('always')
                function()
        finally:
            torch.cuda.set_sync_debug_mode('default')
        return Counter(
            f'{Path(each.filename).name}:{each.lineno}'
            for each in found
            if 'synchronizing CUDA operation' in str(each.message)
        )

    return count


def test_a_distilled_step_waits_no_more_than_the_students(
    cuda: str, waits: Callable[[Callable[[], Any]], Counter[str]]
) -> None:
    model, data = retinanet(cuda), batch(cuda)

    def run(loss: Callable[..., Any]) -> Counter[str]:
        samples = copy.deepcopy(data['data_samples'])
        with zoo.mmdet_scope():
            loss(data['inputs'], samples)  # anchors and kernels are made in a first step
            samples = copy.deepcopy(data['data_samples'])
            return waits(lambda: loss(data['inputs'], samples))

    assert waits(lambda: torch.ones(1, device=cuda).item())
    assert not run(model.loss) - run(model.student.loss)


# ---- Runs


def test_a_resumed_run_and_one_process_of_a_group_end_with_the_same_bits(
    tiny_coco: Path, tmp_path: Path
) -> None:
    whole, parts, group = (tmp_path / name for name in ('whole', 'parts', 'group'))
    options = [
        f'data_root={tiny_coco}',
        'train_dataloader.pin_memory=True',
        # Kernels that give the same bits each time: those of pooling, forward and backward, do not.
        'randomness.deterministic=True',
        'model.student.backbone.frozen_stages=0',
        'model.losses.review.type=mmkd.PKDLoss',
    ]
    run: dict[str, Any] = dict(options=options, config='tiny_resume')

    def train(folder: Path, *arguments: str, kill: str = '', **environment: str) -> int:
        environment |= dict(CUBLAS_WORKSPACE_CONFIG=':4096:8')
        return training_runs.train(folder, *arguments, kill=kill, environment=environment, **run)

    assert train(whole) == 0, training_runs.output(whole).read_text()

    assert train(parts, kill='before_train_iter 8') == KILLED
    assert train(parts, '--resume') == 0
    assert training_runs.differing(whole / LAST, parts / LAST) == []

    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    rank = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', LOCAL_WORLD_SIZE='1')
    address = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    assert train(group, '--launcher', 'pytorch', **rank, **address) == 0
    assert training_runs.differing(whole / LAST, group / LAST) == []
