"""Dense heads, which have one logit vector per anchor or point of every feature level.

This is the part that all of them share. The families differ in how they assign targets, see :mod:`mmkd.heads.anchor`
and :mod:`mmkd.heads.point`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from typing_extensions import override

from mmkd.structures import (
    Activation,
    Boxes,
    FeaturePair,
    Holding,
    Logits,
    Request,
    SampleTable,
    Step,
    StoredRows,
    TeacherPass,
    evaluating,
)

from .base import HeadAdapter, adapter_class
from .features import as_it_computes

BOX_TOWER = 'reg_convs'
"""Attribute of the convolutions that only the boxes are computed from, in most families."""

BOX_LOSS: Mapping[str, str] = {'box_loss': 'bbox_head.loss_bbox.forward(...)'}
"""Tap on the boxes that enter a head's box loss, see :func:`boxes_in_loss`."""


@dataclass(frozen=True)
class Assignment:
    """The targets that the student's head assigned to the P priors of one image.

    Attributes:
        labels: (P,) class, ``num_classes`` for background.
        weights: (P,) weight in the classification loss, 0 for ignored priors.
        object_ids: (P,) index of the assigned ground truth, -1 for none.
    """

    labels: Tensor
    weights: Tensor
    object_ids: Tensor


@dataclass(frozen=True)
class DenseOutputs:
    """The outputs of a dense head for a batch.

    Attributes:
        class_maps: Logits, (B, A*C, H, W) per level.
        box_maps: Encoded boxes, (B, A*D, H, W) per level, for each part of the code; most heads have one part.
        objectness: Logits of a separate objectness, (B, A, H, W) per level, if the class maps are only meaningful
            together with it; else None.
        probabilities: The class maps hold sigmoid probabilities instead of logits.
    """

    class_maps: Sequence[Tensor]
    box_maps: Sequence[Sequence[Tensor]]
    objectness: Sequence[Tensor] | None = None
    probabilities: bool = False

    @property
    def maps(self) -> list[Tensor]:
        """All maps."""
        boxes = [level for levels in self.box_maps for level in levels]
        return [*self.class_maps, *boxes, *(self.objectness or ())]

    def cut(self, sizes: Sequence[Sequence[int]]) -> DenseOutputs:
        """Cut each level to a height and width: the other network may pad less."""

        def cut(levels: Sequence[Tensor]) -> list[Tensor]:
            return [
                level[..., :height, :width]
                for level, (height, width) in zip(levels, sizes, strict=True)
            ]

        return replace(
            self,
            class_maps=cut(self.class_maps),
            box_maps=[cut(levels) for levels in self.box_maps],
            objectness=None if self.objectness is None else cut(self.objectness),
        )


@dataclass(frozen=True)
class DenseRows:
    """Stored outputs of a dense head for M of the samples of a batch.

    Attributes:
        index: (M,) indices of these samples, ascending.
        rank: (M,) rank of a sample within its image by the teacher's confidence, starting at 0. On the host, so that
            picking samples need not wait for the device.
        logits: (M, C) logits.
        confidence: (M,) see :meth:`SampleTable.teacher_confidence`.
        code: (M, D) rows of each part of the boxes' code; empty if no boxes are stored.
    """

    index: Tensor
    rank: Tensor
    logits: Tensor
    confidence: Tensor
    code: Sequence[Tensor]

    def pick(self, rows: Tensor, index: Tensor) -> Tensor:
        """(S, D) rows of the (S,) samples ``index``, from (M, D) ``rows``; NaN for samples that are not stored."""
        at = torch.searchsorted(self.index, index).clamp(max=len(self.index) - 1)
        return torch.where((self.index[at] == index)[:, None], rows[at], torch.nan)


@dataclass(frozen=True)
class Places:
    """Positions of S samples of a dense head.

    Attributes:
        priors: (S, 4) xyxy anchors or (S, 2) points in input pixels.
        levels: (S,) feature levels.
        strides: (S, 2) pixels from one cell to the next, along x and y.
    """

    priors: Tensor
    levels: Tensor
    strides: Tensor


