"""Say what a training by a recipe would do, from three steps of it on this machine.

    mmkd check mmkd::ckd/retinanet_r101_r50.py

The steps are taken on the recipe's images, or on made-up ones where these are not there. Nothing is written. The exit
code is 2 if the training could not start.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MessageHub
from mmengine.runner import autocast
from torch import Tensor, nn

from mmkd.cli.benchmark import MIB, made_up_batch, mib_of, take_step, timed
from mmkd.distillers import Distiller
from mmkd.distillers.record import StepRecord
from mmkd.hooks import DistillMonitorHook, StartReportHook, TeacherStoreHook
from mmkd.losses import DistillLoss
from mmkd.losses.gradient_shares import NAME as SHARES
from mmkd.structures import BoxPairs, LogitPairs, Progress
from mmkd.teachers import RANDOM_INIT, FrozenTeacher
from mmkd.teachers.labels import metainfo_of
from mmkd.teachers.stored import wanted
from mmkd.utils import (
    PreflightError,
    add_common_arguments,
    add_recipe_arguments,
    add_schedule_argument,
    build_runner,
    check_before_training,
    is_distiller,
    load_config,
    positive_number,
    prepare_cpu,
    quiet_logger,
    quiet_packages,
    report_missing,
    setting_at_fault,
)
from mmkd.utils.student_config import teacher_configs

MADE_UP = 'made up, as the data are not there'
FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Points of a run at which the steps may be taken: the first one at which most losses have a weight."""
SMALL_SHARE, LARGE_SHARE = 0.01, 0.9
"""Shares of the gradient below and above which a loss is warned of."""

OF_WORKERS = ('prefetch_factor', 'timeout', 'multiprocessing_context')
"""Options of a data loader that it takes with processes of its own only."""

DATA = ('data:', 'train_dataloader', 'val_dataloader', 'val_evaluator')
"""What problems of the data begin with."""

