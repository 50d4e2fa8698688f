"""The cells of a comparison, (family, method, seed, split), and the commands that make them.

A cell is a training by ``tools/train.py``, an evaluation by ``tools/test.py`` and a row of results. All cells of a
family train on the data of its plain student's config, ``SeededViews`` included: the plain student sees the pictures
that the distilled ones see, and one store of the teacher's outputs serves them all.

Commands and relative paths are meant from the root of the repository, which must be the current folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmkd.experiments.jobs import Command, Job, JobError, spent
from mmkd.report import (
    PLAIN,
    TEACHER,
    Row,
    cell_text,
    locked,
    main_column,
    points,
    read_rows,
    record,
)
from mmkd.utils import PreflightError, add_common_arguments, add_recipe_arguments, load_config
from mmkd.utils.export import read_metrics

FOLDERS = (Path('configs/shapes'), Path('configs/shapes_cls'))
NOTHING_TO_STORE = 3
"""What tools/cache_teacher.py exits with where no loss can be answered from a store."""
_RESULT_DEPENDS_ON = (
    'model', 'data_preprocessor', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'test_dataloader',
    'test_evaluator', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'custom_hooks',
)  # fmt: skip
_OF_NO_EFFECT = ('num_workers', 'persistent_workers', 'pin_memory', 'backend_args')


@dataclass(frozen=True)
class Family:
    """A pair of teacher and student: the configs ``FOLDER/NAME_teacher.py``, ``_student.py`` and ``_ckd.py``."""

    name: str
    folder: Path

    @classmethod
    def all(cls, folders: Iterable[Path] = FOLDERS) -> dict[str, Family]:
        """All families by name."""
        found = (
            cls(path.name.removesuffix('_teacher.py'), folder)
            for folder in folders
            for path in folder.glob('*_teacher.py')
        )
        with_student = [family for family in found if family.config('student').exists()]
        return {family.name: family for family in sorted(with_student, key=lambda each: each.name)}

    def config(self, part: str) -> Path:
        """Of ``'teacher'``, ``'student'`` or a method that has a file."""
        return self.folder / f'{self.name}_{part}.py'

    @cached_property
    def student(self) -> Config:
        """The plain student's config."""
        return Config.fromfile(self.config('student'))

    def has_method(self, method: str) -> bool:
        """Whether a method means something on its student's head: it has a file, or a preset."""
        if method in (PLAIN, TEACHER) or self.config(method.replace('+', '_')).exists():
            return True
        teacher = ('--teacher', f'{self.config(TEACHER)}=any.pth')
        try:
            resolve((str(self.config('student')), *teacher, '--losses', method))
        except PreflightError:
            return False
        return True

    @cached_property
    def checkpoint(self) -> Path:
        """The teacher's checkpoint that ``FAMILY_ckd.py`` names.

        Raises:
            PreflightError: It is not there.
        """
        recipe = self.config('ckd')
        checkpoint = Path(os.path.relpath(Config.fromfile(recipe).model.teacher.checkpoint))
        if not checkpoint.exists():
            raise PreflightError(
                f'{recipe}: model.teacher.checkpoint: there is no {checkpoint}: with --train-teacher the teacher is '
                'trained first'
            )
        return checkpoint


