"""A training and an evaluation, each run by its command in ``tools/`` and never twice.

A stage keeps a record beside its results: a fingerprint of all that the result depends on. While
the fingerprint stays the same, a finished stage is reused and an interrupted training continued;
once it differs, the stage starts over.

Commands and relative paths are meant from the root of the repository, which must be the current
folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mmengine.config import Config
from mmengine.logging import MMLogger

import mmkd
from mmkd.utils import add_common_arguments, load_config


class Action(Enum):
    """What to do with a stage."""

    REUSE = 'reuse'
    RESUME = 'resume'
    START = 'start'


@dataclass(frozen=True)
class Decision:
    """What to do with a stage and why; ``checkpoint`` is the file to continue from, if any."""

    action: Action
    reason: str
    checkpoint: Path | None = None


class StageError(RuntimeError):
    """A stage's command failed or left no result."""


class Stage(Protocol):
    """Something that :func:`mmkd.experiments.run_stages` can run as a process of its own."""

    @property
    def name(self) -> str:
        """How the stage is called in messages and in ``after`` of others."""

    @property
    def after(self) -> tuple[str, ...]:
        """The names of the stages whose results this one needs."""

    @property
    def threads(self) -> int | None:
        """Threads for its process; None: an equal share of the cores."""

    @property
    def log(self) -> Path:
        """The file that receives what the command prints."""

    @property
    def epochs(self) -> int:
        """The number of epochs to show progress against, 0 if it has none."""

    def prepare(self) -> tuple[Decision, list[str]]:
        """Decide what to do, record it, and return the command to run."""

    def finish(self, seconds: float, succeeded: bool) -> None:
        """Record the result after ``seconds`` of running; raise StageError if there is none."""


def resolve_config(config: str | Path, options: tuple[str, ...] = ()) -> Config:
    """The config as ``tools/train.py CONFIG --cfg-options OPTIONS`` sees it.

    Args:
        config: path of the config file.
        options: ``key=value`` strings.

    Returns:
        The config with the options applied.

    Raises:
        mmkd.utils.PreflightError: the file does not exist or an option cannot be applied.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    add_common_arguments(parser)
    # load_config reports a replaced data folder, which is news once per run, not once per look.
    MMLogger.get_current_instance().setLevel('WARNING')
    return load_config(parser.parse_args([str(config), *_options_arguments(options)]))


def relative_path(path: str | Path, root: Path) -> Path:
    """A path of the command line, which is meant from the current folder, as seen from ``root``.

    Inside ``root`` it is relative to it, so that results stay valid when the clone is moved;
    elsewhere it is absolute.
    """
    absolute = Path(path).absolute()
    return absolute.relative_to(root) if absolute.is_relative_to(root) else absolute


@dataclass(frozen=True)
class TrainingRun:
    """One training by ``tools/train.py``.

    Attributes:
        name: how the run is called.
        config: the config file, relative to the repository.
        work_dir: the folder for checkpoints and logs, relative to the repository or absolute.
        options: ``key=value`` settings for ``--cfg-options``.
        inputs: files on which the result depends besides the config: annotations, a teacher.
        after: names of the stages that make them.
        threads: threads of the process; None for an equal share of the cores.
    """

    name: str
    config: str
    work_dir: Path
    options: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    after: tuple[str, ...] = ()
    threads: int | None = None

    @cached_property
    def epochs(self) -> int:
        """The length of the training."""
        return int(resolve_config(self.config, self.options).train_cfg.max_epochs)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.work_dir / f'epoch_{self.epochs}.pth'

    @property
    def log(self) -> Path:
        """What the command printed, of all its calls."""
        return self.work_dir / 'console.log'

    @property
    def seconds(self) -> float:
        """How long the training took, all its calls together; interrupted epochs count."""
        return float(_read_json(self._record).get('seconds', 0.0))

    def decide(self) -> Decision:
        """Whether a training in ``work_dir`` is this one and finished, begun, or another one."""
        if not self._record.is_file():
            return Decision(Action.START, 'not trained before')
        difference = _difference(_read_json(self._record).get('fingerprint'), self._fingerprint())
        if difference is not None:
            return Decision(Action.START, difference)
        last = self._last_checkpoint()
        if last is None:
            return Decision(Action.START, 'interrupted before the first epoch was finished')
        if last == self.checkpoint:
            return Decision(Action.REUSE, 'trained before', last)
        return Decision(Action.RESUME, f'continuing from {last.name}', last)

    def prepare(self) -> tuple[Decision, list[str]]:
        """Decide, set what another run left aside as ``NAME.old``, and return the command."""
        decision = self.decide()
        if decision.action is Action.START:
            _clear(self.work_dir)
        if decision.action is not Action.REUSE:
            self.work_dir.mkdir(parents=True, exist_ok=True)
            _write_json(self._record, {'fingerprint': self._fingerprint(), 'seconds': self.seconds})
        command = [sys.executable, 'tools/train.py', self.config]
        command += ['--work-dir', str(self.work_dir)]
        if decision.action is Action.RESUME:
            command += ['--resume', str(decision.checkpoint)]
        return decision, command + _options_arguments(self.options)

    def finish(self, seconds: float, succeeded: bool) -> None:
        """Add the time to the record; raise if the last epoch's checkpoint is not there."""
        record = _read_json(self._record)
        _write_json(self._record, record | {'seconds': self.seconds + seconds})
        if succeeded and self._last_checkpoint() != self.checkpoint:
            raise StageError(f'{self.name}: the training ended without {self.checkpoint}')

    @property
    def _record(self) -> Path:
        return self.work_dir / 'run.json'

    def _fingerprint(self) -> dict[str, str]:
        return _fingerprint(self.config, self.options, self.inputs)

    def _last_checkpoint(self) -> Path | None:
        # MMEngine writes this file after the checkpoint: a checkpoint cut short is never named.
        pointer = self.work_dir / 'last_checkpoint'
        if not pointer.is_file():
            return None
        checkpoint = self.work_dir / Path(pointer.read_text(encoding='utf-8').strip()).name
        return checkpoint if checkpoint.is_file() else None