Batch = tuple[Tensor, list[Any]]


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='mmkd check',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='the recipe, or the config of a plain student')
    parser.add_argument(
        '--steps', type=positive_number, default=3, help='steps that are taken (default: 3)'
    )
    parser.add_argument(
        '--batch-size', type=positive_number, help="images of a step; default: the recipe's"
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        default=[320],
        help='height and width of made-up images (default: 320)',
    )
    add_recipe_arguments(parser)
    add_schedule_argument(parser)
    add_common_arguments(parser)
    parser.set_defaults(work_dir=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Check; return the exit code: 0, or 2 if training could not start."""
    args = parse_args(argv)
    try:
        cfg = load_config(args)
        if not cfg.get('train_dataloader'):
            raise PreflightError('config: no train_dataloader, whose batches the steps would take')
        if not is_distiller(cfg.model) or not cfg.model.get('losses'):
            raise PreflightError(
                'config: no distillation: give a recipe, or --teacher and --losses with a plain config'
            )
    except PreflightError as error:
        return report_missing(error, args.launcher)
    quiet_packages(cfg.get('default_scope'))
    problems: list[str] = []
    try:
        check_before_training(cfg)
    except PreflightError as error:
        problems = error.problems
    try:
        # What the stack says while it is built would fill the screen; its warnings are kept.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as log:
            cfg.work_dir = folder
            lines, warnings = look(cfg, args, problems)
        logged = [line.partition(' - WARNING - ')[2] for line in log.getvalue().splitlines()]
        warnings += filter(None, logged)
    except Exception as error:
        problem = setting_at_fault(error) or f'{type(error).__name__}: {error}'
        said = {each.partition(':')[0] for each in problems}
        new = [problem] if problem.partition(':')[0] not in said else []
        return report_missing(PreflightError(*problems, *new), args.launcher)
    width = max(map(len, lines))
    print('\n'.join(f'{name:{width}}  {text}' for name, text in lines.items()))
    for warning in warnings:
        print(f'warning: {warning}')
    if problems:
        print(PreflightError(*problems), file=sys.stderr)
        return 2
    return 0


@dataclass
class Measured:
    """What steps of one kind cost.

    Attributes:
        seconds: Of each step.
        mib: Of memory: on a GPU the peak beyond the weights, on the CPU what is kept for the backward pass.
    """

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)


def look(
    cfg: Config, args: argparse.Namespace, problems: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Take the steps; what was found, by name, and what is to be warned of.

    Args:
        cfg: The recipe. It is changed.
        args: The command line.
        problems: What training lacks: those of the teachers make them random, those of the data the images made up.
    """
    lacks_teacher = [problem for problem in problems if problem.startswith('model.teacher')]
    made_up = any(problem.startswith(DATA) for problem in problems)
    for teacher in teacher_configs(cfg.model).values():
        if lacks_teacher and 'checkpoint' in teacher:
            teacher.checkpoint = RANDOM_INIT
        # It holds nothing of made-up images, and nothing of a random teacher.
        if (made_up or lacks_teacher) and teacher.pop('store', None):
            teacher.pop('store_miss', None)
    names, loop_cfg, wrapper = metainfo_of(cfg), cfg.train_cfg, cfg.get('optim_wrapper') or {}
    mixed = getattr(wrapper.get('type'), '__name__', wrapper.get('type')) == 'AmpOptimWrapper'
    dtype = getattr(torch, str(wrapper.get('dtype')).removeprefix('torch.'), None)
    batch_size = args.batch_size or cfg.train_dataloader.get('batch_size') or 1
    prepare(cfg, made_up, batch_size)
    runner = build_runner(cfg)
    quiet_logger(runner.logger)
    model = runner.model
    if not problems:
        model.init_weights()
    model.train()
    if made_up:
        device = next(model.parameters()).device
        options = argparse.Namespace(size=args.size, batch=batch_size, objects=8, device=device)
        batches: Iterator[Batch] = itertools.repeat(made_up_batch(model.student, options))
        length, number, images = 1000, 0, f'{batch_size} images, {MADE_UP}'
    else:
        loop = runner.train_loop
        names, length = loop.dataloader.dataset.metainfo, len(loop.dataloader)
        batches = (unpacked(model, data) for data in itertools.cycle(loop.dataloader))
        number = len(loop.dataloader.dataset)
        images = f'{batch_size} images of {number}'
    hub = MessageHub.get_current_instance()
    hub.update_info('dataset_meta', names)
    if not made_up:
        TeacherStoreHook().before_train(runner)
    lines, warnings = StartReportHook().report(runner)
    fraction = set_progress(model, loop_cfg, length)
    first = hub.get_info('iter')
    records: list[tuple[StepRecord, dict[str, float]]] = []
    monitor = DistillMonitorHook(parameters=first_trained(model.student))
    unmeasured = monitor.prepare(model)
    distilled, plain = Measured(), Measured()
    with autocast(dtype=dtype, enabled=mixed):
        for inputs, samples in itertools.islice(batches, args.steps):
            model.observe_next_step(
                lambda record: records.append((record, monitor.measure(model, record)))
            )
            take_step(model, inputs, samples)
            # Most steps of a training measure no share of the gradient: neither does this one.
            hub.update_info('iter', first + 3 * (SHARES in model.distill))
            measure(model, inputs, samples, distilled)
            measure(model.student, inputs, samples, plain)
            hub.update_info('iter', first)
    if not records:
        raise ValueError(
            f'train_dataloader: it gives no batch of {batch_size} images: lower batch_size, leave drop_last out, or '
            'look at what the data set filters out'
        )
    where = f'{get_device()}{" with mixed precision" * mixed}'
    head = f'{args.steps} steps of {images}, on {where}, {fraction:.0%} into the run'
    lines = {'check': head} | lines
    for name in model.distill_losses:
        text, concerns = of_loss(model, name, records)
        lines[f'loss_{name}'] += text
        warnings += concerns
    lines |= cost(distilled, plain, model) | storable(model, inputs, samples, number)
    if unmeasured:
        warnings.append(f'gradients are not measured: {unmeasured}')
    if lacks_teacher:
        warnings.append("the teacher's weights are random here: shares and cosines will be others")
    return lines, warnings


def prepare(cfg: Config, made_up: bool, batch_size: int) -> None:
    """Leave out of a config what the steps do not need."""
    prepare_cpu(cfg)
    cfg.log_level = 'WARNING'
    cfg.visualizer = None
    cfg.custom_hooks = []
    cfg.train_dataloader.batch_size = batch_size
    for name in ('train_dataloader', 'val_dataloader'):
        if cfg.get(name):
            cfg[name].update(num_workers=0, persistent_workers=False)
            for option in OF_WORKERS:
                cfg[name].pop(option, None)
    for name in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg[name] = None
    loops = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler')
    for name in (*loops, 'val_dataloader', 'val_cfg', 'val_evaluator') if made_up else ():
        cfg[name] = None


def first_trained(student: nn.Module) -> str:
    """The first part of a student that is not frozen: the gradients of what is behind it reach it."""
    return next(
        (
            name
            for name, part in student.named_children()
            if any(parameter.requires_grad for parameter in part.parameters())
        ),
        'backbone',
    )


def unpacked(model: Any, data: Any) -> Batch:
    """A batch of a data loader as the student takes it."""
    data = model.data_preprocessor(data, True)
    return data['inputs'], data['data_samples']


def set_progress(model: Distiller, loop: Mapping[str, Any], epoch_length: int) -> float:
    """Go to a point of the run where the losses have a weight; which fraction of the run it is."""
    epochs = loop.get('max_epochs')
    iterations = loop.get('max_iters') or (epochs or 1) * epoch_length
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', iterations)
    hub.update_info('max_epochs', epochs or 1)

    def active(fraction: float) -> int:
        hub.update_info('iter', int(fraction * iterations))
        hub.update_info('epoch', int(fraction * (epochs or 1)))
        progress = Progress.current()
        return sum(loss.weight(progress) != 0 for loss in model.distill_losses.values())

    best = max(FRACTIONS, key=active)
    active(best)
    return best


def measure(model: nn.Module, inputs: Tensor, samples: list[Any], into: Measured) -> None:
    """Time one step, and see what memory it takes."""
    reading = timed(lambda: take_step(model, inputs, samples), inputs.device)
    into.seconds.append(reading['wall_seconds'])
    if 'peak_mib' in reading:
        into.mib.append(reading['peak_mib'])
    elif not into.mib:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            take_step(model, inputs, samples)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        into.mib.append(sum(size for at, size in kept.items() if at not in weights) / MIB)


def of_loss(
    model: Distiller, name: str, records: Sequence[tuple[StepRecord, dict[str, float]]]
) -> tuple[str, list[str]]:
    """What the steps say of one loss, and what is to be warned of."""
    found = [(record, numbers) for record, numbers in records if name in record.values]
    if not found:
        return '; no weight at this point of the run', []

    def mean(what: str) -> float | None:
        values = [each[f'{name}/{what}'] for _, each in found if f'{name}/{what}' in each]
        return statistics.fmean(values) if values else None

    samples = statistics.fmean(
        samples_of(model.distill_losses[name], record) for record, _ in found
    )
    text = f'; {samples:.4g} samples per image' if samples else ''
    text += f'; value {mean("value"):.3g}'
    share, cosine = mean('grad_share'), mean('task_cosine')
    warnings = []
    if share is not None:
        text += f', {share:.1%} of the gradient'
        if not SMALL_SHARE <= share <= LARGE_SHARE:
            effect = 'hardly changes it' if share < SMALL_SHARE else "drowns the student's own loss"
            warnings.append(
                f'loss_{name} has {share:.1%} of the gradient and {effect}: change model.losses.{name}.weight'
            )
    if cosine is not None:
        text += f", cosine {cosine:.2f} with that of the student's own loss"
        if cosine < 0:
            warnings.append(
                f"loss_{name} works against the student's own loss on these images: cosine {cosine:.2f}"
            )
    return text, warnings


def samples_of(loss: DistillLoss, record: StepRecord) -> float:
    """Samples per image that a loss compares; 0 where it compares maps."""
    step = record.step
    assert step is not None
    return sum(
        len(answer)
        for request in loss.requests()
        for answer in step.answers.get(request, [])
        if isinstance(answer, LogitPairs | BoxPairs)
    ) / len(step.data_samples)


def cost(distilled: Measured, plain: Measured, model: Distiller) -> dict[str, str]:
    """Seconds and memory of a step, beside those of the plain student's."""
    ours, theirs = statistics.median(distilled.seconds), statistics.median(plain.seconds)
    weights = sum(
        mib_of(teacher.model.parameters())
        for teacher in model.teachers.values()
        if isinstance(teacher, FrozenTeacher) and not teacher.released
    )
    what = 'at the peak' if next(model.parameters()).is_cuda else 'kept for the backward pass'
    memory = f'{max(distilled.mib):.0f} MiB {what}, {max(plain.mib):.0f} of the plain student'
    return {
        'step': f"{ours:.3g} s, {ours / theirs:.2f} times the plain student's {theirs:.3g} s",
        'memory': f'{memory}; and {weights:.0f} MiB of weights of teachers',
    }


def storable(model: Distiller, inputs: Tensor, samples: list[Any], images: int) -> dict[str, str]:
    """What `mmkd cache` could keep of each teacher, and its size for one view of the data set's ``images``."""
    lines = {}
    for name, teacher in model.teachers.items():
        if not isinstance(teacher, FrozenTeacher) or teacher.released:
            continue
        of = f' of {name}' if len(model.teachers) > 1 else ''
        asked, problems = wanted(model.requests_of(name), model.sources)
        text = [f'not for {loss}: {reason}' for loss, reason in problems.items()]
        if asked is not None:
            with torch.no_grad():
                rows = model.teacher_rows(inputs, samples, asked, name)
            each = mib_of(part for row in rows for part in row.values()) / len(rows)
            total = f', {each * images:.1f} MiB for a view of all' if images else ''
            text.insert(0, f'{asked}: {each * 1024:.1f} KiB for each image and view{total}')
        lines[f'store{of}'] = '; '.join(text)
    return lines