@dataclass(frozen=True)
class Cell:
    """A training and its evaluation.

    Attributes:
        family: What is trained.
        method: Name of the row: of a method (``'ckd+aekt'``), of a variant of one, ``'plain'`` or ``'teacher'``.
        seed: Of the training.
        split: What it is evaluated on.
        base: The method that is trained, if the row has another name.
        options: Settings of a variant, ``key=value``.
    """

    family: Family
    method: str
    seed: int
    split: str = 'test'
    base: str = ''
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'base', self.base or self.method)

    @property
    def is_distilled(self) -> bool:
        """Whether the student has a teacher."""
        return self.base not in (PLAIN, TEACHER)

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher has to be there."""
        return self.base != PLAIN

    @property
    def name(self) -> str:
        """How it is called in messages."""
        return f'{self.family.name} {self.method}' + f' {self.seed}' * (self.method != TEACHER)


@dataclass(frozen=True)
class Comparison:
    """How cells are made.

    Attributes:
        work_dir: The folder for logs and checkpoints.
        results: The folder of the rows.
        options: Further settings of all trainings and evaluations, ``key=value``.
        data_root: The data's folder, if not the config's.
        train_teacher: Train the teachers in place of taking the checkpoints that are there.
        validate: Let trainings validate as their config says; otherwise only the last epoch is evaluated, after it.
        predictions: Keep the predictions of the evaluations.
    """

    work_dir: Path
    results: Path
    options: tuple[str, ...] = ()
    data_root: Path | None = None
    train_teacher: bool = False
    validate: bool = False
    predictions: bool = False

    def is_done(self, cell: Cell) -> bool:
        """Whether there is a row of the cell, made with these settings."""
        rows = {row.cell: row for row in read_rows(self.results, cell.family.name)}
        row = rows.get((cell.split, cell.method, cell.seed))
        kept = not self.predictions or self.predicted(cell).exists()
        return row is not None and row.settings == self.settings(cell) and kept

    def jobs(self, cells: Sequence[Cell]) -> list[Job]:
        """What makes the cells that are not done, in their order."""
        cells = [cell for cell in cells if not self.is_done(cell)]
        distilled = [cell for cell in cells if cell.is_distilled]
        make = partial(self.make, distilled=distilled, commit=code_version())
        return [Job(cell.name, self.folder(cell), partial(make, cell)) for cell in cells]

    def make(self, cell: Cell, distilled: Sequence[Cell], commit: str) -> str:
        """Train, evaluate and record a cell, after what it shares with others; a word on the result.

        Another comparison that makes the same cell is waited for, and its row taken.

        Args:
            cell: The cell; it may be made in another process at the same time as others.
            distilled: All cells that the store of the teacher's outputs is to serve.
            commit: The code's; the row names it after those with which earlier calls began the cell.

        Raises:
            JobError: A training or an evaluation failed.
        """
        with locked(self.folder(cell)):
            if self.is_done(cell):
                return 'made by another comparison meanwhile'
            return self._make(cell, distilled, commit)

    def _make(self, cell: Cell, distilled: Sequence[Cell], commit: str) -> str:
        family, folder, checkpoint, said = cell.family, self.folder(cell), self.checkpoint(cell), ''
        if cell.needs_teacher and self.train_teacher:
            teacher = self._teacher_checkpoint(family)
            with locked(teacher.parent):
                if not teacher.exists():
                    self._teacher_training(family).run(teacher.parent)
        if cell.is_distilled and (views := family.student.train_dataloader.dataset.get('views')):
            said = self._make_store(
                family, [each for each in distilled if each.family == family], views
            )
        _note_commit(folder, commit)
        train_and_test = self._commands(cell)[-1 - (cell.method != TEACHER) :]
        for command in train_and_test[-1:] if checkpoint.exists() else train_and_test:
            command.run(folder)
        metrics = _written_metrics(folder / 'test')
        row = Row(
            family=family.name,
            method=cell.method,
            seed=cell.seed,
            split=cell.split,
            metrics=metrics,
            seconds=round(spent(checkpoint.parent, 'train'), 1) or None,
            settings=self.settings(cell),
            commit=' '.join(_noted_commits(folder)),
            date=datetime.now(UTC).isoformat(timespec='seconds'),
            commands=[shlex.join(['python', *command.words]) for command in self._commands(cell)],
        )
        record(self.results, row)
        main = main_column(metrics)
        return f'{main} {cell_text(points(metrics)[main])}{said}'

    def _make_store(self, family: Family, distilled: Sequence[Cell], views: int) -> str:
        """Ask for the store, once for all of the cells; a word on what it took, of the process that did."""
        folder, commands = self._store(family), self._store_commands(family, distilled)
        asked = '\n'.join(shlex.join(command.words) for command in commands)
        with locked(folder):
            done = folder / 'asked.txt'
            if done.exists() and done.read_text() == asked:
                return ''
            for command in commands:
                command.run(folder)
            done.write_text(asked)
        if not self._has_store(family):
            return '; no loss can be answered from a store: the teacher runs in every step'
        seconds = spent(folder, 'cache')
        return f'; the store took {seconds:.0f} s, which it spares each run in {views} epochs'

    def folder(self, cell: Cell) -> Path:
        """Where a cell's log, checkpoints and predictions are; other settings have another folder."""
        name = f'{cell.method}-{self.settings(cell)}'
        return self.work_dir / cell.family.name / name / f'seed_{cell.seed}'

    def predicted(self, cell: Cell) -> Path:
        """Its predictions, a pickle."""
        return self.folder(cell) / 'predictions.pkl'

    def checkpoint(self, cell: Cell) -> Path:
        """What is evaluated: the last epoch's."""
        if cell.method == TEACHER:
            return self._teacher_checkpoint(cell.family)
        return self.folder(cell) / f'epoch_{self.resolved(cell).train_cfg.max_epochs}.pth'

    def resolved(self, cell: Cell) -> Config:
        """The config of its training; of the teacher's cell that of its evaluation."""
        return resolve(self._recipe(cell), self._options(cell))

    def settings(self, cell: Cell) -> str:
        """Digest of all that a result depends on but the seed and the code."""
        weights = self._teacher(cell.family) if cell.method == TEACHER else ''
        return _digest(self.resolved(cell), self._data(cell.family), weights)

    @property
    def _common(self) -> tuple[str, ...]:
        return ((f'data_root={self.data_root}/',) if self.data_root else ()) + self.options

    def _recipe(self, cell: Cell) -> tuple[str, ...]:
        """Config, teacher and losses as on the command line."""
        family = cell.family
        if not cell.is_distilled:
            return (str(family.config(TEACHER if cell.method == TEACHER else 'student')),)
        file = family.config(cell.base.replace('+', '_'))
        teacher = ('--teacher', self._teacher(family))
        if file.exists():
            return (str(file), *(teacher if self.train_teacher else ()))
        return (str(family.config('student')), *teacher, '--losses', cell.base)

    def _options(self, cell: Cell) -> tuple[str, ...]:
        options = (*self._common, *cell.options)
        if self.validate or cell.method == TEACHER:
            return options
        epochs = resolve(self._recipe(cell), options).train_cfg.max_epochs
        return (*options, f'train_cfg.val_begin={epochs + 1}')

    def _data(self, family: Family) -> Path:
        return self.data_root or Path(family.student.data_root)

    def _teacher(self, family: Family) -> str:
        return f'{family.config(TEACHER)}={self._teacher_checkpoint(family)}'

    def _teacher_checkpoint(self, family: Family) -> Path:
        if not self.train_teacher:
            return family.checkpoint
        cfg = resolve((str(family.config(TEACHER)),), self._common)
        folder = f'teacher-{_digest(cfg, self._data(family), "")}'
        return self.work_dir / family.name / folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'

    def _store(self, family: Family) -> Path:
        dataset = json.dumps(family.student.train_dataloader.dataset, default=str)
        key = f'{self._teacher(family)} {self._data(family)} {dataset}'
        name = f'store-{hashlib.sha256(key.encode()).hexdigest()[:8]}'
        return self.work_dir / family.name / name

    def _has_store(self, family: Family) -> bool:
        return (self._store(family) / 'rows' / 'manifest.json').exists()

    def _teacher_training(self, family: Family) -> Command:
        options = (*self._common, 'randomness.seed=0')
        folder = self._teacher_checkpoint(family).parent
        return _train((str(family.config(TEACHER)),), options, folder)

    def _store_commands(self, family: Family, distilled: Iterable[Cell]) -> list[Command]:
        """The methods without a file of their own ask together, so that the store is made once."""
        recipes = list(dict.fromkeys(self._recipe(cell) for cell in distilled))
        files = [recipe for recipe in recipes if '--losses' not in recipe]
        losses = {loss for each in recipes if each not in files for loss in each[-1].split('+')}
        if losses:
            together = next(each for each in recipes if each not in files)[:-1]
            files.insert(0, (*together, '+'.join(sorted(losses))))
        options = ('--out', str(self._store(family) / 'rows'), *_cfg_options(self._common))
        return [
            Command('cache', ('tools/cache_teacher.py', *each, *options), (0, NOTHING_TO_STORE))
            for each in files
        ]

    def _commands(self, cell: Cell) -> list[Command]:
        """All that the cell takes, what it shares with others first: the teacher's training, its store."""
        folder, commands = self.folder(cell), list[Command]()
        if cell.needs_teacher and self.train_teacher:
            commands.append(self._teacher_training(cell.family))
        options = (*self._options(cell), f'randomness.seed={cell.seed}')
        if cell.is_distilled and self._has_store(cell.family):
            commands += self._store_commands(cell.family, [cell])
            rows = self._store(cell.family) / 'rows'
            options += (f'model.teacher.store={rows}', 'model.teacher.store_miss=live')
        if cell.method != TEACHER:
            commands.append(_train(self._recipe(cell), options, folder))
        config = cell.family.config(TEACHER if cell.method == TEACHER else 'student')
        words = ['tools/test.py', str(config), str(self.checkpoint(cell)), '--split', cell.split]
        words += ['--work-dir', str(folder / 'test')]
        if self.predictions:
            words += ['--out', str(self.predicted(cell))]
        # A distillation's variants set nothing of the student.
        own = () if cell.is_distilled else cell.options
        commands.append(Command('test', (*words, *_cfg_options((*self._common, *own)))))
        return commands


