"""A teacher that was trained before: a frozen network, loaded completely from a checkpoint."""

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
"""``checkpoint`` of an untrained teacher, for tests and dry runs."""


@TEACHERS.register_module()
class FrozenTeacher(Teacher):
    """A trained network, built from its own config with the weights of a checkpoint.

    Args:
        config: The teacher's config: a path, ``'mmdet::...'``, ``'mmpretrain::...'``, or a dict with ``model`` in it.
        checkpoint: Path or URL of the teacher's weights; ``'random_init'`` for an untrained teacher.
        class_names: Names of the teacher's classes in the order of its logits. Default: those in the checkpoint, else
            those of the config's ``train_dataloader`` or of the class of its data set, in the order of the annotation
            file if that can be read, see :func:`label_names`.
        class_aliases: The student's name of a class to the teacher's, where the two differ, such as
            ``{'motorbike': 'motorcycle'}``.
        dtype: The dtype that the teacher computes in: ``'float32'``, ``'float16'`` or ``'bfloat16'``. Default: as the
            student's step, float32 or autocast (``--amp``). See :class:`TeacherPrecision`.
        allow_pickle: Also load a checkpoint that holds more than weights. It can execute any code: only for files that
            you trust.
        fuse: Fold batch norms into the convolutions before them, which is faster; outputs change by rounding only. See
            docs/speed.md.
        student: The student, whose preprocessed images the teacher gets.

    Raises:
        ValueError: No config or checkpoint is given, the config has no model, or ``class_aliases`` are wrong.
        FileNotFoundError: The checkpoint or the config does not exist.
        RuntimeError: The checkpoint does not fit the config; the message lists the keys.
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
        """Fold the batch norms, now that the modules whose outputs are needed are known, and add the taps."""
        if self._fuse and has_batch_norms(self.model):
            self._fuse_batch_norms([module_path(path) for path in paths if path != PRE_LOGITS])
        self._fuse = False
        super().tap(paths, only)

    @property
    @override
    def description(self) -> str:
        return f'{type(self.model).__name__} of {self._config}, weights of {self.checkpoint}'

    def check_num_classes(self, student: int, teacher: int) -> None:
        """Check, as far as is known before training, that the classes of student and teacher can be matched.

        The box head of a teacher trained on panoptic data has no stuff classes: they are removed from ``classes`` here.

        Args:
            student: Number of the student's classes.
            teacher: Number of the classes of the teacher's head.

        Raises:
            ValueError: The numbers differ and the names of the teacher's classes are not known, or there are more or
                fewer names than classes.
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
            names: Names of the data set's classes, which the student learns; None if they are not known.
            student: Number of the student's classes.
            teacher: Number of the classes of the teacher's head.

        Returns:
            The map of the teacher's classes to the student's. If one side has no names, both are assumed to have the
            same classes.

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
                f"classes: {who} does not name its {teacher}: they are assumed to be the student's, in the same order. "
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
        """The teacher's classes with these names; the k-th use of a name is the k-th class with that name."""
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
        """Fold the batch norms; a network that fails on an image of noise is left as it is."""
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
        """Load the checkpoint; its keys have to be exactly those of the model."""
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
        """The dtype that the teacher computes in; None for the student's."""
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
    """Class names in a data set's metainfo."""
    if not isinstance(meta, Mapping):
        return None
    names = meta.get('classes') or meta.get('CLASSES')
    return (names,) if isinstance(names, str) else tuple(names) if names else None


def build_network(loaded: Config) -> Any:
    """Build the network of a config, in the config's scope and without pretrained weights."""
    model = loaded.model
    if model.type in ('mmkd.Distiller', 'Distiller'):  # a distilled student that becomes a teacher
        model = model.student
    if 'data_preprocessor' in loaded:  # MMPretrain's configs have it beside `model`
        model = {'data_preprocessor': loaded.data_preprocessor, **model}
    with DefaultScope.overwrite_default_scope(loaded.get('default_scope')):
        return MODELS.build(model)


def _init_without_pretrained(model: nn.Module) -> None:
    """Initialise all weights at random: some modules only do so in ``init_weights``."""
    for module in model.modules():
        init = getattr(module, 'init_cfg', None)
        if isinstance(init, Mapping) and init.get('type') == 'Pretrained':
            module.init_cfg = None  # type: ignore[assignment]
    model.init_weights()  # type: ignore[operator]


def _with_nearest(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names, each with known names of similar spelling."""
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
