"""Compare distillation methods with plain training over families of detectors and classifiers and over seeds."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import mmkd
from mmkd.datasets import make_default_set
from mmkd.experiments import (
    Cell,
    Comparison,
    Family,
    JobError,
    run_jobs,
    say,
)
from mmkd.report import (
    PLAIN,
    TEACHER,
    Row,
    comparable,
    difference_table,
    draw_differences,
    family_table,
    read_rows,
    replace_block,
)
from mmkd.utils import PreflightError, report_missing

REPOSITORY = Path(mmkd.__file__).resolve().parent.parent
SEEDS = {'test': [0, 1, 2, 3, 4], 'val': [100, 101, 102]}
# The columns of the overview: methods that stand for each other share one.
OVERVIEW = {
    'KD or QFL-KD': ('kd', 'qfl_kd'),
    'DKD': ('dkd',),
    'DIST': ('dist',),
    'CrossKD': ('cross_kd',),
    'PKD': ('pkd',),
    'CKD': ('ckd',),
    'AEKT': ('aekt',),
    'CKD + AEKT': ('ckd+aekt',),
    'CKD + PKD': ('ckd+pkd',),
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='mmkd compare',
        description='Trains a student for each family, method and seed, evaluates its last epoch and adds a row to '
        'RESULTS/FAMILY.json. Rows that are there are kept, interrupted trainings go on. A family is a pair of '
        'configs, FAMILY_teacher.py and FAMILY_student.py; a method is a recipe FAMILY_METHOD.py, or a preset of '
        '`tools/train.py --losses`.',
        epilog='Settings are chosen on the validation images, with seeds from 100 on: --split val --variant '
        'ckd-t4:ckd model.losses.ckd.temperature=4; methods are compared on the test images, with seeds below 100.',
    )
    add = parser.add_argument
    add('--families', nargs='+', metavar='NAME', help='default: all')
    add(
        '--methods',
        nargs='+',
        default=[PLAIN, 'kd', 'qfl_kd', 'ckd', 'aekt', 'ckd+aekt'],
        metavar='NAME',
        help='default: %(default)s; one that means nothing on a family is left out there',
    )
    add('--seeds', nargs='+', type=int, metavar='SEED', help='default: 0 to 4; of val 100 to 102')
    add('--split', choices=tuple(SEEDS), default='test', help='default: test')
    add(
        '--variant',
        nargs='+',
        action='append',
        default=[],
        metavar=('NAME:METHOD', 'KEY=VALUE'),
        help='a further row: METHOD with other settings; may be given several times',
    )
    add('--jobs', type=int, default=2, metavar='N', help='runs at a time, each with one thread')
    add('--train-teacher', action='store_true', help='train the teachers, from nothing')
    add('--tables', action='store_true', help='only write the tables and the plot, from the rows')
    add('--list', action='store_true', help='only say which cells are missing')
    add('--results', type=_path, default=Path('docs/results'), help='default: docs/results')
    add('--docs', type=_path, default=Path('.'), help='where --tables finds README.md and docs/')
    add('--work-dir', type=_path, default=Path('work_dirs/benchmark'))
    add('--config-dir', type=_path, nargs='+', help='folders of families (default: the embedded)')
    add('--data-root', type=_path, help="default: the config's, made if it is embedded data")
    add(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings of everything, to try the command: with --results of another folder only',
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs: {args.jobs} is not a number from 1 on')
    if args.cfg_options and args.results == Path('docs/results'):
        parser.error('--cfg-options: give --results of another folder; for single rows, --variant')
    args.seeds = args.seeds or SEEDS[args.split]
    return args


def _path(text: str) -> Path:
    """A path of the command line as seen from the repository, so that recorded commands hold in every clone."""
    path = Path(text).absolute()
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


def families_of(args: argparse.Namespace) -> list[Family]:
    """Those of ``--families``.

    Raises:
        PreflightError: There is no family of a name.
    """
    there = Family.all(args.config_dir) if args.config_dir else Family.all()
    for name in args.families or ():
        if name not in there:
            raise PreflightError(f'--families {name}: there is {", ".join(there) or "none"}')
    return [there[name] for name in args.families or there]


def methods_of(args: argparse.Namespace) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Of each row's name the method and its settings, by ``--methods`` and ``--variant``.

    Raises:
        PreflightError: A variant is none, or settings would be chosen by what is reported.
    """
    problems = []
    methods: dict[str, tuple[str, tuple[str, ...]]] = {name: (name, ()) for name in args.methods}
    for head, *options in args.variant:
        name, colon, base = head.partition(':')
        if args.split == 'test':
            problems.append(
                f'--variant {head}: settings are chosen on the validation images, --split val'
            )
        elif not (colon and base and name.replace('-', '').replace('.', '').isalnum()):
            problems.append(f'--variant {head}: NAME:METHOD, NAME of letters, digits, - and .')
        elif name in (*methods, base, PLAIN, TEACHER):  # whose own rows it would replace
            problems.append(f'--variant {head}: there is a row {name} already')
        methods[name] = (base, tuple(options))
    for seed in args.seeds:
        if (seed >= 100) != (args.split == 'val'):
            allowed = 'from 100 on' if args.split == 'val' else 'below 100'
            problems.append(
                f'--seeds {seed}: seeds of --split {args.split} are {allowed}, so that no setting is chosen by a run '
                'that is reported'
            )
    if problems:
        raise PreflightError(*problems)
    return methods


