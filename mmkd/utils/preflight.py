"""Check what a run needs before anything is built, and say all that is missing at once."""

from __future__ import annotations

import inspect
import os
import os.path as osp
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from mmkd.checkpoints import (
    CorruptCheckpointError,
    cache_path,
    download,
    resolve_name,
)
from mmkd.datasets.configs import class_of, data_sets, has_method_of
from mmkd.utils.annotations import coco_damage, json_damage
from mmkd.utils.processes import local_rank
from mmkd.utils.settings import pretrained_parts, settings
from mmkd.utils.student_config import teacher_configs

COCO_DOWNLOADS = """\
This is COCO 2017: from https://cocodataset.org/#download get
  train2017.zip (18 GB), val2017.zip (1 GB) and annotations_trainval2017.zip (241 MB)
and unpack all three in one folder, which then holds train2017/, val2017/ and annotations/."""
IMAGENET_DOWNLOADS = """\
This is ImageNet-1k: from https://image-net.org (an account is needed) get
  ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar
and unpack them as train/CLASS/*.JPEG and val/CLASS/*.JPEG."""
WITHOUT_DOWNLOADS = """\
To try the toolkit without any download, use the embedded data:
  bash tools/quickstart.sh                  everything, from the data to a comparison
  python tools/make_shapes.py data/shapes   the data alone"""

_NOT_FOUND = 'data: not found'


class PreflightError(RuntimeError):
    """Something outside the program is missing. The message lists every problem found.

    Args:
        *problems: one text per problem, each naming the setting at fault and what to do.
        hint: an advice that holds for all of them, printed last.
    """

    exit_code = 2
    """Of the command that ends with it."""

    def __init__(self, *problems: str, hint: str = '') -> None:
        self.problems = list(problems)
        count = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
        texts = [f'{number}. {_indent(text)}' for number, text in enumerate(problems, start=1)]
        super().__init__('\n\n'.join([f'Not started: {count}.', *texts, *([hint] if hint else [])]))


def check_before_training(cfg: Config) -> None:
    """Check the data, checkpoints, device and work folder that training with ``cfg`` needs.

    If nothing is missing, checkpoints given by URL are downloaded into PyTorch's cache, where the
    Teacher and MMEngine find them. Of the processes of one machine only the first checks and
    downloads; the others wait for it when they open the process group.

    Args:
        cfg: a recipe or a plain config, with ``launcher`` and ``work_dir`` set.

    Raises:
        PreflightError: with all problems found, not only the first.
    """
    _check(cfg, splits=('train', 'val'), checkpoints=_training_checkpoints(cfg))