@dataclass
class DenseTable(SampleTable):
    """Samples of a dense head, in MMDetection's order: image, level, row, column, prior of the location.

    Attributes:
        student: The outputs of the student's head.
        run_teacher: Computes the outputs of the teacher's head, of the same shapes, or reads the stored ones.
        channels: C, the number of logits per prior.
        student_decoder: Decodes the student's boxes.
        teacher_decoder: Decodes the teacher's boxes.
    """

    student: DenseOutputs
    run_teacher: Callable[[], DenseOutputs | DenseRows]
    channels: int
    student_decoder: BoxDecoder
    teacher_decoder: BoxDecoder

    @cached_property
    def teacher(self) -> DenseOutputs | DenseRows:
        """The outputs of the teacher's head, which runs when this is first read."""
        outputs = self.run_teacher()
        if isinstance(outputs, DenseRows):
            return outputs
        ours, theirs = (
            [tuple(level.shape) for level in maps.class_maps] for maps in (self.student, outputs)
        )
        if ours != theirs:
            raise ValueError(
                f'class maps of the levels: student {ours}, teacher {theirs}: the pair needs equal '
                "strides, and pad_size_divisor of the student's data_preprocessor a multiple of the "
                "teacher's"
            )
        return outputs

    @override
    def student_logits(self, index: Tensor) -> Tensor:
        return self._logits(self.student, index)

    @override
    def teacher_logits(self, index: Tensor) -> Tensor:
        return self._logits(self.teacher, index)

    def teacher_confidence(self) -> Tensor:
        """(N,) the highest foreground probability, times the objectness if the head has one."""
        if isinstance(self.teacher, DenseRows):
            confidence = self.teacher.confidence.new_zeros(len(self))
            return confidence.index_copy(0, self.teacher.index, self.teacher.confidence)
        probabilities = self.teacher.probabilities
        levels = [self._confidence(maps, probabilities) for maps in self.teacher.class_maps]
        confidence = torch.cat([_fold(level, 1).flatten(1) for level in levels], dim=1)
        if self.teacher.objectness is not None:
            objectness = [_fold(maps, 1).flatten(1) for maps in self.teacher.objectness]
            confidence = confidence * torch.cat(objectness, dim=1).sigmoid()
        return confidence.flatten()

    @override
    def teacher_top(self, k: int) -> Tensor:
        if isinstance(self.teacher, DenseRows):
            kept = (self.teacher.rank < k).nonzero().flatten()
            return self.teacher.index[kept.to(self.teacher.index.device, non_blocking=True)]
        return super().teacher_top(k)

    def student_confidence(self, index: Tensor) -> Tensor:
        """(S,) the same of the student, see :meth:`SampleTable.student_confidence`."""
        confidence = super().student_confidence(index)
        if self.student.objectness is not None:
            objectness = gather_rows(self.student.objectness, self._chosen(index), channels=1)[:, 0]
            confidence = confidence * objectness.detach().sigmoid()
        return confidence

    @property
    def priors(self) -> Tensor | None:
        """(P, 4) anchors of one image in input pixels; None for heads with points."""
        priors = self.student_decoder.priors
        return priors if priors.shape[1] == 4 else None

    def boxes(self, index: Tensor) -> Tensor | None:
        """(S, 4) the samples' anchors; None for heads with points."""
        return None if self.priors is None else self.priors[index % len(self.priors)]

    @override
    def cells(self, index: Tensor) -> Tensor:
        return self.places(index)[:, :3]

    def places(self, index: Tensor) -> Tensor:
        """(S, 4) level, row, column, and index of the prior at that location; independent of padding."""
        grid = _Grid.of(self.student.class_maps, self.channels)
        return grid.places(index % grid.size)

    @override
    def student_boxes(self, index: Tensor) -> Tensor:
        return self.student_decoder(self._box_code(self.student, index), index)

    @override
    def teacher_boxes(self, index: Tensor) -> Tensor:
        return self.teacher_decoder(self._box_code(self.teacher, index), index)

    @override
    def student_distributions(self, index: Tensor) -> Tensor | None:
        return self._distributions(self.student, self.student_decoder, index)

    @override
    def teacher_distributions(self, index: Tensor) -> Tensor | None:
        return self._distributions(self.teacher, self.teacher_decoder, index)

    def _distributions(
        self, outputs: DenseOutputs | DenseRows, decoder: BoxDecoder, index: Tensor
    ) -> Tensor | None:
        if not decoder.family.distributions:
            return None
        (code,) = self._box_code(outputs, index)
        return code.unflatten(1, (4, -1))

    def _box_code(self, outputs: DenseOutputs | DenseRows, index: Tensor) -> list[Tensor]:
        """(S, D) rows of each part of the boxes' code. In float32: 16 bits are too few for pixels of a large image."""
        if isinstance(outputs, DenseRows):
            return [outputs.pick(part, index) for part in outputs.code]
        priors = [maps.shape[1] // self.channels for maps in outputs.class_maps]
        return [
            gather_rows(levels, self._chosen(index), levels[0].shape[1] // priors[0]).float()
            for levels in outputs.box_maps
        ]

    def _chosen(self, index: Tensor) -> Tensor | None:
        """The index, or None for all samples, whose rows need not be looked up."""
        return None if index is self.everything else index

    def rows(self, holding: Holding) -> list[StoredRows]:
        """The teacher's rows for a store, image by image, in descending order of its confidence."""
        index = self.everything
        if holding.top is not None:
            picked = self.is_foreground() if holding.positives else torch.zeros_like(index).bool()
            picked[self.teacher_top(holding.top)] = True
            index = picked.nonzero().flatten()
        confidence = self.teacher_confidence()[index]
        parts = {
            'places': self.places(index).short(),
            'logits': self.teacher_logits(index).half(),
            'confidence': confidence.float(),
        }
        if holding.boxes:
            parts |= {
                f'code{n}': part for n, part in enumerate(self._box_code(self.teacher, index))
            }
        images = self.image_ids[index]
        rows = []
        for image in range(len(self.samples_per_image)):
            own = (images == image).nonzero().flatten()
            own = own[confidence[own].sort(descending=True, stable=True).indices]
            rows.append({name: part[own] for name, part in parts.items()})
        return rows

    def _logits(self, outputs: DenseOutputs | DenseRows, index: Tensor) -> Tensor:
        if isinstance(outputs, DenseRows):
            return outputs.pick(outputs.logits, index)
        rows = gather_rows(outputs.class_maps, self._chosen(index), self.channels)
        return logits_of(rows) if outputs.probabilities else rows

    def _confidence(self, maps: Tensor, probabilities: bool) -> Tensor:
        """(B, A, H, W) highest foreground probability in the teacher's (B, A*C, H, W) maps."""
        logits = maps.unflatten(1, (-1, self.channels))
        if self.activation == 'softmax':
            return logits.float().softmax(dim=2)[:, :, : self.num_classes].amax(dim=2)
        highest = logits.amax(dim=2)
        return highest if probabilities else highest.sigmoid()


class DenseHeadAdapter(HeadAdapter):
    """The base class for heads that output one class map per level; families differ in how they assign targets.

    Student and teacher may have different dense heads, such as FCOS and GFL or TOOD: labels come from the student's
    assignment, and samples are compared cell by cell. Strides, priors per location and activation have to be the same,
    and if both have anchors, the anchors.
    """

    taps: Mapping[str, str] = {
        'head': 'bbox_head',
        'targets': 'bbox_head._get_targets_single()',
    }

    boxes_at: ClassVar[int] = 1
    """Position of the box maps in the head's outputs."""
    distributions: ClassVar[bool] = False
    """Whether the box maps hold a distribution for each side of a box."""
    prior_generator: ClassVar[str | None] = 'prior_generator'
    """Attribute of the head's generator of priors, None for heads that have none."""
    objectness_at: ClassVar[int | None] = None
    """Position of the objectness maps in the head's outputs, None for heads without a separate objectness."""
    probabilities: ClassVar[bool] = False
    """Whether the head applies the sigmoid itself, so that its class maps are probabilities."""

    teacher_boxes: bool = True
    """Whether the teacher's head computes its boxes."""

    def __init__(self, student: nn.Module, teacher: nn.Module, path: str) -> None:
        super().__init__(student, teacher, path)
        self._shapes: dict[tuple[int, int], list[tuple[int, ...]]] = {}
        found = adapter_class(self.teacher_head)
        assert found is not None
        assert issubclass(found, DenseHeadAdapter)
        self.teacher_family: type[DenseHeadAdapter] = found
        grids = [
            family.generator(head)
            for family, head in ((self, self.student_head), (found, self.teacher_head))
        ]
        heads = [self.student_head, self.teacher_head]
        for what, fix, (ours, theirs) in (
            ('strides', 'give both heads the same strides', map(_strides, grids)),
            (
                'anchors per location',
                'give both heads the same anchor generator',
                map(_priors_per_location, grids),
            ),
            ('activation', 'use the same kind of loss_cls in both heads', map(_activation, heads)),
        ):
            if ours != theirs:
                raise ValueError(
                    f'{what}: the student ({type(self.student_head).__name__}) has {ours}, the teacher '
                    f'({type(self.teacher_head).__name__}) {theirs}: {fix}'
                )

    @classmethod
    @override
    def aligns_with(cls, teacher: type[HeadAdapter]) -> bool:
        """Any dense head, as far as the classes tell; ``__init__`` compares the rest."""
        return issubclass(teacher, DenseHeadAdapter)

    @property
    @override
    def activation(self) -> Activation:
        return _activation(self.student_head)

    def tables(self, step: Step) -> list[SampleTable]:
        """One table of all priors of all levels and images.

        Raises:
            RuntimeError: The recorded targets do not match the class maps.
        """
        teacher = self.teacher_pass(step)
        outputs = self.student_outputs(step)
        assignments = self.assignments(step, outputs)
        counts = [len(assigned.labels) for assigned in assignments]
        expected = [self.priors_per_image(outputs)] * len(outputs.class_maps[0])
        if counts != expected:
            raise RuntimeError(
                f'{type(self.student_head).__name__} assigned targets to {counts} priors of the images, '
                f'its class maps have {expected}: it does not assign as the family that '
                f'{type(self).__name__} serves does, and needs a head adapter of its own '
                '(mmkd.heads.register_head_adapter)'
            )
        return [
            DenseTable(
                activation=self.activation,
                num_classes=self.num_classes,
                samples_per_image=counts,
                labels=torch.cat([assigned.labels for assigned in assignments]),
                weights=torch.cat([assigned.weights for assigned in assignments]),
                object_ids=torch.cat([assigned.object_ids for assigned in assignments]),
                num_foreground=self.num_foreground(step),
                student=outputs,
                run_teacher=lambda: self._run_teacher(teacher, outputs),
                channels=self.num_logits,
                student_decoder=self.decoder(self.student_head, outputs, step.inputs),
                teacher_decoder=self.teacher_family.decoder(
                    self.teacher_head, outputs, step.inputs, teacher
                ),
            )
        ]

    @override
    def leave_out_boxes(self) -> None:
        self.teacher_boxes = not _classes_stand_alone(self.teacher_family, self.teacher_head)

    @override
    def class_map_levels(self) -> list[tuple[int, int]]:
        generator = self.generator(self.student_head)
        if generator is None:
            return super().class_map_levels()
        return [
            (priors * self.num_logits, int(stride[0]))
            for priors, stride in zip(
                _priors_per_location(generator) or (), _strides(generator) or (), strict=True
            )
        ]

    @override
    def to_store(self, request: Request[Any]) -> Holding:
        """The samples that the teacher is most confident of, and the positives if asked for."""
        if not isinstance(request, Logits | Boxes):
            raise ValueError('whole maps are not stored: take a loss on logits')
        top = getattr(request.samples, 'teacher_top', None)
        if top is None:
            raise ValueError(
                f'{type(request.samples).__name__} picks more than positives and the samples that the teacher is most '
                "confident of, and no others are stored: set samples=dict(type='mmkd.TeacherTopK', k=64)"
            )
        positives = None
        if getattr(request.samples, 'positives', False):
            positives = self.static_assignment()
            if positives is None:
                raise ValueError(
                    f"{type(request.samples).__name__}: {type(self.student_head).__name__}'s positives follow from its "
                    "own outputs or from random numbers, not from the image alone: set samples=dict(type='mmkd."
                    "TeacherTopK', k=64)"
                )
        return Holding(top, isinstance(request, Boxes), positives=positives)

    def static_assignment(self) -> str | None:
        """A fingerprint of the student's assignment; None if it depends on more than the ground truth."""
        return None

    @torch.no_grad()
    @override
    def teacher_rows(
        self,
        teacher: TeacherPass,
        student: Any,
        data_samples: Sequence[Any],
        holding: Holding,
    ) -> list[StoredRows]:
        self.teacher_boxes |= holding.boxes
        images, _, *size = teacher.inputs.shape
        shapes = self._map_shapes(student, (size[0], size[1]))
        blank = teacher.inputs.new_zeros(1)  # of the student, only the shapes are used
        outputs = DenseOutputs([blank.expand(images, *shape) for shape in shapes], [])
        count = self.priors_per_image(outputs)
        table = DenseTable(
            activation=self.activation,
            num_classes=self.num_classes,
            samples_per_image=[count] * images,
            labels=None,
            weights=blank.expand(images * count),
            object_ids=blank.expand(images * count),
            student=outputs,
            run_teacher=lambda: self._run_teacher(teacher, outputs),
            channels=self.num_logits,
            student_decoder=self.decoder(self.student_head, outputs, teacher.inputs),
            teacher_decoder=self.teacher_family.decoder(
                self.teacher_head, outputs, teacher.inputs, teacher
            ),
        )
        return table.rows(holding)

    def positive_rows(self, step: Step, holding: Holding) -> list[StoredRows]:
        """Like :meth:`teacher_rows`, but after a step of the student, whose assignment defines the positives."""
        self.teacher_boxes |= holding.boxes
        (table,) = self.sample_tables(step)
        assert isinstance(table, DenseTable)
        return table.rows(holding)

    def _map_shapes(self, student: Any, size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Shapes of the student's class maps for inputs of a size, without the batch dimension."""
        if size not in self._shapes:
            with evaluating(student):
                images = next(student.parameters()).new_zeros(
                    2, 3, *size
                )  # GroupNorm fails on a single value
                outputs = self.run(self.student_head, student.extract_feat(images))
            self._shapes[size] = [tuple(level.shape[1:]) for level in outputs.class_maps]
        return self._shapes[size]

    @override
    def class_maps(self, step: Step) -> list[FeaturePair]:
        """(B, A*C, H, W) maps; the C channels of an anchor are consecutive."""
        (table,) = self.sample_tables(step)
        assert isinstance(table, DenseTable)
        assert isinstance(table.teacher, DenseOutputs)
        students, teachers = (
            [logits_of(level) for level in outputs.class_maps]
            if outputs.probabilities
            else outputs.class_maps
            for outputs in (table.student, table.teacher)
        )
        levels = zip(self.class_map_levels(), students, teachers, strict=True)
        return [
            FeaturePair(number, stride, student, teacher.detach())
            for number, ((_, stride), student, teacher) in enumerate(levels)
        ]

    @override
    def check_boxes(self, distributions: bool = False) -> None:
        if not distributions:
            return
        for role, family, head in (
            ('student', type(self), self.student_head),
            ('teacher', self.teacher_family, self.teacher_head),
        ):
            if not family.distributions:
                raise ValueError(
                    f"the {role}'s {type(head).__name__} predicts the sides of a box as numbers, not as "
                    'distributions: use mmkd.BoxGIoULoss or mmkd.BoxL1Loss, or a GFL head'
                )
        ours, theirs = self.student_head.reg_max, self.teacher_head.reg_max
        if ours != theirs:
            raise ValueError(
                f'bins of a box distribution: the student has reg_max {ours}, the teacher {theirs}: give '
                'both heads the same reg_max, or use mmkd.BoxGIoULoss'
            )

    @abstractmethod
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        """The assignment of the student's head, one item per image, read from the taps."""

    def num_foreground(self, step: Step) -> int | None:
        """Number of positives in :meth:`assignments`; None if the student's step left it on the device only.

        To ask the device would make the host wait.
        """
        return None

    def student_outputs(self, step: Step) -> DenseOutputs:
        """The outputs of the student's head in its training step."""
        return self.read(step.record('head')[0])

    @classmethod
    def run(cls, head: Any, features: Sequence[Tensor]) -> DenseOutputs:
        """The outputs of a head of this family for feature maps of its neck."""
        return cls.read(head(features))

    @classmethod
    def read(cls, outputs: Sequence[Any]) -> DenseOutputs:
        """The parts of a head's forward result that the table needs.

        The other parts may differ between training and eval mode; so may the code of the boxes, see :meth:`decode`.
        """
        objectness = None if cls.objectness_at is None else outputs[cls.objectness_at]
        return DenseOutputs(outputs[0], [outputs[cls.boxes_at]], objectness, cls.probabilities)

    @classmethod
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        """Decode boxes of samples as in the head's prediction, but without clipping to the image.

        Args:
            head: A head of this family, in the mode (training or eval) in which ``code`` was computed.
            code: (S, D) rows of each part of its box maps.
            places: The samples' priors.

        Returns:
            (S, 4) xyxy boxes in input pixels.
        """
        return head.bbox_coder.decode(places.priors, code[0])

    @classmethod
    def decoder(
        cls,
        head: Any,
        outputs: DenseOutputs,
        inputs: Tensor,
        teacher: TeacherPass | None = None,
    ) -> BoxDecoder:
        """A decoder for the boxes of a head of this family.

        Args:
            head: The head.
            outputs: A head's outputs on ``inputs``; only the sizes of the maps are used.
            inputs: (B, 3, H, W) pixels.
            teacher: The teacher on the batch, if the head is the teacher's.
        """
        sizes = [(level.shape[-2], level.shape[-1]) for level in outputs.class_maps]
        size = (inputs.shape[-2], inputs.shape[-1])
        return BoxDecoder(cls, head, sizes, size, inputs.device, teacher)

    @classmethod
    def generator(cls, head: Any) -> Any:
        """The head's generator of priors, or None.

        Raises:
            ValueError: The head lacks the one that its family has: its priors are not a fixed grid.
        """
        if cls.prior_generator is None:
            return None
        if not hasattr(head, cls.prior_generator):
            raise ValueError(
                f'{type(head).__name__} has no {cls.prior_generator}: where it predicts its anchors, as '
                'guided anchoring does, those of student and teacher differ and their logits cannot be '
                'aligned'
            )
        return getattr(head, cls.prior_generator)

    @classmethod
    def grid(
        cls, head: Any, sizes: Sequence[tuple[int, int]], device: torch.device
    ) -> list[Tensor]:
        """Priors of one image: (n, 4) anchors or (n, 2) points per level.

        Args:
            head: The head.
            sizes: Height and width of its maps, per level.
            device: Device of the priors.
        """
        return cls.generator(head).grid_priors(sizes, device=device)

    def priors_per_image(self, outputs: DenseOutputs) -> int:
        """P, the number of priors per image."""
        return sum(level[0].numel() for level in outputs.class_maps) // self.num_logits

    def is_foreground(self, labels: Tensor) -> Tensor:
        """(P,) whether a label is a class."""
        return (labels >= 0) & (labels < self.num_classes)

    def spread(self, values: Tensor, mask: Tensor, fill: int) -> Tensor:
        """(P,) ``values``, in order, where the (P,) ``mask`` is true; ``fill`` elsewhere."""
        if not len(values):
            return torch.full(mask.shape, fill, device=mask.device)
        order = (mask.cumsum(0) - 1).clamp(
            0, len(values) - 1
        )  # to index with a mask would wait for the device
        return torch.where(mask, values[order].long(), fill)

    def _run_teacher(self, teacher: TeacherPass, student: DenseOutputs) -> DenseOutputs | DenseRows:
        """The teacher's outputs, with the student's classes and cells."""

        def compute(model: Any, features: tuple[Tensor, ...]) -> DenseOutputs | DenseRows:
            head = model.get_submodule(self.teacher_path)
            if not self.teacher_boxes:
                head = without_boxes(head)
            outputs = self.teacher_family.run(head, features)
            return self.aligned(outputs, teacher, student)

        return teacher.outputs(compute, lambda images: self._restored(images, student))

    def _restored(self, images: Sequence[StoredRows], student: DenseOutputs) -> DenseRows:
        """The stored rows of a batch; their indices depend on the batch's padding."""
        grid = _Grid.of(student.class_maps, self.num_logits)
        index = torch.cat(
            [grid.index(image['places']) + n * grid.size for n, image in enumerate(images)]
        )
        rank = torch.cat([torch.arange(len(image['places'])) for image in images])
        order = index.argsort()

        def pick(rows: Tensor) -> Tensor:
            return rows[order].to(student.class_maps[0].device, non_blocking=True)

        def part(name: str) -> Tensor:
            return pick(torch.cat([image[name] for image in images]).float())

        names = sorted(name for name in images[0] if name.startswith('code'))
        return DenseRows(
            index=pick(index),
            rank=rank[order],
            logits=part('logits'),
            confidence=part('confidence'),
            code=[part(name) for name in names],
        )

    def aligned(
        self, outputs: DenseOutputs, teacher: TeacherPass, student: DenseOutputs
    ) -> DenseOutputs:
        """Outputs of the teacher's head, converted to the student's classes and cells."""
        channels = self.num_teacher_classes + self.num_logits - self.num_classes
        class_maps = [
            teacher.classes.logits(level.unflatten(1, (-1, channels)), dim=2).flatten(1, 2)
            for level in outputs.class_maps
        ]
        box_maps = outputs.box_maps if self.teacher_boxes else []
        outputs = replace(outputs, class_maps=class_maps, box_maps=box_maps)
        if self.prior_generator is None:  # the strides are not known
            return outputs
        return outputs.cut([level.shape[-2:] for level in student.class_maps])


@dataclass
class BoxDecoder:
    """Decodes the boxes of one dense head; what does not depend on the samples is computed once.

    Attributes:
        family: The head's adapter class.
        head: The head.
        sizes: Height and width of its maps, per level.
        input_size: Height and width of the network's input in pixels.
        device: Device of the maps.
        teacher: The teacher on the batch, if the head is the teacher's: it decodes in eval mode.
    """

    family: type[DenseHeadAdapter]
    head: Any
    sizes: Sequence[tuple[int, int]]
    input_size: tuple[int, int]
    device: torch.device
    teacher: TeacherPass | None = None

    @cached_property
    def levels(self) -> list[Tensor]:
        """(n, 4) anchors or (n, 2) points of one image, per level."""
        return self.family.grid(self.head, self.sizes, self.device)

    @cached_property
    def priors(self) -> Tensor:
        """(P, 4) anchors or (P, 2) points of one image."""
        return torch.cat(self.levels)

    def __call__(self, code: Sequence[Tensor], index: Tensor) -> Tensor:
        """(S, 4) boxes of the (S,) samples ``index``, see :meth:`DenseHeadAdapter.decode`."""
        within = index % len(self.priors)
        levels = self.level_of[within]
        height, width = self.input_size
        generator = self.family.generator(self.head)
        strides = torch.tensor(
            [[width / w, height / h] for h, w in self.sizes]
            if generator is None
            else _strides(generator),
            dtype=self.priors.dtype,
        ).to(self.device, non_blocking=True)
        places = Places(self.priors[within], levels, strides[levels])

        def decode(_: Any = None) -> Tensor:
            with torch.autocast(self.device.type, enabled=False):
                return self.family.decode(self.head, code, places)

        return decode() if self.teacher is None else self.teacher.run(decode, gradient=True)

    @cached_property
    def level_of(self) -> Tensor:
        """(P,) the level of every prior of one image."""
        counts = [len(level) for level in self.levels]
        return torch.cat(
            [torch.full((count,), level, device=self.device) for level, count in enumerate(counts)]
        )


def boxes_in_loss(head: Any, step: Step) -> int | None:
    """Number of boxes that entered a head's ``loss_bbox``, recorded by :data:`BOX_LOSS`.

    In MMDetection's FCOS, FoveaBox and TOOD this is the number of positives. A derived head with a ``loss_by_feat`` of
    its own may differ: None.
    """
    if not type(head).loss_by_feat.__module__.startswith('mmdet.'):
        return None
    calls = step.records[next(iter(BOX_LOSS))]
    return sum(len(next(iter(arguments.values()))) for arguments in calls)


class SampledTargetsAdapter(DenseHeadAdapter):
    """Heads whose ``_get_targets_single`` returns labels, label weights and a ``SamplingResult`` per image."""

    labels_at: ClassVar[int] = 0
    """Position of the (P,) labels in what ``_get_targets_single`` returns; their weights follow."""
    last_round: ClassVar[bool] = False
    """If a head assigns twice: whether the last targets are for the classification, instead of the first."""

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        return [self.assignment(targets) for targets in self._targets(step)]

    @override
    def num_foreground(self, step: Step) -> int | None:
        return sum(len(self._sampling(targets).pos_inds) for targets in self._targets(step))

    def assignment(self, targets: Sequence[Any]) -> Assignment:
        """The assignment in what ``_get_targets_single`` returned for an image."""
        labels, weights = targets[self.labels_at], targets[self.labels_at + 1]
        sampling = self._sampling(targets)
        # pos_inds are indices among the priors inside the image, in the order of all priors.
        order = sampling.pos_inds.argsort()
        objects = sampling.pos_assigned_gt_inds[order].long()
        positive = self.is_foreground(labels)
        return Assignment(labels, weights, self.spread(objects, positive, fill=-1))

    def _targets(self, step: Step) -> Sequence[Any]:
        """What ``_get_targets_single`` returned for every image."""
        records, images = step.record('targets'), len(step.data_samples)
        return records[-images:] if self.last_round else records[:images]

    def _sampling(self, targets: Sequence[Any]) -> Any:
        """The ``SamplingResult`` of an image."""
        return next(item for item in targets if hasattr(item, 'pos_assigned_gt_inds'))


def with_towers(head: Any, towers: Mapping[str, Sequence[nn.Module]]) -> Any:
    """A copy of a head with other modules as its towers of convolutions.

    Everything else is shared with ``head``, which is not changed.

    Args:
        head: The head.
        towers: Attribute to the modules of that tower.
    """
    other = copy.copy(head)
    other._modules = dict(head._modules)
    for name, modules in towers.items():
        setattr(other, name, nn.ModuleList(modules))
    return other


def without_boxes(head: Any, instead: Sequence[nn.Module] = ()) -> Any:
    """A copy of a head that does not compute boxes: the modules ``instead`` replace their tower."""
    tower = getattr(head, BOX_TOWER)
    if _has_levels(tower):
        instead = [nn.ModuleList(instead) for _ in tower]
    return with_towers(head, {BOX_TOWER: instead})


def fingerprint(*settings: Any) -> str:
    """A short hash of settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def gather_rows(maps: Sequence[Tensor], index: Tensor | None, channels: int) -> Tensor:
    """Rows of dense class maps at flat sample indices, without copying the maps.

    Args:
        maps: (B, A*C, H, W) per level; A may differ from level to level.
        index: (S,) indices in the order image, level, row, column, prior; None for all.
        channels: C.

    Returns:
        (S, C) logits, differentiable with respect to ``maps``.
    """
    folded = [_fold(level, channels) for level in maps]
    sizes = [level[0, ..., 0].numel() for level in folded]
    if index is None:
        return torch.cat([level.flatten(1, 3) for level in folded], dim=1).flatten(0, 1)
    image, within = index // sum(sizes), index % sum(sizes)
    rows: Tensor | None = None
    start = 0
    for level, size in zip(folded, sizes, strict=True):
        width, priors = level.shape[2:4]
        cell = (within - start).clamp(0, size - 1)
        found = level[image, cell // (width * priors), cell // priors % width, cell % priors]
        # Rows of other levels are overwritten. Selecting first would wait for their number.
        rows = found if rows is None else torch.where((within >= start)[:, None], found, rows)
        start += size
    assert rows is not None
    return rows


def logits_of(probabilities: Tensor) -> Tensor:
    """Logits of sigmoid probabilities, log p - log(1 - p), in at least float32.

    Finite for every p in [0, 1]: p is clamped to the smallest normal number of the dtype (a logit of -87 in float32)
    and to the largest number below 1 (a logit of 16.6). Beyond these limits the gradient is 0.
    """
    if probabilities.dtype in (torch.float16, torch.bfloat16):
        probabilities = probabilities.float()
    limits = torch.finfo(probabilities.dtype)
    clamped = probabilities.clamp(limits.tiny, 1 - limits.eps / 2)
    return clamped.log() - (-clamped).log1p()


def nearest_object(targets: Tensor, candidates: Tensor, allowed: Tensor) -> Tensor:
    """Find the ground truth that a recorded regression target was computed from.

    Heads with points do not keep the index of the assigned ground truth, only its regression target. So the target is
    computed for every ground truth, and the one that equals it, up to rounding, is the assigned one.

    Args:
        targets: (S, D) targets; those of negatives may have any value.
        candidates: (S, G, D) the target for each of the image's ground truths.
        allowed: (S, G) whether the ground truth has the prior's label.

    Returns:
        (S,) indices of ground truths. Of objects with the same box and label, the first. Values of negatives are
        meaningless: selecting the positives first would make the host wait for their number.
    """
    if not candidates.shape[1]:  # argmin has nothing to choose from
        return torch.zeros(len(targets), dtype=torch.long, device=targets.device)
    distance = (candidates - targets[:, None]).abs().sum(dim=-1)
    return distance.masked_fill(~allowed, torch.inf).argmin(dim=1)


def _classes_stand_alone(family: type[DenseHeadAdapter], head: Any) -> bool:
    """Whether leaving out the tower of the boxes changes no other outputs of a head.

    Found by trying, because some heads, such as VFNet's and RepPoints's, classify at the predicted boxes. Both values
    and gradients are compared: weights may be zero, and gradients stopped.
    """
    tower, generator = getattr(head, BOX_TOWER, None), family.generator(head)
    if not isinstance(tower, nn.ModuleList) or generator is None:
        return False
    levels = tower if _has_levels(tower) else [tower]
    stages: list[Any] = [stage for level in levels for stage in level.children()]
    if not stages or not all(isinstance(stage, ConvModule) for stage in stages):
        return False
    channels = int(stages[0].in_channels)
    if any(channels not in (stage.in_channels, stage.out_channels) for stage in stages):
        return False
    cuts: list[Tensor] = []

    class Cut(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            cuts.append(features.detach().requires_grad_())
            return cuts[-1]

    noise = torch.Generator().manual_seed(0)
    features = [
        torch.randn(1, channels, 4, 4, generator=noise).to(next(head.parameters()))
        for _ in generator.strides
    ]
    with evaluating(head), as_it_computes(head), torch.enable_grad():
        whole, alone = (
            [*outputs.class_maps, *(outputs.objectness or [])]
            for outputs in (
                family.run(each, features) for each in (head, without_boxes(head, [Cut()]))
            )
        )
        total = torch.stack([level.sum() for level in alone]).sum()
    if not all(torch.equal(ours, theirs) for ours, theirs in zip(whole, alone, strict=True)):
        return False
    if not total.requires_grad:
        return True
    return all(gradient is None for gradient in torch.autograd.grad(total, cuts, allow_unused=True))


def _has_levels(tower: nn.ModuleList) -> bool:
    """Whether each level has convolutions of its own, as RTMDet's do."""
    return all(isinstance(level, nn.ModuleList) for level in tower)


@dataclass(frozen=True)
class _Grid:
    """The samples of one image on a head's maps.

    Attributes:
        starts: Index of the first sample, per level.
        widths: Width of the map, per level.
        priors: Number of priors per location, per level.
        size: P, the number of samples of all levels.
    """

    starts: list[int]
    widths: list[int]
    priors: list[int]
    size: int

    @classmethod
    def of(cls, class_maps: Sequence[Tensor], channels: int) -> _Grid:
        """The grid of (B, A*C, H, W) maps."""
        priors = [maps.shape[1] // channels for maps in class_maps]
        counts = [
            number * maps.shape[-2] * maps.shape[-1]
            for number, maps in zip(priors, class_maps, strict=True)
        ]
        starts = [sum(counts[:level]) for level in range(len(counts))]
        return cls(starts, [maps.shape[-1] for maps in class_maps], priors, sum(counts))

    def places(self, index: Tensor) -> Tensor:
        """(S, 4) level, row, column, and index of the prior there, of samples of one image."""
        starts, widths, priors = (
            torch.tensor(each).to(index.device, non_blocking=True)
            for each in (self.starts, self.widths, self.priors)
        )
        level = torch.bucketize(index, starts, right=True) - 1
        within = index - starts[level]
        cell = within // priors[level]
        columns = [level, cell // widths[level], cell % widths[level], within % priors[level]]
        return torch.stack(columns, dim=1)

    def index(self, places: Tensor) -> Tensor:
        """(S,) indices of the samples at these places, the inverse of :meth:`places`.

        Raises:
            ValueError: A place is outside of the maps.
        """
        level, row, column, prior = places.long().unbind(dim=1)
        starts, widths, priors = (
            torch.tensor(each)[level] for each in (self.starts, self.widths, self.priors)
        )
        ends = torch.tensor([*self.starts[1:], self.size])[level]
        index = starts + (row * widths + column) * priors + prior
        if bool(((column >= widths) | (prior >= priors) | (index >= ends)).any()):
            raise ValueError(
                "the stored rows lie outside of the student's maps: the store was made with larger images"
            )
        return index


def _fold(maps: Tensor, channels: int) -> Tensor:
    """View (B, A*C, H, W) as (B, H, W, A, C)."""
    batch, _, height, width = maps.shape
    return maps.view(batch, -1, channels, height, width).permute(0, 3, 4, 1, 2)


def _strides(generator: Any) -> list[Any] | None:
    if generator is None:
        return None
    return [
        tuple(stride) if isinstance(stride, Sequence) else (stride, stride)
        for stride in generator.strides
    ]


def _priors_per_location(generator: Any) -> list[int] | None:
    return None if generator is None else list(generator.num_base_priors)


def _activation(head: Any) -> Activation:
    return 'sigmoid' if getattr(head, 'use_sigmoid_cls', True) else 'softmax'