@cache
def resolve(recipe: tuple[str, ...], options: tuple[str, ...] = ()) -> Config:
    """The config as ``tools/train.py RECIPE --cfg-options OPTIONS`` sees it; not to be changed.

    Raises:
        PreflightError: It cannot be read, or an option cannot be applied.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    add_recipe_arguments(parser)
    add_common_arguments(parser)
    # load_config reports a replaced data folder, which is news once per run, not once per look.
    MMLogger.get_current_instance().setLevel('WARNING')
    return load_config(parser.parse_args([*recipe, *_cfg_options(options)]))


def code_version() -> str:
    """The commit, with ``+`` if code or configs differ from it; empty outside of a clone."""

    def git(*words: str) -> str:
        run = subprocess.run(['git', *words], capture_output=True, text=True, check=False)
        return run.stdout.strip()

    changed = git('status', '--porcelain', '--', 'mmkd', 'configs', 'tools')
    return git('rev-parse', '--short=10', 'HEAD') + '+' * bool(changed)


def _note_commit(folder: Path, commit: str) -> None:
    """Remember in a cell's folder of which commit the code is that goes on with it."""
    if commit and commit not in _noted_commits(folder):
        with (folder / 'commits.txt').open('a') as file:
            file.write(f'{commit}\n')


def _noted_commits(folder: Path) -> list[str]:
    path = folder / 'commits.txt'
    return path.read_text().split() if path.exists() else []