def check_before_testing(cfg: Config) -> None:
    """Check the data, checkpoint, device and work folder that testing with ``cfg`` needs.

    Args:
        cfg: the config of a plain model, with ``launcher``, ``work_dir`` and ``load_from`` set.

    Raises:
        PreflightError: with all problems found, not only the first.
    """
    _check(cfg, splits=('test',), checkpoints=_loaded_checkpoint(cfg, 'checkpoint'))


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint that a config names."""

    key: str
    name: str
    advice: str


def _check(cfg: Config, splits: tuple[str, ...], checkpoints: list[_Checkpoint]) -> None:
    if local_rank(cfg.get('launcher', 'none')) != 0:
        return
    problems = _data_problems(cfg, splits) + _device_problems(cfg)
    problems += _work_dir_problems(cfg.work_dir)
    problems += filter(None, map(_missing_checkpoint, checkpoints))
    if not problems:  # nothing is downloaded for a run that cannot start
        problems += filter(None, map(_failed_download, checkpoints))
    if problems:
        lacks_data = problems[0].startswith(_NOT_FOUND)
        raise PreflightError(*problems, hint=WITHOUT_DOWNLOADS if lacks_data else '')


# ---- data ----


def _data_problems(cfg: Config, splits: tuple[str, ...]) -> list[str]:
    """What is not there; where all is there, which annotations cannot be used."""
    scope = cfg.get('default_scope')
    missing: dict[str, dict[str, str]] = {}
    unusable: dict[str, str] = {}

    def look_at(
        key: str, path: str, roots: Iterable[str], names: dict[str, Any] | None, needs_objects: bool
    ) -> None:
        if not osp.exists(path):
            root = next((root for root in roots if root and path.startswith(root)), '')
            missing.setdefault(root, {}).setdefault(path, key)
            return
        damage = None
        if key.endswith('.ann_file') and names is not None:
            damage = coco_damage(path, names.get('classes'), needs_objects)
        elif key.endswith('.ann_file') and path.endswith('.json'):
            damage = json_damage(path)
        if damage is not None:
            unusable.setdefault(path, f'{key}: {path}: {damage}')

    for split in splits:
        evaluated: dict[str, Any] | None = None
        for key, dataset in _datasets(cfg, split):
            names = _coco_names(dataset, scope)
            filters = (dataset.get('filter_cfg') or {}).get('filter_empty_gt', False)
            needs_objects = split == 'val' or (split == 'train' and filters)
            for path_key, path in _dataset_paths(dataset, key, scope):
                look_at(path_key, path, [dataset.get('data_root') or ''], names, needs_objects)
            # Of a panoptic data set's names, a file of instances has the things only.
            if names is not None and 'thing_classes' not in names:
                evaluated = names
        for key, path in _evaluator_paths(cfg, split):
            look_at(key, path, missing, evaluated, split == 'val')
    found = [_data_problem(root, paths) for root, paths in missing.items()]
    return found or list(unusable.values())


def _data_problem(root: str, paths: dict[str, str]) -> str:
    lines = [f'{_NOT_FOUND} under {root!r}:' if root else f'{_NOT_FOUND}:']
    lines += [f'  {path}  ({key})' for path, key in paths.items()]
    if 'shapes' in osp.basename(osp.normpath(root)):
        lines.append(
            f'This is the embedded data: make it with `python tools/make_shapes.py {root}`.'
        )
    elif any(re.search(r'(train|val)2017', path) for path in paths):
        lines.append(COCO_DOWNLOADS)
    elif 'imagenet' in root.lower():
        lines.append(IMAGENET_DOWNLOADS)
    if root:
        lines.append(
            f'Put the data in {osp.abspath(root)}, or name the folder that holds it: '
            '--cfg-options data_root=/path/to/folder'
        )
    else:
        lines.append('Set each to a path that exists: --cfg-options KEY=PATH')
    return '\n'.join(lines)


def _datasets(cfg: Config, split: str) -> Iterator[tuple[str, Any]]:
    loader = cfg.get(f'{split}_dataloader') or {}
    return data_sets(loader.get('dataset'), f'{split}_dataloader.dataset')


def _coco_names(dataset: Mapping[str, Any], scope: str | None) -> dict[str, Any] | None:
    """The names that a data set gives its classes; None if it is not read as MMDetection reads COCO's."""
    kind, metainfo = class_of(dataset, scope), dataset.get('metainfo') or {}
    if not has_method_of(kind, 'CocoDataset', 'load_data_list') or not isinstance(metainfo, dict):
        return None
    return kind._load_metainfo(metainfo)


def _dataset_paths(dataset: dict, key: str, scope: str | None) -> list[tuple[str, str]]:
    """(key, path) of all that a dataset reads from this machine's disk."""
    if _is_remote(dataset) or _downloads_itself(dataset, scope):
        return []
    root = dataset.get('data_root') or ''
    settings = {'ann_file': dataset.get('ann_file')}
    prefix = dataset.get('data_prefix')
    if isinstance(prefix, dict):
        settings |= {f'data_prefix.{name}': folder for name, folder in prefix.items()}
    else:
        settings['data_prefix'] = prefix
    paths = [
        (f'{key}.{name}', osp.join(root, value))
        for name, value in settings.items()
        if isinstance(value, str) and value and '://' not in value
    ]
    if not paths and root:
        # A dataset without paths of its own, as ImageNet, takes the folder named like the split.
        paths = [(f'{key}.data_root', osp.join(root, dataset.get('split') or ''))]
    return paths


def _evaluator_paths(cfg: Config, split: str) -> list[tuple[str, str]]:
    """(key, path) of the annotation files that the evaluator of a split reads."""
    key = f'{split}_evaluator'
    nodes = [(key, cfg.get(key)), *settings(cfg.get(key), key)]
    return [
        (f'{key}.ann_file', node['ann_file'])
        for key, node in nodes
        if isinstance(node, dict) and isinstance(node.get('ann_file'), str) and not _is_remote(node)
    ]


def _is_remote(node: dict) -> bool:
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    return backend != 'local' or '://' in (node.get('data_root') or '')


def _downloads_itself(dataset: dict, scope: str | None) -> bool:
    """Whether a missing data set is fetched by its own class, as MMPretrain's CIFAR100 does."""
    kind = class_of(dataset, scope)
    if kind is None:
        return False
    download = inspect.signature(kind).parameters.get('download')
    return download is not None and bool(dataset.get('download', download.default))


