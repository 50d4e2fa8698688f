"""Time the steps of a recipe: the plain student, the teacher alone, the student with each loss and with all.

    mmkd benchmark configs/ckd/retinanet_r101_r50.py --size 320 --batch 2
    mmkd benchmark RECIPE --device cuda --amp --size 800 1333 --out speed.json

Images, boxes and labels are made up, the teacher is untrained. A step is the forward and the backward pass of the
student, without an optimizer; every loss has the weight 1 if its own follows a schedule. Losses that a stored teacher
can answer are timed with one, too, of these images. All sides are in one process
and take turns, step by step, so that other work on the machine meets all alike: ratios of the medians mean something
where seconds do not. On the CPU `cpu_seconds` is the time that the cores spent on this process. On a GPU there is the
wall clock alone, and the peak memory beyond the weights. See docs/speed.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os.path as osp
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement

from mmkd.distillers import Distiller
from mmkd.distillers.storing import kept_of, pair_key
from mmkd.registry import MODELS
from mmkd.structures import NECK, Features, Request
from mmkd.structures import TEACHER as ONLY_TEACHER
from mmkd.teachers.frozen import build_network, load_config
from mmkd.teachers.store import Manifest, write_shard
from mmkd.teachers.stored import wanted
from mmkd.utils import (
    CfgOptions,
    PreflightError,
    add_recipe_arguments,
    merge,
    read_config,
    report_missing,
)
from mmkd.utils.recipe import make_recipe

PLAIN, TEACHER, TO_NECK = 'plain step', 'teacher', 'teacher to the neck'
ALL = 'all losses'
STORED = ', stored'
MIB = 2**20


def main(argv: Sequence[str]) -> int:
    """Measure; return the exit code."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        cfg = read_config(args.recipe)
        if args.teacher or args.losses:
            make_recipe(cfg, args.teacher, args.losses, untrained=True)
        merge(cfg, args.cfg_options or {})
    except PreflightError as error:
        return report_missing(error, 'none')
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    report = measure(cfg, args)
    text = json.dumps(report, indent=1)
    if args.out:
        Path(args.out).write_text(text + '\n')
    print(table(report))
    return 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='mmkd benchmark',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', help='config of a distillation, or of a plain student')
    add_recipe_arguments(parser)
    parser.add_argument(
        '--size', type=int, nargs='+', default=[320], help="the images' height and width in pixels"
    )
    parser.add_argument('--batch', type=int, default=2, help='images of a step')
    parser.add_argument('--objects', type=int, default=8, help='boxes of an image')
    parser.add_argument('--steps', type=int, default=11, help='timed steps of each side')
    parser.add_argument('--warm-up', type=int, default=2, help='steps of each side before these')
    parser.add_argument('--threads', type=int, default=1, help='threads of PyTorch on the CPU')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    parser.add_argument('--amp', action='store_true', help='under autocast, as `train.py --amp`')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the recipe: KEY=VALUE',
    )
    return parser.parse_args(argv)