def _cfg_options(options: Sequence[str]) -> tuple[str, ...]:
    return ('--cfg-options', *options) if options else ()


def _train(recipe: Sequence[str], options: Sequence[str], work_dir: Path) -> Command:
    """A training that goes on where one in the folder was stopped."""
    # MMEngine removes an old checkpoint before it writes the new one: with one kept, a kill between the two would
    # lose both.
    options = (*options, 'default_hooks.checkpoint.max_keep_ckpts=2')
    words = ('tools/train.py', *recipe, '--work-dir', str(work_dir), '--resume')
    return Command('train', (*words, *_cfg_options(options)))


def _digest(cfg: Config, data: Path, more: str) -> str:
    settings = {key: _effective(cfg.get(key)) for key in _RESULT_DEPENDS_ON}
    # Results stay valid when the clone is moved: paths inside count from its root.
    text = json.dumps(settings, sort_keys=True, default=str).replace(f'{Path.cwd()}/', '')
    digest = hashlib.sha256(f'{text}{more}'.encode())
    for path in sorted([*data.glob('annotations/*.json'), *data.glob('meta/*')]):
        digest.update(_file_digest(path, path.stat().st_mtime_ns))
    return digest.hexdigest()[:8]


@cache
def _file_digest(path: Path, changed: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _effective(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _effective(value) for key, value in node.items() if key not in _OF_NO_EFFECT}
    return [_effective(value) for value in node] if isinstance(node, list | tuple) else node


def _written_metrics(work_dir: Path) -> dict[str, float]:
    """The metrics that MMEngine wrote last, TIMESTAMP/TIMESTAMP.json."""
    written = [path for path in work_dir.glob('*/*.json') if path.stem == path.parent.name]
    if not written:
        raise JobError(f'{work_dir}: the evaluation left no metrics')
    return read_metrics(max(written))
