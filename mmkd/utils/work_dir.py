"""One run per work folder, and where a run in it goes on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import os.path as osp
import re
import socket
from collections.abc import Iterator
from glob import escape, glob

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmkd.checkpoints import CorruptCheckpointError, UnsafeCheckpointError, check_whole
from mmkd.utils.preflight import PreflightError
from mmkd.utils.processes import global_rank
from mmkd.utils.same_recipe import differences

LOCK_NAME = '.mmkd.lock'


@contextlib.contextmanager
def lock_work_dir(
    work_dir: str, launcher: str = 'none', option: str = '--work-dir'
) -> Iterator[None]:
    """Keep other runs out of the folder while the block runs.

    The lock belongs to the process and ends with it, also after SIGKILL: the file that stays locks nothing. Of the
    processes of one run only the first takes it.

    Args:
        work_dir: The run's folder, made if it is not there.
        launcher: What started the processes.
        option: The option of the command that names the folder.

    Raises:
        PreflightError: Another run is in the folder; the message says which.
    """
    if global_rank(launcher) != 0:
        yield
        return
    os.makedirs(work_dir, exist_ok=True)
    # Appended to, so that what the run that holds the lock wrote stays. Not removed at the end: another run could have
    # opened it, and would lock what no third one finds.
    with open(osp.join(work_dir, LOCK_NAME), 'a+', encoding='utf-8') as file:
        try:
            # Not flock, which the dataloader's workers would inherit and hold on to for a while after a kill.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise PreflightError(
                    f'work_dir: another run is training in {work_dir} ({file.read().strip() or "unknown"}): wait for '
                    f'it, stop it, or give another folder with {option}'
                ) from None
            print_log(
                f'{work_dir} cannot be locked ({error.strerror}): see that no other run uses it',
                'current',
                logging.WARNING,
            )
        else:
            file.truncate(0)
            file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
            file.flush()
        yield


def resolve_resume(cfg: Config) -> None:
    """Set ``cfg.load_from`` to the checkpoint from which ``--resume`` goes on: the last whole one.

    Args:
        cfg: With ``resume`` set, and ``load_from`` if the user named a file. Changed in place: without any checkpoint
            in the folder, ``resume`` is unset and the run begins at its beginning.

    Raises:
        PreflightError: The named file is truncated or damaged, or all files of the folder are; or it is of another
            recipe: one with other losses, student or teacher.
    """
    if not cfg.get('resume'):
        return
    if not cfg.get('load_from'):
        _find_last(cfg)
    elif osp.isfile(cfg.load_from):
        _check_named(cfg)
    if cfg.resume and osp.isfile(cfg.load_from):
        _check_recipe(cfg)


def warn_of_overwriting(cfg: Config) -> None:
    """Say so if the folder holds checkpoints that a run from the beginning is about to write over.

    Args:
        cfg: The run's config, after :func:`resolve_resume`.
    """
    folder = _checkpoint_dir(cfg)
    if cfg.get('resume') and osp.realpath(folder) == osp.realpath(osp.dirname(cfg.load_from)):
        return
    there = [path for path in glob(osp.join(escape(folder), '*.pth')) if _name(path)[1] is not None]
    if there:
        _warn(
            cfg,
            f'{folder} holds {len(there)} checkpoint{"s" * (len(there) > 1)} of an earlier run '
            f'({osp.basename(max(there, key=osp.getmtime))} is the latest), which this run will write over: to '
            'keep them, stop it now and give another folder with --work-dir; to go on with them, --resume',
        )


def kept_checkpoint(cfg: Config, since: float) -> str | None:
    """The checkpoint that ``--resume`` would go on from, None if neither this run nor one it resumes saved any.

    Args:
        cfg: The run's config, after :func:`resolve_resume`.
        since: When the run began, as ``time.time()`` says it.
    """
    for path in _checkpoints(_checkpoint_dir(cfg), cfg.work_dir):
        if osp.getmtime(path) >= since or (cfg.get('resume') and path == cfg.get('load_from')):
            return path
    return None


def _find_last(cfg: Config) -> None:
    """Set ``cfg.load_from`` to the last whole checkpoint of the folder, or unset ``cfg.resume``."""
    candidates = _checkpoints(_checkpoint_dir(cfg), cfg.work_dir)
    problems = []
    for path in candidates:
        try:
            check_whole(path)
        except (CorruptCheckpointError, OSError) as error:
            problems.append(str(error))
            continue
        if problems:
            _warn(cfg, f'{"; ".join(problems)}. The run goes on from the one before: {path}')
        cfg.load_from = path
        return
    if problems:
        raise PreflightError(
            f'--resume: no checkpoint in {cfg.work_dir} is whole: {"; ".join(problems)}. To begin at the '
            'beginning, leave --resume out'
        )
    _warn(cfg, f'--resume: there is no checkpoint in {cfg.work_dir} yet: the run begins')
    cfg.resume = False


def _check_recipe(cfg: Config) -> None:
    """Refuse a checkpoint of another recipe, and say what else has changed."""
    try:
        checkpoint = CheckpointLoader.load_checkpoint(cfg.load_from, 'cpu', logger='silent')
    except (CorruptCheckpointError, UnsafeCheckpointError) as error:
        raise PreflightError(f'--resume: {error}') from None
    meta = checkpoint.get('meta') or {}
    if not {'epoch', 'iter'} <= meta.keys():
        raise PreflightError(
            f'--resume: {cfg.load_from} holds weights, but not how far its run was: to begin a run from these '
            f'weights, leave --resume out and give --cfg-options load_from={cfg.load_from}'
        )
    try:
        essential, others = differences(cfg, meta)
    except ValueError as error:
        _warn(cfg, f'--resume: {cfg.load_from}: {error}: see that its recipe was this one')
        return
    if essential:
        raise PreflightError(
            f'--resume: {cfg.load_from} is of another recipe:\n  '
            + '\n  '.join(essential)
            + '\ngo on with the recipe that began it; or begin a run of its own, in another --work-dir, '
            f'from its weights: --cfg-options load_from={cfg.load_from}'
        )
    if others:
        _warn(cfg, f'--resume: changed since {cfg.load_from}: {"; ".join(others)}')


def _check_named(cfg: Config) -> None:
    try:
        check_whole(cfg.load_from)
    except CorruptCheckpointError as error:
        raise PreflightError(
            f'--resume: {error}: name an earlier checkpoint, or let --resume without a path find '
            'the last whole one'
        ) from None


def _checkpoint_dir(cfg: Config) -> str:
    """Where MMEngine's CheckpointHook saves."""
    out_dir = (cfg.get('default_hooks', {}).get('checkpoint') or {}).get('out_dir')
    if out_dir is None:
        return cfg.work_dir
    return osp.join(out_dir, osp.basename(osp.normpath(cfg.work_dir)))


