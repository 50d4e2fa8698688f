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
        config: str | Path | Mapping[str, Any] | Config,
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
            if self.checkpoint == RANDOM_INIT:
                _init_without_pretrained(self.model)
            else:
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
        """A frozen network needs no copy: an EMA copy of the student shares it.

        So does what the copy holds of its parts, such as a head adapter's reference to the teacher's head.
        """
        memo.update((id(module), module) for module in self.model.modules())
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
        missing, unexpected, shapes = _load_weights(self.model, checkpoint)
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
        meta = checkpoint.get('meta') or {}
        dataset_meta = meta.get('dataset_meta') or {}
        names = dataset_meta.get('classes') or dataset_meta.get('CLASSES') or meta.get('CLASSES')
        self.classes = (names,) if isinstance(names, str) else tuple(names) if names else None


def _build(config: str | Path | Mapping[str, Any] | Config) -> Any:
    """The teacher's network as its own config describes it, in its own scope, without pretrained weights."""
    if isinstance(config, Config):
        loaded = config
    elif isinstance(config, Mapping):
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
    if 'data_preprocessor' in loaded:  # MMPretrain's configs have it beside `model`
        model = {'data_preprocessor': loaded.data_preprocessor, **model}
    with DefaultScope.overwrite_default_scope(loaded.get('default_scope')):
        return MODELS.build(model)


def _init_without_pretrained(model: nn.Module) -> None:
    """Random weights everywhere: some modules only get theirs in ``init_weights``."""
    for module in model.modules():
        init = getattr(module, 'init_cfg', None)
        if isinstance(init, Mapping) and init.get('type') == 'Pretrained':
            module.init_cfg = None  # type: ignore[assignment]
    model.init_weights()  # type: ignore[operator]


def _load_weights(
    model: nn.Module, checkpoint: Mapping[str, Any]
) -> tuple[list[str], list[str], list[str]]:
    """Load what fits; returns keys that the file lacks, keys that the model lacks, and messages on shapes.

    Module by module, as MMEngine loads: heads rename the keys of older checkpoints on the way, and PyTorch's
    ``load_state_dict`` reports either keys or shapes.
    """
    source = checkpoint.get('state_dict', checkpoint)
    weights = {
        key.removeprefix('module.'): value
        for key, value in source.items()
        if not key.startswith('distill.')
    }
    versions = getattr(source, '_metadata', {})
    missing: list[str] = []
    unexpected: list[str] = []
    shapes: list[str] = []

    def load(module: nn.Module, prefix: str) -> None:
        version = versions.get(prefix[:-1], {})
        module._load_from_state_dict(weights, prefix, version, True, missing, unexpected, shapes)
        for name, child in module._modules.items():  # a child of two names, twice
            if child is not None:
                load(child, f'{prefix}{name}.')

    load(model, '')
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    return missing, unexpected, shapes


def _shorten(keys: Sequence[str], limit: int = 8) -> list[str]:
    listed = list(keys[:limit])
    return listed + [f'... and {len(keys) - limit} more'] * (len(keys) > limit)
