"""Teacher, plain student and distilled students on the embedded data, compared by COCO mAP or top-1 accuracy."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# Works from a clone as well, before `pip install -e .`.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mmengine.registry import MODELS, init_default_scope

from mmkd.datasets import make_shapes
from mmkd.experiments import (
    CLASSIFICATION,
    DETECTION,
    Display,
    EvaluationRun,
    StageError,
    Task,
    TrainingRun,
    relative_path,
    resolve_config,
    run_stages,
)
from mmkd.report import (
    draw_correlations,
    draw_report,
    read_curve,
    read_predictions,
    read_scenes,
    read_scores,
    spread_scenes,
    table,
)
from mmkd.utils import PreflightError

REPOSITORY = Path(__file__).resolve().parent.parent
SEED = 0
SCORE_THRESHOLD = 0.3


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


@dataclass(frozen=True)
class Size:
    """How much is done: the images of the data, settings, images in the picture."""

    data_root: Path
    train_images: int
    val_images: int
    train_options: tuple[str, ...]
    test_options: tuple[str, ...]
    pictures: int


@dataclass(frozen=True)
class Comparison:
    """What is compared for a task.

    Attributes:
        task: the task.
        folder: name of the folder of the results in ``work_dirs``.
        models: the rows.
        columns: the metrics in the table.
        full: the size by default.
        smoke: the size with ``--smoke``.
        draw: draws the picture of the results.
    """

    task: Task
    folder: str
    models: tuple[Model, ...]
    columns: tuple[str, ...]
    full: Size
    smoke: Size
    draw: Callable[
        [Path, Size, dict[str, TrainingRun], dict[str, EvaluationRun], dict[str, dict[int, float]]],
        None,
    ]

    @property
    def distilled(self) -> list[Model]:
        return [model for model in self.models if model.teacher is not None]


def models_of(prefix: str, methods: dict[str, str]) -> tuple[Model, ...]:
    """Teacher, plain student and a student of each method, from the configs ``PREFIX_NAME.py``."""
    teacher, student = f'{prefix}_teacher.py', f'{prefix}_student.py'
    return (
        Model('teacher', 'teacher', teacher, teacher),
        Model('plain', 'plain student', student, student),
        *(
            Model(name, f'{title} student', f'{prefix}_{name}.py', student, teacher='teacher')
            for name, title in methods.items()
        ),
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='quickstart.sh',
        description='Makes the embedded data, trains a teacher, a plain student and students '
        'distilled from it (detection: by CKD; classification: by CKD and by AEKT) at equal schedule '
        'and seed, and compares them by COCO mAP or top-1 accuracy. What is finished is reused, what '
        'was interrupted is continued.',
    )
    parser.add_argument(
        '--task', choices=tuple(COMPARISONS), default='detection', help='default: detection'
    )
    parser.add_argument(
        '--work-dir',
        type=partial(relative_path, root=REPOSITORY),
        help='folder for all results (default: work_dirs/quickstart, for classification '
        'work_dirs/quickstart_classification; with --smoke, _smoke is added)',
    )
    parser.add_argument(
        '--jobs', type=int, default=2, metavar='N', help='trainings at a time (default: 2)'
    )
    parser.add_argument(
        '--smoke',
        action='store_true',
        help='only see that all parts work: a few images, one epoch; the numbers mean nothing',
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be 1 or more, not {args.jobs}')
    if args.work_dir is None:
        folder = COMPARISONS[args.task].folder
        args.work_dir = Path('work_dirs') / (f'{folder}_smoke' if args.smoke else folder)
    return args


def plan(
    comparison: Comparison, size: Size, work_dir: Path
) -> tuple[dict[str, TrainingRun], dict[str, EvaluationRun]]:
    """The training and the evaluation of each model, by the model's name. The data is there."""
    validation = comparison.task.inputs(size.data_root, 'val')
    annotations = comparison.task.inputs(size.data_root, 'train') + validation
    data = (f'data_root={size.data_root}/',)
    trainings: dict[str, TrainingRun] = {}
    evaluations: dict[str, EvaluationRun] = {}
    for model in comparison.models:
        options = (
            *data,
            f'randomness.seed={SEED}',
            'default_hooks.logger.interval=10',
            # MMEngine removes an old checkpoint before it writes the new one: with one kept, an
            # interruption between the two would lose both.
            'default_hooks.checkpoint.max_keep_ckpts=2',
            *size.train_options,
        )
        inputs = annotations
        after: tuple[str, ...] = ()
        threads = None
        if model.teacher is not None:
            teacher = trainings[model.teacher]
            options += (f'model.teacher.checkpoint={teacher.checkpoint}',)
            inputs += (teacher.checkpoint,)
            after = (teacher.name,)
            # They come last: only the short evaluations of the others run beside them.
            threads = max(1, len(os.sched_getaffinity(0)) // len(comparison.distilled))
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
            validation,
        )
    return trainings, evaluations


