"""Check what a run needs before anything is built, and say all that is missing at once."""

from __future__ import annotations

import inspect
import os
import os.path as osp
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS

from mmkd.checkpoints import (
    CorruptCheckpointError,
    cache_path,
    check_hash,
    download,
    resolve_name,
)
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


class PreflightError(RuntimeError):
    """Something outside the program is missing. The message lists every problem found.

    Args:
        problems: one text per problem, each naming the setting at fault and what to do.
        hint: an advice that holds for all of them, printed last.
    """

    def __init__(self, problems: list[str], hint: str = '') -> None:
        self.problems = problems
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
    missing_data = _missing_data(cfg, splits)
    data_problems = missing_data or _unusable_annotations(cfg, splits)
    problems = data_problems + _device_problems(cfg) + _work_dir_problems(cfg.work_dir)
    problems += _teacher_config_problems(cfg)
    problems += filter(None, map(_missing_checkpoint, checkpoints))
    if not problems:  # nothing is downloaded for a run that cannot start
        problems += filter(None, map(_failed_download, checkpoints))
    if problems:
        raise PreflightError(problems, hint=WITHOUT_DOWNLOADS if missing_data else '')


# ---- data ----


def _missing_data(cfg: Config, splits: tuple[str, ...]) -> list[str]:
    missing: dict[str, dict[str, str]] = {}
    scope = cfg.get('default_scope')
    for split in splits:
        for key, dataset in _datasets(cfg, split):
            root = dataset.get('data_root') or ''
            for path_key, path in _dataset_paths(dataset, key, scope):
                if not osp.exists(path):
                    inside = root if path.startswith(root) else ''
                    missing.setdefault(inside, {}).setdefault(path, path_key)
        for key, path in _evaluator_paths(cfg, split):
            if not osp.exists(path):
                root = next((root for root in missing if root and path.startswith(root)), '')
                missing.setdefault(root, {}).setdefault(path, key)
    return [_data_problem(root, paths) for root, paths in missing.items()]


def _data_problem(root: str, paths: dict[str, str]) -> str:
    lines = [f'data: not found under {root!r}:' if root else 'data: not found:']
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


def _unusable_annotations(cfg: Config, splits: tuple[str, ...]) -> list[str]:
    scope = cfg.get('default_scope')
    problems: dict[str, str] = {}

    def check(key: str, path: str, names: dict[str, Any] | None, needs_objects: bool) -> None:
        if names is not None:
            damage = coco_damage(path, names.get('classes'), needs_objects)
        else:
            damage = json_damage(path) if path.endswith('.json') else None
        if damage is not None:
            problems.setdefault(path, f'{key}: {path}: {damage}')

    for split in splits:
        evaluated: dict[str, Any] | None = None
        for key, dataset in _datasets(cfg, split):
            names = _coco_names(dataset, scope)
            filters = (dataset.get('filter_cfg') or {}).get('filter_empty_gt', False)
            for path_key, path in _dataset_paths(dataset, key, scope):
                if path_key.endswith('.ann_file'):
                    check(path_key, path, names, split == 'val' or (split == 'train' and filters))
            # Of a panoptic data set's names, a file of instances has the things only.
            if names is not None and 'thing_classes' not in names:
                evaluated = names
        for key, path in _evaluator_paths(cfg, split):
            check(key, path, evaluated, split == 'val')
    return list(problems.values())


def _datasets(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """Yield (key, config) of every dataset of a split, looking into wrappers like RepeatDataset."""
    loader = cfg.get(f'{split}_dataloader') or {}
    found = [(f'{split}_dataloader.dataset', loader.get('dataset'))]
    while found:
        key, node = found.pop(0)
        if not isinstance(node, dict):
            continue
        if 'dataset' in node:
            found.append((f'{key}.dataset', node['dataset']))
        elif 'datasets' in node:
            found += [(f'{key}.datasets.{i}', inner) for i, inner in enumerate(node['datasets'])]
        else:
            yield key, node


def _coco_names(dataset: dict, scope: str | None) -> dict[str, Any] | None:
    """The names that a data set gives its classes; None if it is not read as MMDetection reads COCO's."""
    kind = _dataset_class(dataset, scope)
    load = getattr(kind, 'load_data_list', None)
    metainfo = dataset.get('metainfo') or {}
    is_coco = getattr(load, '__qualname__', '') == 'CocoDataset.load_data_list'
    return kind._load_metainfo(metainfo) if is_coco and isinstance(metainfo, dict) else None


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
    kind = _dataset_class(dataset, scope)
    if kind is None:
        return False
    download = inspect.signature(kind).parameters.get('download')
    return download is not None and bool(dataset.get('download', download.default))


def _dataset_class(dataset: dict, scope: str | None) -> Any:
    """A data set's class; None if it is not known."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_', scope)) as registry:
            kind = registry.get(kind)
    return kind


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
    if osp.isfile(path):
        try:
            check_hash(path, osp.basename(path))
        except CorruptCheckpointError as error:
            return f'{checkpoint.key}: {path}: {error}. Remove it to download it again'
        return None
    try:
        download(url)
    except (OSError, ValueError, CorruptCheckpointError) as error:
        source = '' if url == checkpoint.name else f' (from {checkpoint.name})'
        return (
            f'{checkpoint.key}: cannot download {url}{source}: {error}\n'
            f'Download it elsewhere and put it at {path}; or {checkpoint.advice}'
        )
    return None


def _teacher_config_problems(cfg: Config) -> list[str]:
    configs = {
        key: teacher.get('config') for key, teacher in teacher_configs(cfg.get('model')).items()
    }
    return [
        f'{key}.config: {config} does not exist (seen from {os.getcwd()}): give the config that trained the teacher: '
        f'--cfg-options {key}.config=PATH'
        for key, config in configs.items()
        if isinstance(config, str) and '::' not in config and not osp.isfile(config)
    ]


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