def cells_of(args: argparse.Namespace, comparison: Comparison) -> list[Cell]:
    """All cells, seed by seed, so that an early look at the results compares equal numbers of seeds.

    Raises:
        PreflightError: A family, a method, a variant or a seed is none.
    """
    methods = methods_of(args)
    families = families_of(args)
    cells = [Cell(family, TEACHER, 0, args.split) for family in families]
    trained = [
        Cell(family, name, seed, args.split, base, options)
        for seed in args.seeds
        for name, (base, options) in methods.items()
        for family in families
    ]
    meaningless: set[tuple[Family, str]] = set()
    for cell in trained[: len(methods) * len(families)]:
        try:
            comparison.settings(cell)
        except PreflightError as error:
            elsewhere = any(family.has_method(cell.base) for family in Family.all().values())
            if cell.family.has_method(cell.base) or not elsewhere:
                raise
            meaningless.add((cell.family, cell.method))
            say(f'left out: {cell.family.name}, {cell.method}: {"; ".join(error.problems)}')
    return cells + [cell for cell in trained if (cell.family, cell.method) not in meaningless]


def compare(args: argparse.Namespace) -> None:
    """Make the cells that are missing, or only say which these are."""
    families = families_of(args)
    for family in families if args.data_root is None else ():
        try:
            make_default_set(family.student.data_root, log=say)
        except ValueError as error:
            raise PreflightError(f'--data-root: {error}') from None
    comparison = Comparison(
        args.work_dir,
        args.results,
        tuple(args.cfg_options),
        args.data_root,
        args.train_teacher,
    )
    cells = cells_of(args, comparison)
    missing = [cell for cell in cells if not comparison.is_done(cell)]
    say(f'{len(cells) - len(missing)} of {len(cells)} cells are in {args.results}')
    if args.list:
        for cell in missing:
            say(f'{cell.name}, {cell.split}')
        return
    run_jobs(comparison.jobs(cells), args.jobs, 1)


def write_tables(args: argparse.Namespace) -> None:
    """The overview and a table per family in docs/benchmark.md; README's table and plot."""
    rows: dict[str, list[Row]] = {}
    tables, seeds = [], len(SEEDS['test'])
    for family in families_of(args):
        own, left_out = comparable(read_rows(args.results, family.name), 'test')
        if left_out:
            say(f'{family.name}: rows with older settings are not shown: {", ".join(left_out)}')
        known = [name for names in OVERVIEW.values() for name in names if family.has_method(name)]
        others = sorted({row.method for row in own} - {TEACHER, PLAIN, *known})
        if own:
            text = family_table(own, [TEACHER, PLAIN, *known, *others], seeds)
            tables.append(f'### {family.name}\n\n{text}')
        rows[family.name] = own
    overview = difference_table(rows, OVERVIEW, seeds)
    replace_block(args.docs / 'docs/benchmark.md', 'benchmark', '\n\n'.join([overview, *tables]))
    short = {name: OVERVIEW[name] for name in ('KD or QFL-KD', 'CKD', 'AEKT', 'CKD + AEKT')}
    plot = '![differences from plain training](docs/images/benchmark.png)'
    text = f'{difference_table(rows, short, seeds)}\n\n{plot}'
    replace_block(args.docs / 'README.md', 'benchmark', text)
    draw_differences(args.docs / 'docs/images/benchmark.png', rows, OVERVIEW)
    say(f'written: docs/benchmark.md, README.md and docs/images/benchmark.png in {args.docs}')


def main(argv: Sequence[str]) -> int:
    """Compare, or write the tables; return the exit code."""
    args = parse_args(argv)
    return in_clone('compare', lambda: (write_tables if args.tables else compare)(args))


def in_clone(name: str, action: Callable[[], None]) -> int:
    """Do something at the root of the clone that this package is in; the exit code, after a word on what went wrong."""
    try:
        if not (REPOSITORY / 'tools').is_dir():
            raise PreflightError(f'mmkd {name}: run it in a clone, with its installed package')
        os.chdir(REPOSITORY)
        action()
    except KeyboardInterrupt:
        say('interrupted: what is finished is kept, the same command goes on from there')
        return 130
    except PreflightError as error:
        return report_missing(error, 'none')
    except (JobError, OSError) as error:
        print(f'mmkd {name}: error: {error}', file=sys.stderr)
        return 1
    return 0
