"""A teacher trained before: a frozen network that is really loaded and never becomes part of what is trained."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from typing_extensions import override

from mmkd.checkpoints import (
    CorruptCheckpointError,
    UnsafeCheckpointError,
    load_checkpoint,
    load_weights,
)
from mmkd.heads import plain_weights
from mmkd.heads.base import adapter_class
from mmkd.heads.dense import DenseHeadAdapter
from mmkd.heads.features import PROBE_SIZES, flat
from mmkd.registry import TEACHERS
from mmkd.structures import PRE_LOGITS, ClassMap, module_path

from .base import Teacher
from .fusing import fuse_batch_norms, has_batch_norms
from .isolation import isolated_rng
from .labels import label_names, metainfo_of
from .precision import TeacherPrecision

RANDOM_INIT = 'random_init'
"""``checkpoint`` of a teacher that is wanted untrained, in a test or a dry run."""


@TEACHERS.register_module()
class FrozenTeacher(Teacher):
    """A network that was trained before, as its own config describes it, with the weights of a checkpoint.

    Args:
        config: The teacher's config: a path, ``'mmdet::...'``, ``'mmpretrain::...'``, or a dict with ``model`` in it.
        checkpoint: Path or URL of the teacher's weights, or ``'random_init'`` to really want none.
        class_names: Names of the teacher's classes in the order of its logits. Default: what the checkpoint says,
            else what ``train_dataloader`` of the config or the class of its data set says; in the order of the
            config's annotation file where that can be read, see :func:`label_names`.
        class_aliases: What the teacher calls those of the student's classes that it calls otherwise, such as
            ``{'motorbike': 'motorcycle'}``.
        dtype: ``'float32'``, ``'float16'`` or ``'bfloat16'``, the number type that the teacher computes in; default the
            student's: float32, or what autocast (``--amp``) makes of it. See :class:`TeacherPrecision`.
        allow_pickle: Load a checkpoint that holds more than weights too; it can execute anything: for files you trust.
        fuse: Fold batch normalisations into the convolutions before them, which saves the reading and writing of their
            maps; outputs stay the same to rounding. See docs/speed.md.
        student: The student, whose data preprocessor's output the teacher has to read.

    Raises:
        ValueError: No config or checkpoint is named, or the config is none; ``class_aliases`` cannot be.
        FileNotFoundError: The checkpoint or the config does not exist.
        RuntimeError: Checkpoint and config do not fit; the message lists the keys.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | Config | None = None,
        checkpoint: str | Path | None = None,
        *,
        class_names: Sequence[str] | None = None,
        class_aliases: Mapping[str, str] | None = None,
        dtype: str | None = None,
        allow_pickle: bool = False,
        fuse: bool = True,
        student: Any,
    ) -> None:
        if checkpoint is None:
            raise ValueError(
                'model.teacher.checkpoint is not set: an untrained teacher teaches noise. Set it to the file '
                f"or URL of the trained teacher, or to '{RANDOM_INIT}' if noise is what you want"
            )
        self.checkpoint = str(checkpoint)
        if isinstance(class_names, str):
            raise ValueError(
                f'model.teacher.class_names is the string {class_names!r}: give a list, [{class_names!r}]'
            )
        loaded = load_config(config)
        self._config = str(config) if isinstance(config, str | Path) else 'a config in the recipe'
        meta = metainfo_of(loaded)
        with isolated_rng():
            model = build_network(loaded)
            if self.checkpoint == RANDOM_INIT:
                _init_without_pretrained(model)
            super().__init__(model, student)
            self.classes = _names(meta)
            self._things = _names({'classes': meta.get('thing_classes')})
            if self.checkpoint != RANDOM_INIT:
                self._load(allow_pickle)
        if class_names is not None:
            self.classes = tuple(class_names)
        elif self.classes is not None:
            self.classes = tuple(label_names(loaded, self.classes))
        self._aliases = dict(class_aliases or {})
        self._check_aliases()
        self._precision = TeacherPrecision(self.model, dtype)  # of the loaded weights
        self._fuse = fuse

    @override
    def tap(self, paths: Sequence[str], only: bool = False) -> None:
        """Add the taps, and fuse the batch norms: from now on it is known whose own outputs are asked for."""
        if self._fuse and has_batch_norms(self.model):
            self._fuse_batch_norms([module_path(path) for path in paths if path != PRE_LOGITS])
        self._fuse = False
        super().tap(paths, only)

    @property
    @override
    def description(self) -> str:
        return f'{type(self.model).__name__} of {self._config}, weights of {self.checkpoint}'

    def check_num_classes(self, student: int, teacher: int) -> None:
        """Whether the classes of student and teacher can be matched, as far as is known before training.

        The box head of a teacher that was trained on panoptic data has its things only; so have ``classes`` from here
        on.

        Args:
            student: Number of the student's classes.
            teacher: Number of the classes of the teacher's head.

        Raises:
            ValueError: The numbers differ and nothing names the teacher's classes, or there are more or fewer names
                than classes.
        """
        if self.classes is not None and self._things is not None and len(self._things) == teacher:
            self.classes = tuple(name for name in self.classes if name in self._things)
        if self.classes is None and student != teacher:
            raise ValueError(
                f'number of classes: the student has {student}, the teacher {teacher}: take a teacher trained on '
                f'the same classes, or, as {self._source} does not name them, set model.teacher.class_names to the '
                "names of the teacher's classes in the order of its logits: those that the student has too are "
                'distilled'
            )
        if self.classes is not None and len(self.classes) != teacher:
            raise ValueError(
                f"the teacher's head has {teacher} classes, of which {len(self.classes)} are named: "
                f'{_few(self.classes)}: set model.teacher.class_names to the names of all, in the order of its logits'
            )

    def match_classes(self, names: Sequence[str] | None, student: int, teacher: int) -> ClassMap:
        """Find the student's classes among the teacher's, by name.

        Args:
            names: Names of the data set's classes, which the student learns; None where the run does not say.
            student: Number of the student's classes.
            teacher: Number of the classes of the teacher's head.

        Returns:
            The map of the teacher's classes to the student's. Where one side has no names, classes are taken to be
            the same.

        Raises:
            ValueError: The teacher lacks a class of the student; the message lists them with the nearest names.
        """
        if isinstance(names, str):
            raise ValueError(
                f'metainfo.classes of the data set is the string {names!r}, in which MMDetection finds every class '
                f'whose name is a part of it: write a tuple, ({names!r},)'
            )
        if self.classes is None or (not names and student == teacher):
            who, setting = (
                (self._source, 'model.teacher.class_names')
                if self.classes is None
                else ('the data set', 'metainfo.classes')
            )
            print_log(
                f"classes: {who} does not name its {teacher}: they are taken to be the student's, in the same order. "
                f'If they are not, set {setting}',
                'current',
                logging.WARNING,
            )
            return ClassMap()
        if not names or len(names) != student:
            raise ValueError(
                f'number of classes: the student has {student}, the teacher {teacher}, to be matched by name, but '
                f'the data set names {len(names or ())}: set metainfo.classes of the data set'
            )
        strange = sorted(self._aliases.keys() - set(names))
        if strange:
            raise ValueError(
                'model.teacher.class_aliases: the data set has no class '
                + ', '.join(_with_nearest(strange, names))
                + f'; its classes are {_few(names)}'
            )
        theirs = [self._aliases.get(name, name) for name in names]
        missing = [name for name in theirs if name not in self.classes]
        if missing:
            raise ValueError(
                f'{self._source} was trained on other classes: of the {len(names)} classes of the data set it '
                f'lacks {len(missing)}:\n  '
                + '\n  '.join(_shorten(_with_nearest(missing, self.classes)))
                + f'\nit has {_few(self.classes)}\nif it calls them otherwise, say '
                f"model.teacher.class_aliases={{{missing[0]!r}: 'its name'}}; else take another teacher"
            )
        classes = self._columns(theirs)
        if classes.columns is None:
            said = f"the teacher's {teacher} are the student's, in the same order"
        else:
            pairs = [
                f'{name!r} is its {column}'
                for name, column in zip(names, classes.columns, strict=True)
            ]
            dropped = f', of which {teacher - student} are dropped' * (teacher > student)
            said = (
                f"the student's {student} are matched by name with the teacher's {teacher}{dropped}: "
                + ', '.join(_shorten(pairs))
            )
        print_log(f'classes: {said}', 'current')
        return classes

    def _columns(self, names: Sequence[str]) -> ClassMap:
        """The teacher's classes of these names; where a name stands for several, the k-th is the k-th."""
        assert self.classes is not None
        places: dict[str, list[int]] = {}
        for place, name in enumerate(self.classes):
            places.setdefault(name, []).append(place)
        wanted = Counter(names)
        for name, count in wanted.items():
            if count > len(places[name]):
                raise ValueError(
                    "model.teacher.class_aliases: more than one of the student's classes is the "
                    f"teacher's {name!r}"
                    if self._aliases
                    else f'metainfo.classes of the data set has {name!r} {count} times, the teacher '
                    f'{len(places[name])} times: give each class a name of its own'
                )
            if count < len(places[name]):
                print_log(
                    f'classes: the teacher has {len(places[name])} classes {name!r}, the student {count}: the first '
                    'is taken. If that is wrong, set model.teacher.class_names',
                    'current',
                    logging.WARNING,
                )
        columns = tuple(places[name].pop(0) for name in names)
        same = columns == tuple(range(len(self.classes)))
        return ClassMap() if same else ClassMap(columns, len(self.classes))

    def _fuse_batch_norms(self, keep: Sequence[str]) -> None:
        """Fold what can be folded; networks that take no image of noise are left as they are."""
        reference = next(self.model.parameters())
        head = getattr(self.model, 'bbox_head', None)
        family = None if head is None or not has_batch_norms(head) else adapter_class(head)

        @torch.no_grad()
        def run(size: int) -> list[Tensor]:
            noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
            features = self.features(noise.to(reference.device), [])
            if family is None or not issubclass(family, DenseHeadAdapter):
                return flat(features)
            with self.precision():
                return [*flat(features), *family.run(head, features).maps]

        for size in PROBE_SIZES:
            try:
                run(size)
            except RuntimeError:
                continue
            fuse_batch_norms(self.model, partial(run, size), keep)
            return

    def _load(self, allow_pickle: bool) -> None:
        """Load the checkpoint, every key of it and nothing else."""
        try:
            checkpoint = load_checkpoint(
                self.checkpoint, allow_pickle=allow_pickle, option='model.teacher.allow_pickle=True'
            )
        except FileNotFoundError:
            raise FileNotFoundError(
                f'model.teacher.checkpoint: there is no file {self.checkpoint!r}: train the teacher first, '
                'or set it to where its weights are'
            ) from None
        except (CorruptCheckpointError, UnsafeCheckpointError) as error:
            raise type(error)(f'model.teacher.checkpoint: {error}') from None
        source = checkpoint
        if isinstance(checkpoint, Mapping):
            source = checkpoint.get('state_dict', checkpoint)
        if not isinstance(source, Mapping):
            raise CorruptCheckpointError(
                f'model.teacher.checkpoint: {self.checkpoint} holds a {type(source).__name__}, not weights by name'
            )
        problems = load_weights(
            self.model, plain_weights(self.model, source), getattr(source, '_metadata', {})
        )
        if problems:
            raise RuntimeError(
                f'model.teacher.checkpoint {self.checkpoint} does not fit model.teacher.config:\n  '
                + '\n  '.join(problems)
                + '\nset model.teacher.config to the config that trained this file (same architecture, same '
                'number of classes)'
            )
        meta = checkpoint.get('meta') or {}
        self.classes = _names(meta.get('dataset_meta')) or _names(meta) or self.classes

    def _check_aliases(self) -> None:
        if not self._aliases:
            return
        if self.classes is None:
            raise ValueError(
                f'model.teacher.class_aliases: {self._source} does not name its classes: set model.teacher.class_names'
            )
        unknown = [name for name in self._aliases.values() if name not in self.classes]
        if unknown:
            raise ValueError(
                'model.teacher.class_aliases: the teacher has no class '
                + ', '.join(_with_nearest(unknown, self.classes))
                + f'; its classes are {_few(self.classes)}'
            )

    @property
    def dtype(self) -> torch.dtype | None:
        """The number type that the teacher computes in, None for the student's."""
        assert isinstance(self._precision, TeacherPrecision)
        return self._precision.dtype

    @property
    def _source(self) -> str:
        return f'model.teacher.checkpoint {self.checkpoint}'


