"""Teacher, plain student and CKD student on the embedded data, compared by COCO mAP."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# Works from a clone as well, before `pip install -e .`.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mmengine.registry import MODELS, init_default_scope

from mmkd.datasets import make_shapes
from mmkd.experiments import (
    Display,
    EvaluationRun,
    StageError,
    TrainingRun,
    relative_path,
    resolve_config,
    run_stages,
)
from mmkd.report import (
    COCO_COLUMNS,
    draw_report,
    points,
    read_curve,
    read_predictions,
    read_scenes,
    spread_scenes,
    table,
)
from mmkd.utils import PreflightError

REPOSITORY = Path(__file__).resolve().parent.parent
SEED = 0
SCORE_THRESHOLD = 0.3
COLUMNS = ('AP', 'AP50', 'AP_S', 'AP_M', 'AP_L')


@dataclass(frozen=True)
class Model:
    """One row of the comparison.

    Attributes:
        name: name of its folder.
        title: its name in the table and the picture.
        config: what it is trained with.
        test_config: what it is evaluated with: for a distilled student its plain config.
        teacher: name of the row that teaches it.
    """

    name: str
    title: str
    config: str
    test_config: str
    teacher: str | None = None


MODELS_COMPARED = (
    Model(
        'teacher',
        'teacher',
        'configs/shapes/retinanet_teacher.py',
        'configs/shapes/retinanet_teacher.py',
    ),
    Model(
        'plain',
        'plain student',
        'configs/shapes/retinanet_student.py',
        'configs/shapes/retinanet_student.py',
    ),
    Model(
        'ckd',
        'CKD student',
        'configs/shapes/retinanet_ckd.py',
        'configs/shapes/retinanet_student.py',
        teacher='teacher',
    ),
)


@dataclass(frozen=True)
class Size:
    """How much is done: the images of the data, settings, images in the picture."""

    data_root: Path
    train_images: int
    val_images: int
    train_options: tuple[str, ...]
    test_options: tuple[str, ...]
    pictures: int


FULL = Size(Path('data/shapes'), 2000, 500, (), (), 5)
SMOKE = Size(
    Path('data/shapes_smoke'),
    8,
    4,
    ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=4'),
    # After two steps no score reaches the usual threshold, and without detections there is no mAP.
    ('model.test_cfg.score_thr=0.0',),
    2,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='quickstart.sh',
        description='Makes the embedded data, trains a teacher, a plain student and a student '
        'distilled by CKD at equal schedule and seed, and compares them by COCO mAP. What is '
        'finished is reused, what was interrupted is continued.',
    )
    parser.add_argument(
        '--work-dir',
        type=partial(relative_path, root=REPOSITORY),
        help='folder for all results (default: work_dirs/quickstart, work_dirs/quickstart_smoke)',
    )
    parser.add_argument(
        '--jobs', type=int, default=2, metavar='N', help='trainings at a time (default: 2)'
    )
    parser.add_argument(
        '--smoke',
        action='store_true',
        help='only see that all parts work: eight images, one epoch; the mAP means nothing',
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be 1 or more, not {args.jobs}')
    if args.work_dir is None:
        args.work_dir = Path('work_dirs/quickstart_smoke' if args.smoke else 'work_dirs/quickstart')
    return args


def plan(size: Size, work_dir: Path) -> tuple[dict[str, TrainingRun], dict[str, EvaluationRun]]:
    """The training and the evaluation of each model, by the model's name."""
    annotations = {
        split: size.data_root / f'annotations/instances_{split}2017.json'
        for split in ('train', 'val')
    }
    data = (f'data_root={size.data_root}/',)
    trainings: dict[str, TrainingRun] = {}
    evaluations: dict[str, EvaluationRun] = {}
    for model in MODELS_COMPARED:
        options = (
            *data,
            f'randomness.seed={SEED}',
            'default_hooks.logger.interval=10',
            # MMEngine removes an old checkpoint before it writes the new one: with one kept, an
            # interruption between the two would lose both.
            'default_hooks.checkpoint.max_keep_ckpts=2',
            *size.train_options,
        )
        inputs = tuple(annotations.values())
        after: tuple[str, ...] = ()
        threads = None
        if model.teacher is not None:
            teacher = trainings[model.teacher]
            options += (f'model.teacher.checkpoint={teacher.checkpoint}',)
            inputs += (teacher.checkpoint,)
            after = (teacher.name,)
            # Comes last: only the short evaluations of the others run beside it.
            threads = len(os.sched_getaffinity(0))
        training = TrainingRun(
            model.title, model.config, work_dir / model.name, options, inputs, after, threads
        )
        trainings[model.name] = training
        evaluations[model.name] = EvaluationRun(
            f'{model.title}, test',
            model.test_config,
            training,
            work_dir / model.name / 'test',
            data + size.test_options,
            (annotations['val'],),
        )
    return trainings, evaluations


