"""Dense heads: one logit vector per anchor or point of every feature level."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmkd.structures import SampleTable, Step

from .base import HeadAdapter, register_head_adapter


@dataclass(frozen=True)
class Assignment:
    """What the student's own head assigned to the P priors of one image.

    Attributes:
        labels: (P,) class, ``num_classes`` for background.
        weights: (P,) weight in the classification loss, 0 for ignored priors.
        object_ids: (P,) index of the assigned ground truth, -1 for none.
    """

    labels: Tensor
    weights: Tensor
    object_ids: Tensor


@dataclass
class DenseTable(SampleTable):
    """Samples of a dense head, in MMDetection's order: image, level, row, column, prior of the location.

    Attributes:
        student_maps: Class maps of the student, (B, A*C, H, W) a level.
        run_teacher: Gives the teacher's class maps of the same shapes.
        channels: C, logits of one prior.
        priors: (P, 4) anchors of one image in input pixels, or None.
    """

    student_maps: Sequence[Tensor]
    run_teacher: Callable[[], Sequence[Tensor]]
    channels: int
    priors: Tensor | None

    @cached_property
    def teacher_maps(self) -> Sequence[Tensor]:
        """Class maps of the teacher, (B, A*C, H, W) a level; its head runs when they are first read."""
        maps = self.run_teacher()
        for level, (ours, theirs) in enumerate(zip(self.student_maps, maps, strict=True)):
            if ours.shape != theirs.shape:
                raise ValueError(
                    f'class maps of level {level}: student {tuple(ours.shape)}, teacher '
                    f'{tuple(theirs.shape)}: the pair needs equal strides, and pad_size_divisor of the '
                    "student's data_preprocessor a multiple of the teacher's"
                )
        return maps

    def student_logits(self, index: Tensor) -> Tensor:
        """See :meth:`SampleTable.student_logits`."""
        return gather_rows(self.student_maps, index, self.channels)

    def teacher_logits(self, index: Tensor) -> Tensor:
        """See :meth:`SampleTable.teacher_logits`."""
        return gather_rows(self.teacher_maps, index, self.channels)

    def teacher_confidence(self) -> Tensor:
        """See :meth:`SampleTable.teacher_confidence`."""
        levels = []
        for maps in self.teacher_maps:
            logits = _fold(maps, self.channels)
            if self.activation == 'sigmoid':
                scores = logits.amax(dim=-1).sigmoid()
            else:
                scores = logits.float().softmax(dim=-1)[..., : self.num_classes].amax(dim=-1)
            levels.append(scores.flatten(1))
        return torch.cat(levels, dim=1).flatten()

    def boxes(self, index: Tensor) -> Tensor | None:
        """(S, 4) the samples' anchors, None for heads of points."""
        return None if self.priors is None else self.priors[index % len(self.priors)]


class DenseHeadAdapter(HeadAdapter):
    """Common part of heads that put out one class map per level; families differ in how they assign targets."""

    taps: ClassVar[dict[str, str]] = {
        'head': 'bbox_head',
        'targets': 'bbox_head._get_targets_single()',
    }

    def __init__(self, student: nn.Module, teacher: nn.Module, path: str) -> None:
        super().__init__(student, teacher, path)
        for what, fix, read in (
            ('number of classes', 'take a teacher trained on the same classes', _num_classes),
            ('strides', 'give both heads the same strides', _strides),
            ('anchors per location', 'give both heads the same anchor generator', _num_priors),
            ('activation', 'use the same kind of loss_cls in both heads', _activation),
        ):
            ours, theirs = read(self.student_head), read(self.teacher_head)
            if ours != theirs:
                raise ValueError(
                    f'{what}: the student ({type(self.student_head).__name__}) has {ours}, the teacher '
                    f'({type(self.teacher_head).__name__}) {theirs}: {fix}'
                )

    def tables(self, step: Step) -> list[SampleTable]:
        """One table of all priors of all levels and images."""
        maps = step.record('head')[0][0]
        assignments = self.assignments(step)
        head = self.student_head
        return [
            DenseTable(
                activation=_activation(head),
                num_classes=_num_classes(head),
                samples_per_image=[len(assigned.labels) for assigned in assignments],
                labels=torch.cat([assigned.labels for assigned in assignments]),
                weights=torch.cat([assigned.weights for assigned in assignments]),
                object_ids=torch.cat([assigned.object_ids for assigned in assignments]),
                student_maps=maps,
                run_teacher=lambda: self._run_teacher(step),
                channels=head.cls_out_channels,
                priors=self.priors(maps),
            )
        ]

    @abstractmethod
    def assignments(self, step: Step) -> list[Assignment]:
        """What the student's head assigned, one item per image, read from the taps."""

    def priors(self, maps: Sequence[Tensor]) -> Tensor | None:
        """(P, 4) boxes of the priors of one image, or None for points."""
        return None

    @torch.no_grad()
    def _run_teacher(self, step: Step) -> Sequence[Tensor]:
        return self.teacher_head(step.teacher_features)[0]


