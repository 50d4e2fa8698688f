"""From a checkpoint of training to a published student: a checkpoint and a config that need nothing of this package."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkd.checkpoints import load_checkpoint, written_whole
from mmkd.heads import plain_weights
from mmkd.teachers.isolation import isolated_rng

from .run_name import run_name
from .settings import pretrained_parts
from .student_config import student_config

META_KEYS = ('dataset_meta', 'CLASSES', 'epoch', 'iter', 'seed', 'time', 'mmengine_version')
"""What an exported checkpoint keeps of the run's ``meta``."""


@dataclass(frozen=True)
class ExportedStudent:
    """The two files of an exported student.

    Attributes:
        checkpoint: ``<name>-<first 8 digits of its SHA-256>.pth``.
        config: ``<name>.py``, the plain student's.
    """

    checkpoint: Path
    config: Path


def export_student(
    cfg: Config,
    checkpoint: str | Path,
    out_dir: str | Path,
    name: str | None = None,
    allow_pickle: bool = False,
    half: bool = False,
    metrics: Mapping[str, float] | None = None,
) -> ExportedStudent:
    """Write the student of a run as MMDetection and MMPretrain publish their models.

    The checkpoint has the student's weights and ``meta`` (class names, epoch, and the student's config, which the
    inferencers read), no state of optimizer, hooks or log. AEKT's layer is folded into the classifier where it belongs
    to the student, other ``distill.*`` weights are dropped. Where the run had an EMAHook the weights are the averaged
    ones: MMEngine's checkpoints have them in the place of the others. Before anything is written the weights are
    loaded, strictly, into the model that the config describes.

    Args:
        cfg: The recipe, or the config of a plain model, that was trained. It is not changed.
        checkpoint: What MMEngine saved in the run.
        out_dir: Folder of the two files, made if need be. Nothing is written elsewhere.
        name: Beginning of the files' names; default the names of the config's folder, the config and the
            checkpoint.
        allow_pickle: Unpickle whatever the checkpoint holds, see :func:`mmkd.checkpoints.load_checkpoint`.
        half: Write the weights as float16: half the size; they are rounded and load into a float32 model all the same.
        metrics: What an evaluation of it measured, such as ``{'coco/bbox_mAP': 0.41}``: kept as ``meta['metrics']``.

    Returns:
        Where the files are.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: It is damaged, or needs unpickling.
        ValueError: It is not of this config, or ``name`` is no file name.
    """
    plain = _published_config(cfg)
    content = load_checkpoint(checkpoint, allow_pickle=allow_pickle, option='--allow-pickle')
    weights = _student_weights(plain, content, checkpoint)
    if name is None:
        name = _file_name(f'{_config_name(cfg)}_student_{Path(checkpoint).stem}')
    elif name != _file_name(name):
        raise ValueError(f'name: {name!r} is no plain file name (letters, digits, - _ .)')
    meta = {key: value for key, value in (content.get('meta') or {}).items() if key in META_KEYS}
    meta |= {'cfg': plain.pretty_text}
    if metrics is not None:
        meta['metrics'] = dict(metrics)
    if half:
        for key, value in weights.items():
            weights[key] = value.half() if value.is_floating_point() else value
    published = dict(meta=_plain(meta), state_dict=weights)

    buffer = io.BytesIO()
    torch.save(published, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    student = ExportedStudent(
        Path(out_dir, f'{name}-{digest[:8]}.pth'), Path(out_dir, f'{name}.py')
    )
    with written_whole(student.checkpoint) as file:
        file.write(buffer.getbuffer())
        student.config.write_text(plain.pretty_text, encoding='utf-8')
    return student


def read_metrics(file: str | Path) -> dict[str, float]:
    """The metrics of a JSON file that MMEngine's test loop wrote, without the times, whose names have no ``/``."""
    content = json.loads(Path(file).read_text(encoding='utf-8'))
    return {name: value for name, value in content.items() if '/' in name}


def _published_config(cfg: Config) -> Config:
    """The plain student's config without what belonged to the one run."""
    plain = student_config(cfg)
    for key in ('work_dir', 'experiment_name', 'launcher'):
        plain.pop(key, None)
    plain.load_from = None
    plain.resume = False
    # Where parts were loaded from says nothing any more: all weights are in the exported checkpoint.
    parts = [key for key, _ in pretrained_parts(plain.model, 'model')]
    plain.merge_from_dict({key: None for key in parts if key.endswith('.init_cfg')})
    return plain


def _student_weights(
    plain: Config, content: Mapping[str, Any], checkpoint: str | Path
) -> OrderedDict[str, Tensor]:
    """The weights under the plain student's names, which a model of the config takes without exception."""
    model = _build(plain)
    state = content.get('state_dict', content)
    weights = OrderedDict(
        (key.removeprefix('module.'), value.detach().clone())
        for key, value in plain_weights(model, state).items()
    )
    versions = getattr(state, '_metadata', {})  # by which modules know weights of older releases
    weights._metadata = OrderedDict(  # type: ignore[attr-defined]
        (name, version) for name, version in versions.items() if name.split('.')[0] != 'distill'
    )
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f'{checkpoint} is not a checkpoint of this config: {error}\ngive the config that it was trained with'
        ) from None
    return weights


def _build(plain: Config) -> nn.Module:
    model = plain.model
    if 'data_preprocessor' in plain:  # MMPretrain's configs have it beside `model`
        model = {'data_preprocessor': plain.data_preprocessor, **model}
    with DefaultScope.overwrite_default_scope(plain.get('default_scope')), isolated_rng():
        return MODELS.build(model)


def _config_name(cfg: Config) -> str:
    return (
        run_name(cfg, cfg.filename) if cfg.filename else str(cfg.get('experiment_name') or 'model')
    )


def _file_name(text: str) -> str:
    return re.sub(r'[^A-Za-z0-9._-]', '_', text).lstrip('.')


def _plain(value: Any) -> Any:
    """Dicts, tuples, texts and numbers only, which load without unpickling whatever a data set put there."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return tuple(_plain(item) for item in value)
    if hasattr(value, 'tolist'):  # NumPy's
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | None) else str(value)