@dataclass(frozen=True)
class EvaluationRun:
    """One evaluation by ``tools/test.py``, with the predictions kept.

    Attributes:
        name: how the stage is called.
        config: the config file to evaluate with, relative to the repository.
        training: the run whose last checkpoint is evaluated.
        work_dir: the folder for the result, relative to the repository or absolute.
        options: ``key=value`` settings for ``--cfg-options``.
        inputs: files on which the result depends besides config and checkpoint.
        threads: threads of the process; None for an equal share of the cores.
    """

    name: str
    config: str
    training: TrainingRun
    work_dir: Path
    options: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    threads: int | None = None
    epochs: int = 0

    @property
    def after(self) -> tuple[str, ...]:
        """The training comes first."""
        return (self.training.name,)

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.work_dir / 'console.log'

    @property
    def predictions(self) -> Path:
        """MMEngine's dump of the predictions, a pickle."""
        return self.work_dir / 'predictions.pkl'

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by their names in MMEngine's log, such as ``coco/bbox_mAP``."""
        return _read_json(self._record)['metrics']

    def decide(self) -> Decision:
        """Whether ``work_dir`` holds the result for this very checkpoint."""
        if not self._record.is_file() or not self.predictions.is_file():
            return Decision(Action.START, 'not evaluated before')
        difference = _difference(_read_json(self._record).get('fingerprint'), self._fingerprint())
        if difference is not None:
            return Decision(Action.START, difference)
        return Decision(Action.REUSE, 'evaluated before', self.training.checkpoint)

    def prepare(self) -> tuple[Decision, list[str]]:
        """Decide, remove a result that is no longer true, and return the command."""
        decision = self.decide()
        if decision.action is Action.START:
            shutil.rmtree(self.work_dir, ignore_errors=True)
            self.work_dir.mkdir(parents=True)
        command = [sys.executable, 'tools/test.py', self.config, str(self.training.checkpoint)]
        command += ['--work-dir', str(self.work_dir), '--out', str(self.predictions)]
        return decision, command + _options_arguments(self.options)

    def finish(self, seconds: float, succeeded: bool) -> None:
        """Read the metrics that MMEngine wrote and record them with the fingerprint."""
        if not succeeded:
            return
        # MMEngine writes TIMESTAMP/TIMESTAMP.json.
        written = [path for path in self.work_dir.glob('*/*.json') if path.stem == path.parent.name]
        if len(written) != 1:
            raise StageError(f'{self.name}: the evaluation left no metrics in {self.work_dir}')
        metrics = {key: value for key, value in _read_json(written[0]).items() if '/' in key}
        _write_json(self._record, {'fingerprint': self._fingerprint(), 'metrics': metrics})

    @property
    def _record(self) -> Path:
        return self.work_dir / 'evaluation.json'

    def _fingerprint(self) -> dict[str, str]:
        return _fingerprint(self.config, self.options, (self.training.checkpoint, *self.inputs))


def _options_arguments(options: tuple[str, ...]) -> list[str]:
    return ['--cfg-options', *options] if options else []


def _fingerprint(
    config: str | Path, options: tuple[str, ...], inputs: tuple[Path, ...]
) -> dict[str, str]:
    """A digest of each thing that a result depends on, by its name."""
    settings = resolve_config(config, options).to_dict()
    del settings['work_dir']
    # Results stay valid when the clone is moved: paths inside count from where the tools run, its root.
    text = json.dumps(settings, sort_keys=True, default=str).replace(f'{Path.cwd()}/', '')
    return {
        'the config': hashlib.sha256(text.encode()).hexdigest(),
        "mmkd's version": mmkd.__version__,
        **{str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs},
    }


def _difference(recorded: Any, current: dict[str, str]) -> str | None:
    """What differs between two fingerprints, in words; None if nothing does."""
    if not isinstance(recorded, dict):
        return 'the record of the earlier run cannot be read'
    names = sorted({*recorded, *current})
    changed = [name for name in names if recorded.get(name) != current.get(name)]
    return f'changed since: {", ".join(changed)}' if changed else None


def _clear(work_dir: Path) -> None:
    """Remove a run without checkpoints; rename any other to ``NAME.old``, which it replaces."""
    if any(work_dir.glob('*.pth')):
        old = work_dir.with_name(work_dir.name + '.old')
        shutil.rmtree(old, ignore_errors=True)
        work_dir.rename(old)
    else:
        shutil.rmtree(work_dir, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or cut short."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    # Written aside and renamed: a kill leaves the old record or the new one.
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    os.replace(partial, path)