def count_parameters(config: str) -> int:
    cfg = resolve_config(config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())


def write_results(
    comparison: Comparison,
    work_dir: Path,
    trainings: dict[str, TrainingRun],
    evaluations: dict[str, EvaluationRun],
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
        for model in comparison.models
    }
    (work_dir / 'results.json').write_text(json.dumps(results, indent=2) + '\n', encoding='utf-8')
    points = comparison.task.columns.points
    text = table(
        ('', *comparison.columns, 'parameters', 'trained in'),
        [
            (
                title,
                *(cell(points(row['metrics'], column)) for column in comparison.columns),
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


def read_curves(
    comparison: Comparison,
    trainings: dict[str, TrainingRun],
    evaluations: dict[str, EvaluationRun],
) -> dict[str, dict[int, float]]:
    """The main metric by epoch, by the model's title."""
    columns = comparison.task.columns
    metric = columns.keys[columns.main]
    curves = {}
    for model in comparison.models:
        training, evaluation = trainings[model.name], evaluations[model.name]
        curve = read_curve(training.work_dir, metric)
        # Not in the log if an interruption fell between the last epoch and its validation.
        curve[training.epochs] = evaluation.metrics.get(metric, columns.absent)
        curves[model.title] = curve
    return curves


def draw_detection(
    path: Path,
    size: Size,
    trainings: dict[str, TrainingRun],
    evaluations: dict[str, EvaluationRun],
    curves: dict[str, dict[int, float]],
) -> None:
    """Detections side by side, and mAP against the epoch."""
    classes = resolve_config(trainings['teacher'].config).metainfo.classes
    scenes = read_scenes(
        size.data_root / 'annotations/instances_val2017.json', size.data_root / 'val2017', classes
    )
    detections = {
        trainings[name].name: read_predictions(evaluation.predictions, SCORE_THRESHOLD)
        for name, evaluation in evaluations.items()
    }
    draw_report(
        path, spread_scenes(scenes, size.pictures), detections, classes, curves, SCORE_THRESHOLD
    )


def draw_classification(
    path: Path,
    size: Size,
    trainings: dict[str, TrainingRun],
    evaluations: dict[str, EvaluationRun],
    curves: dict[str, dict[int, float]],
) -> None:
    """Correlation matrices of the logits, and top-1 accuracy against the epoch."""
    logits = {
        trainings[name].name: read_scores(evaluation.predictions)
        for name, evaluation in evaluations.items()
    }
    draw_correlations(path, logits, curves)


COMPARISONS = {
    'detection': Comparison(
        DETECTION,
        'quickstart',
        models_of('configs/shapes/retinanet', {'ckd': 'CKD'}),
        ('AP', 'AP50', 'AP_S', 'AP_M', 'AP_L'),
        Size(Path('data/shapes'), 2000, 500, (), (), 5),
        Size(
            Path('data/shapes_smoke'),
            8,
            4,
            ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=4'),
            # After two steps no score reaches the usual threshold, and without detections there is no mAP.
            ('model.test_cfg.score_thr=0.0',),
            2,
        ),
        draw_detection,
    ),
    'classification': Comparison(
        CLASSIFICATION,
        'quickstart_classification',
        models_of('configs/shapes_cls/textured', {'ckd': 'CKD', 'aekt': 'AEKT'}),
        ('top-1', 'top-5'),
        Size(Path('data/textured_cls'), 3000, 1500, (), (), 0),
        Size(
            Path('data/textured_cls_smoke'),
            60,
            30,
            ('train_cfg.max_epochs=1', 'train_dataloader.batch_size=10'),
            (),
            0,
        ),
        draw_classification,
    ),
}


def quickstart(args: argparse.Namespace, display: Display) -> None:
    started = time.monotonic()
    comparison = COMPARISONS[args.task]
    size = comparison.smoke if args.smoke else comparison.full
    last = 2 * len(comparison.models) + 2

    def say_data(line: str) -> None:
        display.say(f'[1/{last}] data: {line}')

    make_shapes(size.data_root, size.train_images, size.val_images, log=say_data, task=args.task)
    trainings, evaluations = plan(comparison, size, args.work_dir)
    stages: Sequence[TrainingRun | EvaluationRun] = [*trainings.values(), *evaluations.values()]
    args.work_dir.mkdir(parents=True, exist_ok=True)
    preload = comparison.task.preload
    run_stages(stages, args.jobs, display, first_number=2, total=last, preload=preload)
    text = write_results(comparison, args.work_dir, trainings, evaluations)
    picture = args.work_dir / 'report.png'
    curves = read_curves(comparison, trainings, evaluations)
    comparison.draw(picture, size, trainings, evaluations, curves)
    display.say(f'[{last}/{last}] report: {picture}')
    title = comparison.task.columns.title
    display.say(f'\n{title} on {size.val_images} validation images, after the last epoch:\n')
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