def load_config(config: str | Path | Mapping[str, Any] | Config | None) -> Config:
    """The config of a network: a path, ``'mmdet::...'``, or a dict with ``model`` in it."""
    if config is None:
        raise ValueError(
            'model.teacher.config is not set: give the config that trained model.teacher.checkpoint'
        )
    if isinstance(config, Config):
        loaded = config
    elif isinstance(config, Mapping):
        loaded = Config(dict(config))
    else:
        try:
            loaded = get_config(config) if '::' in str(config) else Config.fromfile(config)
        except Exception as error:  # whatever a config executes can raise
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(
                f'model.teacher.config: {config} cannot be read: {type(error).__name__}: {error}'
            ) from error
    if 'model' not in loaded:
        raise ValueError(
            'model.teacher.config has no `model`: give a config file or dict(model=...)'
        )
    return loaded


def _names(meta: Any) -> tuple[str, ...] | None:
    """Class names of a data set's meta data."""
    if not isinstance(meta, Mapping):
        return None
    names = meta.get('classes') or meta.get('CLASSES')
    return (names,) if isinstance(names, str) else tuple(names) if names else None


def build_network(loaded: Config) -> Any:
    """A network as its own config describes it, in its own scope, without pretrained weights."""
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


def _with_nearest(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names, each with the known ones that are spelled alike."""
    lower = {name.lower(): name for name in known}
    described = []
    for name in names:
        near = [lower[hit] for hit in get_close_matches(name.lower(), lower, n=2)]
        described.append(
            f'{name!r}' + (f' (nearest: {", ".join(map(repr, near))})' if near else '')
        )
    return described


def _few(names: Sequence[str]) -> str:
    return ', '.join(_shorten(list(map(repr, names))))


def _shorten(keys: Sequence[str], limit: int = 8) -> list[str]:
    listed = list(keys[:limit])
    return listed + [f'... and {len(keys) - limit} more'] * (len(keys) > limit)
