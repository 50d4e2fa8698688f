"""The base class of head adapters, and the registry that finds the adapter of a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from typing_extensions import override

from mmkd.structures import (
    TEACHER,
    Activation,
    Boxes,
    ClassMaps,
    FeaturePair,
    HeadRequest,
    Holding,
    Logits,
    Request,
    SampleTable,
    Step,
    StoredRows,
    TeacherPass,
)

HEAD_PATHS = ('roi_head', 'bbox_head', 'head')
"""Attributes under which detectors and classifiers keep the head that classifies."""

_ADAPTERS: dict[str, type[HeadAdapter]] = {}
_Adapter = TypeVar('_Adapter', bound='type[HeadAdapter]')


class HeadAdapter(ABC):
    """Turns the outputs of the heads of student and teacher into sample tables; a subclass serves a family of heads.

    A subclass lists in ``taps`` what it needs from the student's training step, checks in its constructor that student
    and teacher can be aligned, and builds the tables in :meth:`tables`.

    Args:
        student: The student, whose head is at ``path``.
        teacher: The teacher's network.
        path: Attribute of the student's head.
        teacher_path: Attribute of the teacher's head; default: ``path``.

    Options of a subclass are keyword-only arguments; a recipe sets them in ``model.head``.

    Raises:
        ValueError: Teacher and student cannot be aligned.
    """

    taps: Mapping[str, str]
    """Tap name to the module (``'bbox_head'``) or method (``'bbox_head.f()'``) of the student that it records."""
    teacher: str = TEACHER
    """Name of the teacher."""
    has_labels: ClassVar[bool] = True
    """Whether samples may have labels from the student's own step."""
    has_rois: ClassVar[bool] = False
    """Whether the samples are the RoIs that the student's head sampled."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, path: str, teacher_path: str | None = None
    ) -> None:
        self.student_head: Any = student.get_submodule(path)
        self.path = path
        self.teacher_path = teacher_path or path
        self.teacher_head: Any = teacher.get_submodule(self.teacher_path)

    @property
    def activation(self) -> Activation:
        """What turns a row of the student's logits into probabilities."""
        return 'sigmoid' if self.student_head.use_sigmoid_cls else 'softmax'

    @property
    def num_logits(self) -> int:
        """C, the number of the student's logits per sample, with background if it has one."""
        return int(self.student_head.cls_out_channels)

    @property
    def num_classes(self) -> int:
        """Number of the student's foreground classes; also the label of background."""
        return int(self.student_head.num_classes)

    @property
    def num_teacher_classes(self) -> int:
        """Number of the teacher's foreground classes; see :class:`mmkd.structures.ClassMap`."""
        return int(self.teacher_head.num_classes)

    @classmethod
    def aligns_with(cls, teacher: type[HeadAdapter]) -> bool:
        """Whether heads that this class serves can learn from heads that the adapter ``teacher`` serves."""
        return teacher is cls

    def check_boxes(self, distributions: bool = False) -> None:
        """Check that student and teacher predict boxes that can be paired, before a loss on boxes is used.

        Args:
            distributions: Whether the loss compares the distributions of the sides of a box.

        Raises:
            ValueError: They don't; the message names the fix.
        """
        raise ValueError(
            f'{type(self).__name__}, which serves {type(self.student_head).__name__}, gives no boxes: use a loss '
            'on logits or features, or implement check_boxes() and the boxes of its sample tables'
        )

    def leave_out_boxes(self) -> None:  # noqa: B027
        """Called if no loss asks for boxes: the teacher need not compute its own."""

    def answer(self, request: HeadRequest[Any], step: Step) -> list[Any]:
        """The pairs that a loss asks for: one per sample table, or per level for class maps."""
        # Crossed logits come from the teacher's head, without the student's extra layer.
        undo = step.sources.undo if request.crossed is None else None
        if isinstance(request, ClassMaps):
            maps = self.class_maps(step)
            if undo is not None:
                maps = [replace(pair, student=self._on_rows(undo, pair.student)) for pair in maps]
            return maps
        tables = self.sample_tables(step)
        if isinstance(request, Boxes):
            return [table.box_pairs(request.samples, step.image_sizes) for table in tables]
        assert isinstance(request, Logits)
        pairs = [table.pairs(request.samples) for table in tables]
        if undo is not None:
            pairs = [replace(pair, student=undo(pair.student)) for pair in pairs]
        return pairs

    def learn_from(self, teacher: str) -> None:
        """Set the name of the teacher, if a recipe has several."""
        self.teacher = teacher

    def to_store(self, request: Request[Any]) -> Holding:
        """What a store has to hold of the teacher to answer a request.

        Raises:
            ValueError: No store can: the answer depends on more than the teacher and the image.
        """
        raise ValueError(
            f"what is asked of {type(self.teacher_head).__name__} depends on the student's own outputs: no store "
            'holds it'
        )

    def teacher_rows(
        self,
        teacher: TeacherPass,
        student: Any,
        data_samples: Sequence[Any],
        holding: Holding,
    ) -> list[StoredRows]:
        """The rows that a store keeps of a live teacher for a batch, image by image.

        Args:
            teacher: The teacher on the batch.
            student: The student.
            data_samples: The batch's data samples.
            holding: How much to keep.
        """
        raise NotImplementedError(f'{type(self).__name__} stores nothing')

    def sample_tables(self, step: Step) -> list[SampleTable]:
        """The step's tables, built once."""
        return step.once(self, lambda: self.tables(step))

    def teacher_pass(self, step: Step) -> TeacherPass:
        """The teacher on the step's batch."""
        return step.teachers[self.teacher]

    def class_map_levels(self) -> list[tuple[int, int]]:
        """Channels and stride of every level of :meth:`class_maps`.

        Raises:
            ValueError: The heads do not have class logits as maps.
        """
        raise ValueError(
            f'{type(self.student_head).__name__} has no class maps: only dense heads on a fixed grid output class '
            "logits as maps. Use a loss on logits, or maps of the neck, at='neck'"
        )

    def class_maps(self, step: Step) -> list[FeaturePair]:
        """The class logits of both heads as maps, level by level."""
        raise NotImplementedError(f'{type(self).__name__} has no class maps')

    def _on_rows(self, function: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
        """Apply ``function``, which takes (S, C) rows, to (B, A*C, H, W) class maps."""
        rows = maps.unflatten(1, (-1, self.num_logits)).movedim(2, -1)
        changed = function(rows.flatten(0, -2)).view(rows.shape)
        return changed.movedim(-1, 2).flatten(1, 2)

    @abstractmethod
    def tables(self, step: Step) -> list[SampleTable]:
        """The step's candidate samples: one table per set of predictions (stages, decoder layers)."""

    def student_tables(self, step: Step) -> list[SampleTable]:
        """Tables for their student's side only: their teacher will not be asked."""
        return self.tables(step)


class DerivedAdapter(HeadAdapter, ABC):
    """An adapter that wraps ``own``, the adapter of the student's head, and answers with it what it does not change."""

    own: HeadAdapter

    @property
    @override
    def activation(self) -> Activation:
        return self.own.activation

    @property
    @override
    def num_logits(self) -> int:
        return self.own.num_logits

    @property
    @override
    def num_classes(self) -> int:
        return self.own.num_classes

    @property
    @override
    def num_teacher_classes(self) -> int:
        return self.own.num_teacher_classes

    @override
    def check_boxes(self, distributions: bool = False) -> None:
        self.own.check_boxes(distributions)


def register_head_adapter(*head_classes: str) -> Callable[[_Adapter], _Adapter]:
    """Class decorator: the adapter serves heads of these class names and of classes derived from them.

    Args:
        head_classes: Class names of heads, such as ``'AnchorHead'``.
    """

    def register(adapter: _Adapter) -> _Adapter:
        for name in head_classes:
            _ADAPTERS[name] = adapter
        return adapter

    return register


def adapter_class(head: nn.Module) -> type[HeadAdapter] | None:
    """The adapter registered for a head's class or for the nearest of its base classes that has one."""
    return adapter_of(type(head))


def adapter_of(kind: type) -> type[HeadAdapter] | None:
    """Like :func:`adapter_class`, for a class of heads."""
    names = (cls.__name__ for cls in kind.__mro__)
    return next((_ADAPTERS[name] for name in names if name in _ADAPTERS), None)


def known_heads() -> list[str]:
    """Class names of the heads that adapters are registered for."""
    return sorted(_ADAPTERS)