# ---- checkpoints ----


def _training_checkpoints(cfg: Config) -> list[_Checkpoint]:
    checkpoints = _loaded_checkpoint(cfg, '--resume' if cfg.get('resume') else 'load_from')
    model = cfg.get('model', {})
    for key, teacher in teacher_configs(model).items():
        # Only a distillation needs mmkd's models, so a plain run does not import them.
        from mmkd.teachers import RANDOM_INIT

        name = teacher.get('checkpoint')
        if isinstance(name, str) and name != RANDOM_INIT:
            key += '.checkpoint'
            checkpoints.append(
                _Checkpoint(key, name, f"give the teacher's file: --cfg-options {key}=PATH")
            )
    for key, init_cfg in pretrained_parts(model, 'model'):
        # The teacher's own checkpoint holds all that its parts would start from.
        if key.startswith('model.teacher'):
            continue
        advice = (
            f'give a file: --cfg-options {key}.checkpoint=PATH; or start from random weights: '
            f'--cfg-options {key}=None'
        )
        checkpoints.append(_Checkpoint(f'{key}.checkpoint', init_cfg['checkpoint'], advice))
    return checkpoints


def _loaded_checkpoint(cfg: Config, key: str) -> list[_Checkpoint]:
    name = cfg.get('load_from')
    return [_Checkpoint(key, name, 'give the path of a checkpoint')] if name else []


def _missing_checkpoint(checkpoint: _Checkpoint) -> str | None:
    """What is wrong with a checkpoint that is no file of this machine and cannot be downloaded."""
    try:
        location = resolve_name(checkpoint.name)
    except KeyError:
        return f'{checkpoint.key}: no model is known as {checkpoint.name}: {checkpoint.advice}'
    # Other schemes (s3://, petrel://) are left to MMEngine, which knows their credentials.
    if '://' in location or osp.isfile(osp.expanduser(location)):
        return None
    what = 'is a folder' if osp.isdir(osp.expanduser(location)) else 'does not exist'
    return f'{checkpoint.key}: {location} {what}: {checkpoint.advice}'


def _failed_download(checkpoint: _Checkpoint) -> str | None:
    """Fetch a checkpoint that has a URL into PyTorch's cache; what went wrong, or None."""
    url = resolve_name(checkpoint.name)
    if not url.startswith(('http://', 'https://')):
        return None
    path = cache_path(url)
    try:
        download(url)
    except (OSError, ValueError, CorruptCheckpointError) as error:
        if osp.isfile(path):
            return f'{checkpoint.key}: {path}: {error}. Remove it to download it again'
        source = '' if url == checkpoint.name else f' (from {checkpoint.name})'
        return (
            f'{checkpoint.key}: cannot download {url}{source}: {error}\n'
            f'Download it elsewhere and put it at {path}; or {checkpoint.advice}'
        )
    return None


# ---- the machine ----


def _device_problems(cfg: Config) -> list[str]:
    problems = []
    launcher = cfg.get('launcher', 'none')
    if get_device() == 'cpu':
        if launcher in ('slurm', 'mpi'):
            problems.append(
                f'--launcher {launcher}: works with GPUs only, and this machine has none: '
                'use tools/dist_train.sh, which starts CPU processes too'
            )
        if (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':
            problems.append(
                'optim_wrapper: mixed precision (--amp) needs a GPU, and this machine has none: '
                'leave --amp out, or --cfg-options optim_wrapper.type=OptimWrapper'
            )
    elif launcher == 'pytorch' and torch.cuda.is_available():
        processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        if processes > torch.cuda.device_count():
            problems.append(
                f'{processes} processes were started, but this machine shows '
                f'{torch.cuda.device_count()} GPUs: start at most one process per GPU'
            )
    return problems


def _work_dir_problems(work_dir: str) -> list[str]:
    folder = osp.abspath(work_dir)
    while not osp.lexists(folder):
        folder = osp.dirname(folder)
    if not osp.isdir(folder):
        return [f'work_dir: {work_dir} cannot be made, {folder} is not a folder: give --work-dir']
    try:
        # Permissions do not tell: root passes them, and a file system can be read-only or full.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return [
            f'work_dir: {folder} is not writable ({error.strerror}): give another folder with --work-dir'
        ]
    return []


def _indent(text: str) -> str:
    return text.replace('\n', '\n   ')