@register_head_adapter('AnchorHead')
class AnchorHeadAdapter(DenseHeadAdapter):
    """RetinaNet and its kin: targets from ``_get_targets_single`` of MMDetection's AnchorHead."""

    labels_at: ClassVar[int] = 0
    """Position of the labels in what ``_get_targets_single`` returns; their weights follow, the last is the sampling."""

    def __init__(self, student: nn.Module, teacher: nn.Module, path: str) -> None:
        super().__init__(student, teacher, path)
        ours = self.student_head.prior_generator.base_anchors
        theirs = self.teacher_head.prior_generator.base_anchors
        for level, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if not torch.allclose(a, b.to(a)):
                raise ValueError(
                    f'anchors of level {level} differ: student {a.tolist()}, teacher {b.tolist()}: give '
                    'both heads the same anchor_generator (scales, ratios, octave_base_scale)'
                )

    def assignments(self, step: Step) -> list[Assignment]:
        """See :meth:`DenseHeadAdapter.assignments`."""
        return [self._read(targets) for targets in step.record('targets')]

    def priors(self, maps: Sequence[Tensor]) -> Tensor:
        """(P, 4) anchors of one image."""
        sizes = [tuple(level.shape[-2:]) for level in maps]
        generator = self.student_head.prior_generator
        return torch.cat(generator.grid_priors(sizes, device=maps[0].device))

    def _read(self, targets: Sequence[Any]) -> Assignment:
        labels, weights = targets[self.labels_at], targets[self.labels_at + 1]
        sampling = targets[-1]
        object_ids = torch.full_like(labels, -1)
        # pos_inds count only the anchors inside the image; these keep their order among all anchors.
        positive = ((labels >= 0) & (labels < self.student_head.num_classes)).nonzero().flatten()
        order = sampling.pos_inds.argsort()
        object_ids[positive] = sampling.pos_assigned_gt_inds[order]
        return Assignment(labels, weights, object_ids)


def gather_rows(maps: Sequence[Tensor], index: Tensor, channels: int) -> Tensor:
    """Rows of dense class maps at flat sample indices, without folding the maps themselves.

    Args:
        maps: (B, A*C, H, W) a level.
        index: (S,) indices in the order image, level, row, column, prior.
        channels: C.

    Returns:
        (S, C) logits, differentiable with respect to ``maps``.
    """
    folded = [_fold(level, channels) for level in maps]
    sizes = [level[0, ..., 0].numel() for level in folded]
    per_image = sum(sizes)
    image, within = index // per_image, index % per_image
    rows, places = [], []
    start = 0
    for level, size in zip(folded, sizes, strict=True):
        place = ((within >= start) & (within < start + size)).nonzero().flatten()
        at = torch.unravel_index(within[place] - start, level.shape[1:4])
        rows.append(level[(image[place], *at)])
        places.append(place)
        start += size
    return torch.cat(rows)[torch.cat(places).argsort()]


def _fold(maps: Tensor, channels: int) -> Tensor:
    """(B, A*C, H, W) as a view (B, H, W, A, C)."""
    batch, _, height, width = maps.shape
    return maps.view(batch, -1, channels, height, width).permute(0, 3, 4, 1, 2)


def _num_classes(head: nn.Module) -> int:
    return int(head.num_classes)


def _strides(head: nn.Module) -> list[Any]:
    return [
        tuple(stride) if isinstance(stride, Sequence) else (stride, stride)
        for stride in head.prior_generator.strides
    ]


def _num_priors(head: nn.Module) -> Any:
    return head.prior_generator.num_base_priors


def _activation(head: nn.Module) -> Any:
    return 'sigmoid' if getattr(head, 'use_sigmoid_cls', True) else 'softmax'
