"""Teacher, plain student and distilled students on the embedded data, compared by COCO AP or top-1 accuracy."""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmkd.cli.compare import in_clone
from mmkd.datasets import make_default_set, make_shapes
from mmkd.experiments import Cell, Comparison, Family, class_similarities, run_jobs, say
from mmkd.report import (
    PLAIN,
    TEACHER,
    Objects,
    Scene,
    cell_text,
    choose_scenes,
    draw_report,
    main_column,
    match,
    points,
    read_curve,
    read_predictions,
    read_rows,
    read_scenes,
    table,
)
from mmkd.utils.quiet import quiet_evaluation, quiet_packages

SCORE_THRESHOLD = 0.3
FAMILIES = {'detection': ('retinanet', 'ckd'), 'classification': ('textured', 'ckd', 'aekt')}
"""Of each task the family and its methods."""
SMOKE: dict[str, tuple[dict[str, Any], int]] = {
    'detection': (dict(train=8, val=4), 4),
    'classification': (dict(train=60, val=30), 10),
}
"""Of each task the smallest data and their batch."""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='mmkd quickstart',
        description='Makes the embedded data, trains a plain student and students distilled from a teacher '
        '(detection: by CKD; classification: by CKD and by AEKT) at equal schedule and seed, and compares them on '
        'the test images. What is finished is kept, what was interrupted goes on.',
    )
    add = parser.add_argument
    add('--task', choices=tuple(FAMILIES), default='detection', help='default: detection')
    add(
        '--train-teacher',
        action='store_true',
        help='train the teacher, from nothing, in place of taking the one that comes with the repository',
    )
    add(
        '--work-dir',
        type=lambda text: Path(text).absolute(),
        help='folder for all results (default: work_dirs/quickstart, for classification '
        'work_dirs/quickstart_classification; with --smoke, _smoke is added)',
    )
    add('--jobs', type=int, default=2, metavar='N', help='trainings at a time (default: 2)')
    add(
        '--smoke',
        action='store_true',
        help='only see that all parts work: a few images, one epoch; the numbers mean nothing',
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs: {args.jobs} is not a number from 1 on')
    if args.work_dir is None:
        folder = 'quickstart' + '_classification' * (args.task == 'classification')
        args.work_dir = Path('work_dirs') / (folder + '_smoke' * args.smoke)
    return args


def main(argv: Sequence[str]) -> int:
    """Run it; return the exit code."""
    args = parse_args(argv)
    return in_clone('quickstart', lambda: quickstart(args))


def quickstart(args: argparse.Namespace) -> None:
    """Train and evaluate what is not done, and show the table and the picture."""
    started = time.monotonic()
    name, *methods = FAMILIES[args.task]
    family = Family.all()[name]
    data, options = Path(family.student.data_root), tuple[str, ...]()
    if args.smoke:
        data = Path(f'{data}_smoke')
        counts, batch_size = SMOKE[args.task]
        make_shapes(data, **counts, log=say, task=args.task)
        options = ('train_cfg.max_epochs=1', f'train_dataloader.batch_size={batch_size}')
    else:
        make_default_set(data, log=say)
    comparison = Comparison(
        args.work_dir, args.work_dir / 'results', options, data if args.smoke else None,
        args.train_teacher, validate=True, predictions=True,
    )  # fmt: skip
    cells = [Cell(family, method, 0) for method in (TEACHER, PLAIN, *methods)]
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    run_jobs(comparison.jobs(cells), args.jobs, threads)
    with quiet_evaluation():
        results = report(comparison, cells, 2 if args.smoke else 4)
    say(f'\nOn the test images, after the last epoch:\n\n{results}\n')
    if args.task == 'detection':
        say(f'found: with a score of {SCORE_THRESHOLD} or more, IoU at least 0.5, class right')
    say(f'{time.monotonic() - started:.0f} s; table and picture are in {args.work_dir}')


def report(comparison: Comparison, cells: Sequence[Cell], count: int) -> str:
    """Write the table, and the picture with so many images; return the table."""
    family = cells[0].family
    rows = {row.method: row for row in read_rows(comparison.results, family.name)}
    shown = [column for column in points(rows[TEACHER].metrics) if column != 'AP75']
    metric = f'{main_column(rows[TEACHER].metrics)} on the validation images'
    classes = family.student.get('metainfo', {}).get('classes', ())
    quiet_packages(family.student.default_scope)
    init_default_scope(family.student.default_scope)
    scenes: list[Scene] = []
    detections: dict[str, dict[int, Objects]] = {}
    similarities: dict[str, np.ndarray] = {}
    lines, curves = [], {}
    if family.student.default_scope == 'mmdet':
        dataset = comparison.resolved(cells[1]).test_dataloader.dataset
        scenes = read_scenes(DATASETS.build(copy.deepcopy(dataset)))
    for cell in cells:
        name, row = title(cell), rows[cell.method]
        line = [cell_text(points(row.metrics)[column]) for column in shown]
        if scenes:
            own = read_predictions(comparison.predicted(cell), SCORE_THRESHOLD)
            found = sum(match(own[each.id], each.objects)[1].sum() for each in scenes)
            line.append(f'{found} of {sum(len(each.objects) for each in scenes)}')
            detections[name] = own
        config = (
            Config.fromfile(family.config(TEACHER)) if cell.method == TEACHER else family.student
        )
        parameters = sum(parameter.numel() for parameter in MODELS.build(config.model).parameters())
        time_taken = f'{row.seconds / 60:.1f} min' if row.seconds else 'before'
        lines.append([name, *line, f'{parameters / 1e6:.2f} M', time_taken])
        if cell.method != TEACHER:
            curves[name] = read_curve(comparison.folder(cell))
            teacher, student = class_similarities(
                comparison.resolved(cells[2]), comparison.checkpoint(cell)
            )
            similarities |= {title(cells[0]): teacher, name: student}
    header = ('', *shown, *['found'] * bool(scenes), 'parameters', 'trained in')
    results, folder = table(header, lines), comparison.work_dir
    (folder / 'results.md').write_text(results + '\n', encoding='utf-8')
    draw_report(
        folder / 'report.png', similarities, curves, metric, choose_scenes(scenes, count), detections,
        classes, SCORE_THRESHOLD,
    )  # fmt: skip
    return results


def title(cell: Cell) -> str:
    """What the table and the picture call a cell."""
    if cell.method == TEACHER:
        return 'teacher'
    return 'plain student' if cell.method == PLAIN else f'{cell.method.upper()} student'