def measure(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every side, and ratios of their medians."""
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as stores:
        sides, to_neck = build_sides(cfg, args, device, Path(stores))
        readings: dict[str, list[Reading]] = {name: [] for name in sides}
        for _ in range(args.warm_up + args.steps):
            for name, side in sides.items():
                readings[name].append(timed(side, device))
    result = {
        name: {
            key: statistics.median(reading[key] for reading in taken[args.warm_up :])
            for key in taken[0]
        }
        for name, taken in readings.items()
    }
    return dict(
        recipe=args.recipe,
        options=args.cfg_options or {},
        size=args.size,
        batch=args.batch,
        device=str(device) if device.type == 'cpu' else torch.cuda.get_device_name(device),
        amp=args.amp,
        threads=args.threads,
        steps=args.steps,
        teacher_mib=teacher_mib(cfg),
        torch=torch.__version__,
        sides=result,
        ratios=ratios(result, to_neck),
    )


def teacher_mib(cfg: Config) -> float | None:
    """Size of the teacher's weights in float32."""
    config = (cfg.model.get('teacher') or {}).get('config')
    if config is None:
        return None
    return mib_of(build_network(load_config(config)).state_dict().values())


Reading = dict[str, float]
Side = Callable[[], None]


def build_sides(
    cfg: Config, args: argparse.Namespace, device: torch.device, stores: Path
) -> tuple[dict[str, Side], set[str]]:
    """What is timed, by name; and the names of those whose losses compare features up to the neck only.

    Args:
        cfg: The recipe.
        args: The command line.
        device: Where it is timed.
        stores: Folder for stored teachers.
    """
    options = cfg.model.to_dict()
    student_config, losses = options['student'], options.pop('losses')
    if 'data_preprocessor' in cfg:
        student_config = {'data_preprocessor': cfg.data_preprocessor, **student_config}
    torch.manual_seed(0)
    student = MODELS.build(student_config).to(device).train()
    batch = made_up_batch(student, args)

    def step_of(model: Any) -> Side:
        return lambda: take_step(model, *batch, amp=args.amp)

    sides: dict[str, Side] = {PLAIN: step_of(student)}
    if 'teacher' in options:
        teacher_config = load_config(options['teacher']['config'])
        teacher = build_network(teacher_config).to(device).eval()

        @torch.no_grad()
        def to_the_head() -> None:
            with (
                DefaultScope.overwrite_default_scope(teacher_config.get('default_scope')),
                torch.autocast(device.type, enabled=args.amp),
            ):
                teacher(*batch, mode='tensor')

        @torch.no_grad()
        def to_the_neck() -> None:
            with torch.autocast(device.type, enabled=args.amp):
                teacher.extract_feat(batch[0])

        sides |= {TEACHER: to_the_head, TO_NECK: to_the_neck}
    choices = {f'with {name}': {name: loss} for name, loss in losses.items()}
    if len(losses) > 1:
        choices[ALL] = losses
    to_neck = set()
    for name, chosen in choices.items():
        distiller = build_distiller(options, chosen, student_config).to(device).train()
        sides[name] = step_of(distiller)
        requests = [
            request for loss in distiller.distill_losses.values() for request in loss.requests()
        ]
        if all(ends_at_neck(request) for request in requests):
            to_neck.add(name)
        store = stores / str(len(sides))
        if store_holds(distiller) and 'config' in options['teacher']:
            whole, read = (
                dict(options, teacher=dict(options['teacher'], **option))
                for option in (dict(fuse=False), dict(store=str(store)))
            )
            distiller = build_distiller(whole, chosen, student_config).to(device).train()
            write_store(distiller, options['teacher']['config'], batch, store)
            distiller = build_distiller(read, chosen, student_config).to(device).train()
            sides[name + STORED] = step_of(distiller)
    return sides, to_neck


def store_holds(distiller: Distiller) -> bool:
    """Whether a stored teacher can answer all that the losses ask."""
    holding, problems = wanted(distiller.requests_of(ONLY_TEACHER), distiller.sources)
    return holding is not None and not problems


def write_store(
    distiller: Distiller, config: Any, batch: tuple[torch.Tensor, list[Any]], out: Path
) -> None:
    """Keep what the teacher, of this config, says of the batch."""
    inputs, samples = batch
    for number, sample in enumerate(samples):
        sample.set_metainfo(dict(sample_index=number, view=0))
    holding, _ = wanted(distiller.requests_of(ONLY_TEACHER), distiller.sources)
    assert holding is not None
    key = pair_key(distiller, config, None)
    shard = write_shard(out, 0, 0, kept_of(distiller, inputs, samples, holding), key)
    Manifest(key, holding, len(samples), 1, [shard]).save(out)


def build_distiller(
    options: Mapping[str, Any], losses: Mapping[str, Any], student: Mapping[str, Any]
) -> Distiller:
    """The recipe's distiller with some of its losses and untrained teachers."""
    options = {key: value for key, value in options.items() if key != 'type'}
    losses = {
        name: dict(
            loss, weight=loss['weight'] if isinstance(loss.get('weight'), float | int) else 1.0
        )
        for name, loss in losses.items()
    }
    torch.manual_seed(0)  # the same teacher each time
    untrained = {'checkpoint': 'random_init'}
    if 'teacher' in options and 'config' in options['teacher']:
        options['teacher'] = {**options['teacher'], **untrained}
    for name, teacher in options.get('teachers', {}).items():
        if 'checkpoint' in teacher:
            options['teachers'][name] = {**teacher, **untrained}
    return Distiller(**{**options, 'student': student, 'losses': losses})


def ends_at_neck(request: Request[Any]) -> bool:
    """Whether the head of the teacher is not needed."""
    if not isinstance(request, Features):
        return False
    path = request.at if request.teacher_at is None else request.teacher_at
    return path == NECK or path.split('.')[0] in ('backbone', 'neck')


def made_up_batch(student: Any, args: argparse.Namespace) -> tuple[torch.Tensor, list[Any]]:
    """Pixels and data samples as the student's data preprocessor gives them."""
    height, width = args.size[0], args.size[-1]
    if hasattr(student, 'head'):
        from mmpretrain.structures import DataSample

        samples: list[BaseDataElement] = [
            DataSample(metainfo=dict(img_shape=(height, width), sample_index=image)).set_gt_label(
                image % 2
            )
            for image in range(args.batch)
        ]
        return torch.randn(args.batch, 3, height, width, device=args.device), samples
    from mmdet.testing import demo_mm_inputs

    packed = demo_mm_inputs(
        batch_size=args.batch,
        image_shapes=[(3, height, width)] * args.batch,
        num_items=[args.objects] * args.batch,
        num_classes=2,
        with_mask=getattr(student, 'with_mask', False),
        device=args.device,
    )
    data = student.data_preprocessor(packed, True)
    return data['inputs'], data['data_samples']


def take_step(model: Any, inputs: torch.Tensor, samples: list[Any], amp: bool = False) -> None:
    """Forward and backward pass, without an optimizer."""
    # Not `enabled=amp`, which would switch off what is on around this.
    with torch.autocast(inputs.device.type) if amp else nullcontext():
        total, _ = model.parse_losses(model.loss(inputs, samples))
    total.backward()
    model.zero_grad()


def mib_of(tensors: Iterable[torch.Tensor]) -> float:
    """The memory that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def timed(side: Side, device: torch.device) -> Reading:
    """Seconds and, on a GPU, memory of one call."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    wall, cpu = time.perf_counter(), time.process_time()
    side()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        peak = (torch.cuda.max_memory_allocated(device) - held) / MIB
        return dict(wall_seconds=time.perf_counter() - wall, peak_mib=peak)
    return dict(wall_seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


def ratios(sides: Mapping[str, Reading], to_neck: set[str]) -> dict[str, dict[str, float]]:
    """Each distilled step over the plain step, and over plain step and plain teacher together.

    The teacher counts up to the neck where the losses compare no more.
    """
    (clock,) = {'cpu_seconds', 'wall_seconds'} & sides[PLAIN].keys() - (
        {'wall_seconds'} if 'cpu_seconds' in sides[PLAIN] else set()
    )
    plain = sides[PLAIN][clock]
    found = {}
    for name, side in sides.items():
        if name in (PLAIN, TEACHER, TO_NECK):
            continue
        found[name] = dict(of_plain_step=side[clock] / plain)
        if TEACHER in sides and not name.endswith(STORED):
            teacher = sides[TO_NECK if name in to_neck else TEACHER][clock]
            found[name]['of_step_and_teacher'] = side[clock] / (plain + teacher)
    return found


def table(report: Mapping[str, Any]) -> str:
    """The report as a table in Markdown."""
    columns = list(report['sides'][PLAIN])
    heads = [column.replace('_', ' ') for column in columns]
    lines = [
        f'| {osp.splitext(report["recipe"])[0]} | '
        + ' | '.join(heads)
        + ' | / plain step | / (step + teacher) |',
        '|---|' + '---:|' * (len(columns) + 2),
    ]
    for name, side in report['sides'].items():
        found = report['ratios'].get(name, {})
        cells = [f'{side[column]:.3f}' for column in columns]
        cells += [
            f'{found[key]:.3f}' if key in found else ''
            for key in ('of_plain_step', 'of_step_and_teacher')
        ]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    if report['teacher_mib'] is not None:
        lines.append(f'\nThe weights of the teacher: {report["teacher_mib"]:.0f} MiB.')
    return '\n'.join(lines)
