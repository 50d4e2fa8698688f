"""The teacher: a frozen network that is really loaded and never becomes part of what is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .isolation import isolated_rng
from .pixels import PixelConverter

RANDOM_INIT = 'random_init'
"""``checkpoint`` of a teacher that is wanted untrained, in a test or a dry run."""


class Teacher:
    """Holds the frozen network; deliberately not an ``nn.Module``.

    So it is in no state_dict, optimizer, EMA copy, DDP or FSDP wrapper, and ``model.train()`` does not reach it. The
    Distiller forwards ``.to()``, ``.cuda()`` and ``.half()`` to it. Copies of a distiller share their teacher.

    Args:
        config: The teacher's config: a path, ``'mmdet::...'``, ``'mmpretrain::...'``, or a dict with ``model`` in it.
        checkpoint: Path or URL of the teacher's weights, or ``'random_init'`` to really want none.
        student_preprocessor: The student's data preprocessor, whose output the teacher has to read.

    Attributes:
        model: The frozen network in eval mode.
        classes: Class names that the checkpoint was trained on, None if it doesn't say.

    Raises:
        ValueError: No checkpoint is named.
        FileNotFoundError: The checkpoint or the config does not exist.
        RuntimeError: Checkpoint and config do not fit; the message lists the keys.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any],
        checkpoint: str | Path | None = None,
        *,
        student_preprocessor: nn.Module,
    ) -> None:
        if checkpoint is None:
            raise ValueError(
                'teacher.checkpoint is not set: an untrained teacher teaches noise. Set it to the file '
                f"or URL of the trained teacher, or to '{RANDOM_INIT}' if noise is what you want"
            )
        self.checkpoint = str(checkpoint)
        self.classes: tuple[str, ...] | None = None
        self.model: Any
        with isolated_rng():
            self.model = _build(config)
        if self.checkpoint != RANDOM_INIT:
            self._load()
        self.model.requires_grad_(False)
        self.model.eval()
        self.convert_pixels = PixelConverter(student_preprocessor, self.model.data_preprocessor)

    @torch.no_grad()
    def features(self, inputs: Tensor, data_samples: Sequence[Any]) -> tuple[Tensor, ...]:
        """Backbone and neck on the student's input.

        Args:
            inputs: (B, 3, H, W) as the student's data preprocessor made it.
            data_samples: The batch's data samples.

        Returns:
            The feature maps of ``extract_feat``, shallow to deep.
        """
        return self.model.extract_feat(self.convert_pixels(inputs, data_samples))

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply ``fn``, such as a move to another device, to every parameter and buffer."""
        self.model._apply(fn)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Compare the data set's class names with those the checkpoint was trained on, where it says.

        Raises:
            ValueError: They differ, or stand in another order; the message lists where.
        """
        if self.classes is None or self.classes == tuple(classes):
            return
        if len(self.classes) != len(classes):
            differing = [f'{len(self.classes)} classes, the data set has {len(classes)}']
        else:
            differing = [
                f'class {i} is {theirs!r}, {ours!r} in the data set'
                for i, (theirs, ours) in enumerate(zip(self.classes, classes, strict=True))
                if theirs != ours
            ]
        raise ValueError(
            f'teacher.checkpoint {self.checkpoint} was trained on other classes:\n  '
            + '\n  '.join(_shorten(differing))
            + '\ntake a teacher trained on this data set, or set metainfo.classes of the data set to the '
            "teacher's names in the teacher's order"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """A frozen network needs no copy: an EMA copy of the student shares it."""
        return self

    def _load(self) -> None:
        """Load the checkpoint, every key of it and nothing else."""
        try:
            checkpoint = CheckpointLoader.load_checkpoint(self.checkpoint, map_location='cpu')
        except FileNotFoundError:
            raise FileNotFoundError(
                f'teacher.checkpoint: there is no file {self.checkpoint!r}: train the teacher first, '
                'or set model.teacher.checkpoint to where its weights are'
            ) from None
        weights = checkpoint.get('state_dict', checkpoint)
        weights = {
            key.removeprefix('module.'): value
            for key, value in weights.items()
            if not key.startswith('distill.')
        }
        own = self.model.state_dict()
        missing = [
            key for key in own.keys() - weights.keys() if not key.endswith('num_batches_tracked')
        ]
        unexpected = list(weights.keys() - own.keys())
        shapes = [
            f'{key} {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the config'
            for key in own.keys() & weights.keys()
            if weights[key].shape != own[key].shape
        ]
        problems = [
            f'{len(keys)} {what}:\n    ' + '\n    '.join(_shorten(sorted(keys)))
            for what, keys in (
                ('keys of the config are missing in the file', missing),
                ('keys of the file are unknown to the config', unexpected),
                ('keys have other shapes', shapes),
            )
            if keys
        ]
        if problems:
            raise RuntimeError(
                f'teacher.checkpoint {self.checkpoint} does not fit teacher.config:\n  '
                + '\n  '.join(problems)
                + '\nset teacher.config to the config that trained this file (same architecture, same '
                'number of classes)'
            )
        self.model.load_state_dict(
            weights, strict=False
        )  # all but num_batches_tracked checked above
        meta = checkpoint.get('meta') or {}
        dataset_meta = meta.get('dataset_meta') or {}
        names = dataset_meta.get('classes') or dataset_meta.get('CLASSES') or meta.get('CLASSES')
        self.classes = (names,) if isinstance(names, str) else tuple(names) if names else None


def _build(config: str | Path | Mapping[str, Any]) -> Any:
    """The teacher's network as its own config describes it, in its own scope, without pretrained weights."""
    if isinstance(config, Mapping):
        loaded = Config(dict(config))
    elif '::' in str(config):
        loaded = get_config(str(config))
    else:
        loaded = Config.fromfile(config)
    if 'model' not in loaded:
        raise ValueError('teacher.config has no `model`: give a config file or dict(model=...)')
    model = loaded.model
    if model.type in ('mmkd.Distiller', 'Distiller'):  # a distilled student that becomes a teacher
        model = model.student
    with DefaultScope.overwrite_default_scope(loaded.get('default_scope')):
        return MODELS.build(model)


def _shorten(keys: Sequence[str], limit: int = 8) -> list[str]:
    listed = list(keys[:limit])
    return listed + [f'... and {len(keys) - limit} more'] * (len(keys) > limit)
