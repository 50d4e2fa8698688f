"""The key of a teacher store: fields that must be the same in the run that uses it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.structures import ClassMap

from .frozen import FrozenTeacher, load_config
from .pixels import normalisation
from .store import StoreError, digest

_OF_TRAINING = ('init_cfg', 'pretrained', 'train_cfg', 'test_cfg')
"""Settings of a network that do not affect its outputs."""
_WHERE = (
    'ann_file', 'backend_args', 'data_prefix', 'data_root', 'file_client_args', 'lazy_init', 'serialize_data',
)  # fmt: skip
"""Settings of a data set that say where files are, not what they contain."""

_SWITCHES = ('PipelineSwitchHook', 'YOLOXModeSwitchHook', 'SwitchRecipeHook')
"""Hooks of MMDetection and MMPretrain that change the pipeline during training."""


def teacher_key(teacher: FrozenTeacher, config: Any, student: Any) -> dict[str, Any]:
    """The fields that depend on teacher and student.

    Args:
        teacher: The teacher, with its weights.
        config: Its config.
        student: The student.

    Raises:
        StoreError: The student's data preprocessor changes the images of a batch.
    """
    mean, std, reversed_channels = normalisation(teacher.model.data_preprocessor)
    dtype = teacher.dtype
    return {
        'teacher.checkpoint': _weights_digest(teacher.model),
        'teacher.config': digest(_without(load_config(config).model.to_dict(), _OF_TRAINING)),
        'teacher.dtype': None if dtype is None else str(dtype).removeprefix('torch.'),
        'normalisation': [mean.tolist(), std.tolist(), reversed_channels],
        'padding': _padding(student.data_preprocessor),
    }


def class_key(classes: ClassMap, num_student: int, names: Any) -> dict[str, Any]:
    """The field that depends on the classes of both."""
    return {
        'classes': [
            num_student,
            list(names or ()),
            None if classes.columns is None else list(classes.columns),
        ]
    }


def data_key(dataset: Any, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that depend on the training data.

    Args:
        dataset: The data set, within :class:`mmkd.SeededViews`.
        recipe: The recipe; ``train_dataloader.dataset`` and ``custom_hooks`` are read.

    Raises:
        StoreError: The data set's views do not repeat.
    """
    for hook in recipe.get('custom_hooks') or ():
        kind = hook.get('type') if isinstance(hook, Mapping) else type(hook)
        name = getattr(kind, '__name__', str(kind)).rpartition('.')[2]
        if name in _SWITCHES:
            raise StoreError(
                f'custom_hooks: {name} changes the pipeline during training, and a store is of one pipeline: take it '
                'out, or train with the live teacher'
            )
    views = getattr(dataset, 'views', None)
    if not views:
        raise StoreError(
            'train_dataloader.dataset: a stored teacher knows a finite number of views of each image: wrap the data '
            "set, dict(type='mmkd.SeededViews', views=2, dataset=dict(...)), as the outermost one"
        )
    return {
        'samples': len(dataset),
        'views': views,
        'seed': dataset.seed,
        'annotations': _annotations_digest(dataset),
        'pipeline': digest(_without(recipe['train_dataloader']['dataset']['dataset'], _WHERE)),
    }


def probe(inputs: Tensor, data_samples: Any, preprocessor: Any) -> Tensor:
    """(B, 3 * 36) grey levels at a grid of pixels of each image, to recognise the image by.

    Args:
        inputs: (B, 3, H, W) the student's normalised input.
        data_samples: B data samples; the grid spans the image, not its padding.
        preprocessor: The student's data preprocessor, whose normalisation is undone.
    """
    mean, std, reversed_channels = normalisation(preprocessor)
    height, width = inputs.shape[-2:]
    sizes = [sample.metainfo.get('img_shape', (height, width))[:2] for sample in data_samples]
    grid = (torch.arange(6) + 0.5) / 6
    limits = torch.tensor([[min(h, height), min(w, width)] for h, w in sizes], dtype=torch.float)
    at = (limits[:, :, None] * grid).long().to(inputs.device, non_blocking=True)
    images = torch.arange(len(inputs), device=inputs.device)[:, None, None]
    pixels = inputs[images, :, at[:, 0, :, None], at[:, 1, None, :]].float()  # (B, 6, 6, 3)
    mean, std = (each.float().to(inputs.device, non_blocking=True) for each in (mean, std))
    pixels = pixels * std + mean
    return (pixels.flip(-1) if reversed_channels else pixels).flatten(1)


def _padding(preprocessor: Any) -> list[Any]:
    """How the student's data preprocessor pads.

    Raises:
        StoreError: It also changes the images.
    """
    size = None
    found = getattr(preprocessor, 'batch_augments', None)  # MMDetection has several, MMPretrain one
    augments = found if isinstance(found, Iterable) else [found]
    for augment in augments:
        if augment is None:
            continue
        if type(augment).__name__ != 'BatchFixedSizePad':
            raise StoreError(
                f'data_preprocessor.batch_augments: {type(augment).__name__} changes images after the data set made '
                'them, so that no teacher can be stored: take it out, or train with the live teacher'
            )
        size = list(augment.size)
    return [
        int(getattr(preprocessor, 'pad_size_divisor', 1)),
        float(getattr(preprocessor, 'pad_value', 0)),
        size,
    ]


def _weights_digest(model: nn.Module) -> str:
    result = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        result.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        result.update(flat.view(torch.uint8).numpy())
    return result.hexdigest()[:32]


def _annotations_digest(dataset: Any) -> str:
    """Hash of the images' names, annotations and order, independent of where the files are."""
    result = hashlib.sha256()
    for leaf in _leaves(dataset):
        result.update(f'{len(leaf)}'.encode())
        if not hasattr(leaf, 'get_data_info'):
            continue
        root = str(getattr(leaf, 'data_root', None) or '\0')
        for index in range(len(leaf)):
            for name, value in leaf.get_data_info(index).items():
                result.update(name.encode())
                if isinstance(value, np.ndarray):
                    result.update(np.ascontiguousarray(value).tobytes())
                else:
                    result.update(repr(value).replace(root, '').encode())
    return result.hexdigest()[:32]


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets within wrappers."""
    if hasattr(dataset, 'datasets'):
        for inner in dataset.datasets:
            yield from _leaves(inner)
    elif hasattr(dataset, 'dataset'):
        yield from _leaves(dataset.dataset)
    else:
        yield dataset


def _without(node: Any, names: tuple[str, ...]) -> Any:
    """A config without the settings of these names, and without the wrapper that replaces unreadable images."""
    if isinstance(node, Mapping):
        if str(node.get('type', '')).endswith('SkipUnreadable'):
            return _without(node['loader'], names)
        return {key: _without(value, names) for key, value in node.items() if key not in names}
    if isinstance(node, list | tuple):
        return [_without(value, names) for value in node]
    return node