def count_parameters(config: str) -> int:
    cfg = resolve_config(config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())


def write_results(
    work_dir: Path, trainings: dict[str, TrainingRun], evaluations: dict[str, EvaluationRun]
) -> str:
    """Write results.json and results.md; return the table."""
    results = {
        model.title: {
            'config': model.config,
            'test_config': model.test_config,
            'options': list(trainings[model.name].options),
            'checkpoint': str(trainings[model.name].checkpoint),
            'epochs': trainings[model.name].epochs,
            'training_seconds': round(trainings[model.name].seconds, 1),
            'parameters': count_parameters(model.test_config),
            'metrics': evaluations[model.name].metrics,
        }
        for model in MODELS_COMPARED
    }
    (work_dir / 'results.json').write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')
    text = table(
        ('', *COLUMNS, 'parameters', 'trained in'),
        [
            (
                title,
                *(cell(points(row['metrics'], column)) for column in COLUMNS),
                f'{row["parameters"] / 1e6:.2f} M',
                f'{row["training_seconds"] / 60:.1f} min',
            )
            for title, row in results.items()
        ],
    )
    (work_dir / 'results.md').write_text(text + '\n', encoding='utf-8')
    return text


def cell(value: float | None) -> str:
    return '–' if value is None else f'{value:.1f}'


def write_picture(
    work_dir: Path,
    size: Size,
    trainings: dict[str, TrainingRun],
    evaluations: dict[str, EvaluationRun],
) -> Path:
    """Write report.png; return its path."""
    classes = resolve_config(MODELS_COMPARED[0].config).metainfo.classes
    scenes = read_scenes(
        size.data_root / 'annotations/instances_val2017.json', size.data_root / 'val2017', classes
    )
    curves = {}
    for model in MODELS_COMPARED:
        training, evaluation = trainings[model.name], evaluations[model.name]
        curve = read_curve(training.work_dir, COCO_COLUMNS['AP'])
        # Not in the log if an interruption fell between the last epoch and its validation.
        curve[training.epochs] = (points(evaluation.metrics, 'AP') or 0.0) / 100
        curves[model.title] = curve
    path = work_dir / 'report.png'
    draw_report(
        path,
        spread_scenes(scenes, size.pictures),
        {
            model.title: read_predictions(evaluations[model.name].predictions, SCORE_THRESHOLD)
            for model in MODELS_COMPARED
        },
        classes,
        curves,
        SCORE_THRESHOLD,
    )
    return path


def quickstart(args: argparse.Namespace, display: Display) -> None:
    started = time.monotonic()
    size = SMOKE if args.smoke else FULL
    trainings, evaluations = plan(size, args.work_dir)
    stages: Sequence[TrainingRun | EvaluationRun] = [*trainings.values(), *evaluations.values()]
    last = len(stages) + 2

    def say_data(line: str) -> None:
        display.say(f'[1/{last}] data: {line}')

    make_shapes(size.data_root, size.train_images, size.val_images, log=say_data)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    run_stages(stages, args.jobs, display, first_number=2, total=last)
    text = write_results(args.work_dir, trainings, evaluations)
    picture = write_picture(args.work_dir, size, trainings, evaluations)
    display.say(f'[{last}/{last}] report: {picture}')
    display.say(f'\nCOCO mAP on {size.val_images} validation images, after the last epoch:\n')
    display.say(text)
    display.say(f'\n{time.monotonic() - started:.0f} s; everything is in {args.work_dir}')


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    os.chdir(REPOSITORY)
    display = Display(sys.stdout)
    try:
        quickstart(args, display)
    except KeyboardInterrupt:
        display.say('interrupted: finished epochs are kept, the same command goes on from there')
        return 130
    except (StageError, PreflightError, OSError) as error:
        print(f'quickstart: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