def _checkpoints(folder: str, work_dir: str) -> list[str]:
    """Paths of a run's checkpoints, last first, none later than the one MMEngine wrote down as the last.

    A folder can hold later ones of an earlier, longer run.
    """
    last = ''
    with (
        contextlib.suppress(FileNotFoundError),
        open(osp.join(work_dir, 'last_checkpoint')) as file,
    ):
        last = file.read().strip()
    prefix, last_number = _name(last) if last else ('', None)
    numbered = [
        (number, path)
        for path in glob(osp.join(escape(folder), '*.pth'))
        for name, number in [_name(path)]
        if number is not None
        and (name == prefix if last else name in ('epoch_', 'iter_'))
        and (last_number is None or number <= last_number)
    ]
    # Of a run that saves by epoch and by iteration and has no last_checkpoint, what was written last.
    by_time = not last and len({_name(path)[0] for _, path in numbered}) > 1
    numbered.sort(key=lambda item: osp.getmtime(item[1]) if by_time else item[0], reverse=True)
    found = [path for _, path in numbered]
    if last and osp.exists(last) and osp.abspath(last) not in map(osp.abspath, found):
        found.insert(0, last)  # moved, or of another name
    return found


def _name(path: str) -> tuple[str, int | None]:
    """``epoch_`` and 12 of ``epoch_12.pth``."""
    found = re.fullmatch(r'(.*?)(\d+)\.pth', osp.basename(path))
    return (found[1], int(found[2])) if found else (osp.basename(path), None)


def _warn(cfg: Config, message: str) -> None:
    if global_rank(cfg.get('launcher', 'none')) == 0:
        print_log(message, 'current', logging.WARNING)
