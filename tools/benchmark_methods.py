"""Compare distillation methods with plain training over several seeds, at equal schedule."""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Works from a clone as well, before `pip install -e .`.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from mmkd.datasets import make_default_set
from mmkd.experiments import (
    Display,
    EvaluationRun,
    StageError,
    Task,
    TrainingRun,
    relative_path,
    resolve_config,
    run_stages,
    task_of,
)
from mmkd.report import Columns, mean_and_deviation, paired_difference, replace_block, table
from mmkd.utils import PreflightError, is_distiller

REPOSITORY = Path(__file__).resolve().parent.parent
PLAIN = 'plain'


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        name: its name in the table.
        config: what its students are trained with.
        options: further ``key=value`` settings.
    """

    name: str
    config: str
    options: tuple[str, ...] = ()

    @property
    def needs_teacher(self) -> bool:
        return is_distiller(resolve_config(self.config, self.options).model)


class Usage(ValueError):
    """The arguments name something that is not there."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    path = partial(relative_path, root=REPOSITORY)
    parser = argparse.ArgumentParser(
        description='Trains students with each method and seed, evaluates the last epoch of each, '
        'and writes mean, standard deviation and the paired difference from plain training. Each '
        'student is trained with one thread. Finished runs are reused, interrupted ones '
        'continued. The method NAME of a model is the config CONFIG_DIR/MODEL_NAME.py, plain is '
        'CONFIG_DIR/MODEL_student.py.',
        epilog='Example of an ablation: --variant ckd-t4:ckd model.losses.ckd.temperature=4',
    )
    parser.add_argument('--methods', nargs='+', default=[PLAIN, 'ckd'], metavar='NAME')
    parser.add_argument(
        '--variant',
        nargs='+',
        action='append',
        default=[],
        metavar=('NAME:METHOD', 'KEY=VALUE'),
        help='a further row: METHOD with other settings of the config; may be given several times',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4], metavar='SEED')
    parser.add_argument('--model', default='retinanet', help='default: retinanet')
    parser.add_argument(
        '--config-dir', type=path, default=Path('configs/shapes'), help='default: configs/shapes'
    )
    parser.add_argument(
        '--teacher',
        type=path,
        metavar='CHECKPOINT',
        help='default: CONFIG_DIR/MODEL_teacher.py is trained once, with seed 0',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings for all students and the teacher',
    )
    parser.add_argument(
        '--data-root',
        type=path,
        help="a folder in COCO layout, for classifiers in ImageNet layout (default: the config's, made if it is "
        'embedded data)',
    )
    parser.add_argument('--jobs', type=int, default=2, metavar='N', help='runs at a time')
    parser.add_argument(
        '--work-dir',
        type=path,
        default=Path('work_dirs/benchmark'),
        help='default: work_dirs/benchmark',
    )
    parser.add_argument(
        '--write', type=path, metavar='FILE.md', help='put the table into this document, too'
    )
    parser.add_argument(
        '--block',
        default='benchmark',
        help='name of the marked block of the document that is replaced (default: benchmark)',
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be 1 or more, not {args.jobs}')
    if len(set(args.seeds)) < len(args.seeds):
        parser.error('--seeds: each one once')
    return args


def methods_of(args: argparse.Namespace) -> list[Method]:
    """The rows that the arguments ask for, plain training first.

    Raises:
        Usage: a method has no config, a variant is misspelt, or two rows have one name.
    """
    methods = [Method(name, config_of(args, name)) for name in args.methods]
    for head, *options in args.variant:
        name, colon, base = head.partition(':')
        if not (name and colon and base):
            raise Usage(f'--variant {head}: must be NAME:METHOD and then settings, key=value')
        methods.append(Method(name, config_of(args, base), tuple(options)))
    names = [method.name for method in methods]
    if PLAIN not in names:
        raise Usage(f'--methods: {PLAIN} must be among them, the others are compared with it')
    for name in names:
        if (
            names.count(name) > 1
            or not name.replace('-', '').replace('.', '').replace('_', '').isalnum()
        ):
            raise Usage(f'{name}: rows need different names of letters, digits, -, _ and .')
    return sorted(methods, key=lambda method: method.name != PLAIN)


def config_of(args: argparse.Namespace, method: str) -> str:
    suffix = 'student' if method == PLAIN else method
    path = args.config_dir / f'{args.model}_{suffix}.py'
    if not path.is_file():
        others = sorted(
            file.stem.removeprefix(f'{args.model}_')
            for file in args.config_dir.glob(f'{args.model}_*.py')
        )
        known = [PLAIN if name == 'student' else name for name in others if name != 'teacher']
        if not others:
            models = sorted(
                file.stem.removesuffix('_student') for file in args.config_dir.glob('*_student.py')
            )
            raise Usage(
                f'--model {args.model}: there is no {path}; {args.config_dir} has the models: '
                + (', '.join(models) or 'none, give another --config-dir')
            )
        raise Usage(f'{method}: there is no {path}; of {args.model} there is: {", ".join(known)}')
    return str(path)


def plan(
    args: argparse.Namespace, methods: Sequence[Method], task: Task, data_root: Path
) -> tuple[TrainingRun | None, dict[tuple[str, int], EvaluationRun]]:
    """The teacher's training, if there is one, and an evaluation per (method, seed).

    An evaluation holds the training that it belongs to.
    """
    validation = task.inputs(data_root, 'val')
    inputs = task.inputs(data_root, 'train') + validation
    data = f'data_root={data_root}/'
    common = (data, 'default_hooks.checkpoint.max_keep_ckpts=2', *args.cfg_options)

    teacher, checkpoint = None, args.teacher
    if checkpoint is None and any(method.needs_teacher for method in methods):
        teacher = TrainingRun(
            'teacher', config_of(args, 'teacher'), args.work_dir / f'{args.model}_teacher',
            without_validation(config_of(args, 'teacher'), (*common, 'randomness.seed=0')), inputs,
        )  # fmt: skip
        checkpoint = teacher.checkpoint

    evaluations = {}
    # Seed by seed, so that an early look at the results compares equal numbers of seeds.
    for seed in args.seeds:
        for method in methods:
            options = (*common, f'randomness.seed={seed}', *method.options)
            own_inputs, after = inputs, ()
            if method.needs_teacher:
                options += (f'model.teacher.checkpoint={checkpoint}',)
                own_inputs += (checkpoint,)
                after = (teacher.name,) if teacher else ()
            work_dir = args.work_dir / f'{args.model}_{method.name}' / f'seed_{seed}'
            training = TrainingRun(
                f'{method.name}, seed {seed}',
                method.config,
                work_dir,
                without_validation(method.config, options),
                own_inputs,
                after,
                threads=1,
            )
            evaluations[method.name, seed] = EvaluationRun(
                f'{method.name}, seed {seed}, test',
                # tools/test.py takes the student out of a recipe, with what a variant made of it.
                method.config,
                training,
                work_dir / 'test',
                options,
                validation,
                threads=1,
            )
    return teacher, evaluations


def without_validation(config: str, options: tuple[str, ...]) -> tuple[str, ...]:
    """Options for a training that does not validate: only the last epoch is evaluated, after it."""
    epochs = resolve_config(config, options).train_cfg.max_epochs
    return (*options, f'train_cfg.val_begin={epochs + 1}')


def summarize(
    names: Sequence[str], results: dict[tuple[str, int], dict[str, Any]], columns: Columns
) -> list[tuple[str, ...]]:
    """The rows of the table: one per method, in the order of ``names``.

    Args:
        names: the methods.
        results: by (method, seed), ``metrics`` and ``seconds``.
        columns: the metrics.
    """
    rows = []
    plain = points_of(PLAIN, columns.main, results, columns)
    for name in names:
        cells = [
            spread(points_of(name, column, results, columns).values()) for column in columns.keys
        ]
        difference = '–'
        if name != PLAIN:
            paired = paired_difference(points_of(name, columns.main, results, columns), plain)
            difference = f'{paired.mean:+.2f}'
            if not math.isnan(paired.low):
                difference += f' [{paired.low:+.2f}, {paired.high:+.2f}]'
        seconds = [run['seconds'] for (method, _), run in results.items() if method == name]
        minutes = f'{sum(seconds) / len(seconds) / 60:.1f} min'
        rows.append((name, *cells, difference, str(len(seconds)), minutes))
    return rows


def points_of(
    method: str, column: str, results: dict[tuple[str, int], dict[str, Any]], columns: Columns
) -> dict[int, float]:
    """A metric in points by seed; empty where the data has no object of the size."""
    by_seed = {
        seed: columns.points(run['metrics'], column)
        for (name, seed), run in results.items()
        if name == method
    }
    return {seed: value for seed, value in by_seed.items() if value is not None}


def spread(values: Collection[float]) -> str:
    if not values:
        return '–'
    mean, deviation = mean_and_deviation(list(values))
    return f'{mean:.2f}' if math.isnan(deviation) else f'{mean:.2f} ± {deviation:.2f}'


def report(
    args: argparse.Namespace,
    methods: Sequence[Method],
    columns: Columns,
    evaluations: dict[tuple[str, int], EvaluationRun],
) -> str:
    """Write results.json and the document; return the table with its caption."""
    results: dict[tuple[str, int], dict[str, Any]] = {
        key: {'metrics': run.metrics, 'seconds': run.training.seconds}
        for key, run in evaluations.items()
    }
    rows = summarize([method.name for method in methods], results, columns)
    header = (
        'Method', *columns.keys, f'{columns.main} − plain [95 %]', 'Seeds', 'Time per run',
    )  # fmt: skip
    epochs = next(iter(evaluations.values())).training.epochs
    settings = ''.join(
        f'\n- {method.name}: `{method.config}`'
        + (f' with `{" ".join(method.options)}`' if method.options else '')
        for method in methods
    )
    text = (
        f'{table(header, rows)}\n\n'
        f'{columns.title} in points on the validation images after the last of {epochs} epochs: mean ± '
        'standard deviation over the seeds, and the mean of the differences seed by seed with its '
        f'Student-t interval. Made by\n\n    {command_line(args)}\n{settings}'
    )
    content = {
        'command': command_line(args),
        'runs': [
            {
                'method': method,
                'seed': seed,
                'config': run.training.config,
                'options': list(run.training.options),
                'checkpoint': str(run.training.checkpoint),
                **results[method, seed],
            }
            for (method, seed), run in evaluations.items()
        ],
        'table': [dict(zip(header, row, strict=True)) for row in rows],
    }
    path = args.work_dir / f'{args.model}_results.json'
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    if args.write is not None:
        replace_block(args.write, args.block, text)
    return text


def command_line(args: argparse.Namespace) -> str:
    """The command that repeats the comparison, without how it runs and where its results go."""
    words = ['--methods', *args.methods, '--seeds', *map(str, args.seeds)]
    if args.model != 'retinanet':
        words += ['--model', args.model]
    if args.config_dir != Path('configs/shapes'):
        words += ['--config-dir', str(args.config_dir)]
    if args.teacher is not None:
        words += ['--teacher', str(args.teacher)]
    if args.data_root is not None:
        words += ['--data-root', str(args.data_root)]
    for variant in args.variant:
        words += ['--variant', *variant]
    if args.cfg_options:
        words += ['--cfg-options', *args.cfg_options]
    return 'python tools/benchmark_methods.py ' + shlex.join(words)


def benchmark(args: argparse.Namespace, display: Display) -> None:
    methods = methods_of(args)
    plain = resolve_config(config_of(args, PLAIN))
    task = task_of(plain)
    data_root = args.data_root
    if data_root is None:
        try:
            data_root = make_default_set(plain.data_root, log=display.say)
        except ValueError as error:
            raise Usage(f'--data-root: {error}') from None
    teacher, evaluations = plan(args, methods, task, data_root)
    stages: list[TrainingRun | EvaluationRun] = [teacher] if teacher else []
    for run in evaluations.values():
        stages += [run.training, run]
    args.work_dir.mkdir(parents=True, exist_ok=True)
    run_stages(stages, args.jobs, display, preload=task.preload)
    display.say('\n' + report(args, methods, task.columns, evaluations))


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    os.chdir(REPOSITORY)
    display = Display(sys.stdout)
    try:
        benchmark(args, display)
    except KeyboardInterrupt:
        display.say('interrupted: finished epochs are kept, the same command goes on from there')
        return 130
    except Usage as error:
        print(f'benchmark_methods: error: {error}', file=sys.stderr)
        return 2
    except (StageError, PreflightError, OSError) as error:
        print(f'benchmark_methods: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
