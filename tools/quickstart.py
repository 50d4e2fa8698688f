"""Teacher, plain student and distilled students on the embedded data, compared by COCO AP or top-1 accuracy."""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Works from a clone as well, before `pip install -e .`.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mmengine.registry import MODELS, init_default_scope

from mmkd.datasets import make_default_set, make_shapes
from mmkd.experiments import (
    PLAIN,
    TEACHER,
    Cell,
    Comparison,
    Family,
    JobError,
    NoSuchCell,
    class_similarities,
    preload_for,
    run_jobs,
    say,
)
from mmkd.report import (
    Objects,
    Scene,
    choose_scenes,
    columns_of,
    draw_report,
    match,
    read_curve,
    read_predictions,
    read_rows,
    read_scenes,
    table,
)
from mmkd.utils import PreflightError

REPOSITORY = Path(__file__).resolve().parent.parent
SCORE_THRESHOLD = 0.3


@dataclass(frozen=True)
class Demonstration:
    """What is shown for a task: the family, its methods, and the smallest set of data and settings."""

    family: str
    methods: tuple[str, ...]
    columns: tuple[str, ...]
    smoke_data: dict[str, int]
    smoke_batch: int


DEMONSTRATIONS = {
    'detection': Demonstration(
        'retinanet', ('ckd',), ('AP', 'AP50', 'AP_S', 'AP_M', 'AP_L'), dict(train=8, val=4), 4
    ),
    'classification': Demonstration(
        'textured', ('ckd', 'aekt'), ('top-1', 'top-5'), dict(train=60, val=30), 10
    ),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='quickstart.sh',
        description='Makes the embedded data, trains a plain student and students distilled from a teacher '
        '(detection: by CKD; classification: by CKD and by AEKT) at equal schedule and seed, and compares them on '
        'the test images. What is finished is kept, what was interrupted goes on.',
    )
    add = parser.add_argument
    add('--task', choices=tuple(DEMONSTRATIONS), default='detection', help='default: detection')
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


def title(cell: Cell) -> str:
    if cell.method == TEACHER:
        return 'teacher'
    return 'plain student' if cell.method == PLAIN else f'{cell.method.upper()} student'


def count_parameters(family: Family, part: str) -> int:
    cfg = family.load(part)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())


def detections_of(
    comparison: Comparison, cells: list[Cell], data: Path
) -> tuple[list[Scene], dict[str, dict[int, Objects]]]:
    """The test images with their objects, and what each model detected in them."""
    classes = cells[0].family.student.metainfo.classes
    dataset = comparison.resolved(cells[1]).test_dataloader.dataset
    scenes = read_scenes(data / dataset.ann_file, data / dataset.data_prefix.img, classes)
    detections = {
        title(cell): read_predictions(comparison.predicted(cell), SCORE_THRESHOLD) for cell in cells
    }
    return scenes, detections


def compare(args: argparse.Namespace, comparison: Comparison, cells: list[Cell], data: Path) -> str:
    """Write the table and the picture; return the table."""
    family = cells[0].family
    shown = DEMONSTRATIONS[args.task].columns
    rows = {row.cell: row for row in read_rows(comparison.results, family.name)}
    columns = columns_of(rows[cells[0].split, TEACHER, 0].metrics)
    scenes: list[Scene] = []
    detections: dict[str, dict[int, Objects]] = {}
    if args.task == 'detection':
        scenes, detections = detections_of(comparison, cells, data)
    lines, curves, similarities = [], {}, {}
    for cell in cells:
        name, row = title(cell), rows[cell.split, cell.method, cell.seed]
        line = [name, *(columns.text(row.metrics, column) for column in shown)]
        if detections:
            found = sum(match(detections[name][each.id], each.objects)[1].sum() for each in scenes)
            line.append(f'{found} of {sum(len(each.objects) for each in scenes)}')
        parameters = count_parameters(family, TEACHER if cell.method == TEACHER else 'student')
        line.append(f'{parameters / 1e6:.2f} M')
        line.append(f'{row.seconds / 60:.1f} min' if row.seconds else 'before')
        lines.append(line)
        if cell.method != TEACHER:
            key = columns.keys[columns.main]
            curve = read_curve(comparison.folder(cell), key)
            curves[name] = {epoch: columns.scale * value for epoch, value in curve.items()}
            teacher, student = class_similarities(
                comparison.resolved(cells[2]), comparison.checkpoint(cell)
            )
            similarities |= {'teacher': teacher, name: student}
    header = ('', *shown, *(['found'] if detections else []), 'parameters', 'trained in')
    text = table(header, lines)
    (args.work_dir / 'results.md').write_text(text + '\n', encoding='utf-8')
    draw_report(
        args.work_dir / 'report.png',
        similarities,
        curves,
        f'{columns.main} on the validation images',
        choose_scenes(scenes, 2 if args.smoke else 4),
        detections,
        family.student.get('metainfo', {}).get('classes', ()),
        SCORE_THRESHOLD,
    )
    return text


def quickstart(args: argparse.Namespace) -> None:
    started = time.monotonic()
    demonstration = DEMONSTRATIONS[args.task]
    family = Family.find(demonstration.family)
    data, options = Path(family.student.data_root), ()
    if args.smoke:
        data = Path(f'{data}_smoke')
        make_shapes(data, **demonstration.smoke_data, log=say, task=args.task)
        batch = f'train_dataloader.batch_size={demonstration.smoke_batch}'
        options = ('train_cfg.max_epochs=1', batch)
    else:
        make_default_set(data, log=say)
    comparison = Comparison(
        args.work_dir, args.work_dir / 'results', options, data if args.smoke else None,
        args.train_teacher, validate=True, predictions=True,
    )  # fmt: skip
    cells = [Cell(family, method, 0) for method in (TEACHER, PLAIN, *demonstration.methods)]
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    run_jobs(comparison.jobs(cells), args.jobs, threads, preload_for([family]))
    text = compare(args, comparison, cells, data)
    say(f'\nOn the test images, after the last epoch:\n\n{text}\n')
    if args.task == 'detection':
        say(f'found: with a score of {SCORE_THRESHOLD} or more, IoU at least 0.5, class right')
    say(f'{time.monotonic() - started:.0f} s; table and picture are in {args.work_dir}')


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    os.chdir(REPOSITORY)
    try:
        quickstart(args)
    except KeyboardInterrupt:
        say('interrupted: finished epochs are kept, the same command goes on from there')
        return 130
    except (JobError, NoSuchCell, PreflightError, OSError) as error:
        print(f'quickstart: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
