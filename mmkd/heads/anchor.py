"""Anchor heads: RetinaNet, SSD, YOLOF, ATSS, GFL, TOOD, DDOD, PAA, FSAF, FreeAnchor, SABL and their descendants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from mmkd.structures import Step

from .base import register_head_adapter
from .dense import (
    BOX_LOSS,
    Assignment,
    DenseOutputs,
    Places,
    SampledTargetsAdapter,
    boxes_in_loss,
    fingerprint,
    gather_rows,
    nearest_object,
)


@register_head_adapter('AnchorHead')
class AnchorHeadAdapter(SampledTargetsAdapter):
    """RetinaNet and similar heads (GHM, YOLOF): targets from ``_get_targets_single`` of MMDetection's AnchorHead."""

    def __init__(self, student: nn.Module, teacher: nn.Module, path: str) -> None:
        super().__init__(student, teacher, path)
        if not issubclass(self.teacher_family, AnchorHeadAdapter):
            return
        ours = self.generator(self.student_head).base_anchors
        theirs = self.teacher_family.generator(self.teacher_head).base_anchors
        for level, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if not torch.allclose(a, b.to(a)):
                raise ValueError(
                    f'anchors of level {level} differ: student {a.tolist()}, teacher {b.tolist()}: give '
                    'both heads the same anchor_generator (scales, ratios, octave_base_scale)'
                )

    @override
    def static_assignment(self) -> str | None:
        """A fingerprint if the assigner depends on anchors and ground truth only."""
        assigner, sampler = (
            getattr(self.student_head, part, None) for part in ('assigner', 'sampler')
        )
        if (
            type(self).__name__ not in ('AnchorHeadAdapter', 'ATSSHeadAdapter', 'GFLHeadAdapter')
            or type(assigner).__name__ not in ('MaxIoUAssigner', 'ATSSAssigner')
            or getattr(assigner, 'alpha', None) is not None  # DDOD's, by costs
            or type(sampler).__name__ != 'PseudoSampler'
        ):
            return None
        anchors = [level.tolist() for level in self.generator(self.student_head).base_anchors]
        return fingerprint(type(self.student_head).__name__, self.student_head.train_cfg, anchors)


@register_head_adapter('SABLRetinaHead')
class SABLRetinaHeadAdapter(AnchorHeadAdapter):
    """SABL on RetinaNet: AnchorHead's targets for one square per location; buckets matter to the boxes only.

    A box is decoded from the best bucket of each side. The offset within the bucket has a gradient, the choice of the
    bucket has none.
    """

    prior_generator: ClassVar[str | None] = 'square_anchor_generator'

    @classmethod
    @override
    def read(cls, outputs: Sequence[Any]) -> DenseOutputs:
        class_maps, box_maps = outputs
        return DenseOutputs(class_maps, list(zip(*box_maps, strict=True)))

    @classmethod
    @override
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        boxes, _ = head.bbox_coder.decode(places.priors, code)
        return boxes


@register_head_adapter('ATSSHead', 'DDODHead')
class ATSSHeadAdapter(AnchorHeadAdapter):
    """ATSS (with DyHead too) and DDOD: ``_get_targets_single`` returns the anchors before the labels.

    DDOD assigns twice, first for the classification, then for the boxes; the first assignment is used.
    """

    labels_at: ClassVar[int] = 1


@register_head_adapter('GFLHead')
class GFLHeadAdapter(ATSSHeadAdapter):
    """GFL: ATSS's targets; the sides of a box are distributions over their distance, in strides, from the centre."""

    distributions: ClassVar[bool] = True

    @classmethod
    @override
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        distances = head.integral(code[0]) * places.strides.repeat(1, 2)
        return head.bbox_coder.decode(head.anchor_center(places.priors), distances)


@register_head_adapter('TOODHead')
class TOODHeadAdapter(AnchorHeadAdapter):
    """TOOD: targets from ``get_targets``, which is called in both phases of training (first ATSS, then task-aligned).

    ``_get_targets_single`` cannot be tapped: the first phase calls that of the base class, and the second returns no
    sampling result. In both phases the regression target is the box of the assigned ground truth, which identifies the
    object.

    The class maps are probabilities sqrt(σ(a)·σ(b)), the head's own aligned score; samples are their logits, see
    :func:`mmkd.heads.dense.logits_of`.
    """

    taps: Mapping[str, str] = {
        'head': 'bbox_head',
        'targets': 'bbox_head.get_targets()',
        **BOX_LOSS,
    }
    probabilities: ClassVar[bool] = True

    @classmethod
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        """The box maps hold decoded boxes, in units of the stride."""
        return code[0] * places.strides.repeat(1, 2)

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        _, *levels = step.record('targets')[0]
        labels, weights, boxes = (torch.cat(level, dim=1) for level in levels[:3])
        assignments = []
        for image, sample in enumerate(step.data_samples):
            objects = sample.gt_instances
            of = nearest_object(
                boxes[image],
                objects.bboxes[None].expand(len(labels[image]), -1, -1),
                labels[image][:, None] == objects.labels,
            )
            object_ids = torch.where(self.is_foreground(labels[image]), of, -1)
            assignments.append(Assignment(labels[image], weights[image], object_ids))
        return assignments

    @override
    def num_foreground(self, step: Step) -> int | None:
        return boxes_in_loss(self.student_head, step)


@register_head_adapter('PAAHead')
class PAAHeadAdapter(AnchorHeadAdapter):
    """PAA: labels and weights after its reassignment (``paa_reassign``), objects from the assignment before.

    The reassignment turns positives into background or ignores them; it never makes a positive.
    """

    taps: Mapping[str, str] = {
        **AnchorHeadAdapter.taps,
        'reassigned': 'bbox_head.paa_reassign()',
    }

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        return [
            Assignment(
                labels, weights, torch.where(self.is_foreground(labels), first.object_ids, -1)
            )
            for first, (labels, weights, *_) in zip(
                super().assignments(step, outputs), step.record('reassigned'), strict=True
            )
        ]

    @override
    def num_foreground(self, step: Step) -> int | None:
        return sum(positives for *_, positives in step.record('reassigned'))


@register_head_adapter('FSAFHead')
class FSAFHeadAdapter(AnchorHeadAdapter):
    """FSAF: the positives that remain once each object has chosen its level (``reweight_loss_single``).

    A prior whose object chose another level is ignored, as in FSAF's loss. FSAF has a weight for every class of a
    prior, to ignore some of them; a sample's weight is the highest of these.
    """

    taps: Mapping[str, str] = {
        **AnchorHeadAdapter.taps,
        'selected': 'bbox_head.reweight_loss_single()',
    }

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        images = len(outputs.class_maps[0])
        selected = torch.cat(
            [flags.view(images, -1) for _, _, flags in step.record('selected')], dim=1
        )
        assignments = []
        for assigned, keep in zip(super().assignments(step, outputs), selected, strict=True):
            dropped = self.is_foreground(assigned.labels) & ~keep
            assignments.append(
                Assignment(
                    assigned.labels.masked_fill(dropped, self.num_classes),
                    assigned.weights.amax(dim=1).masked_fill(dropped, 0),
                    assigned.object_ids.masked_fill(dropped, -1),
                )
            )
        return assignments

    @override
    def num_foreground(self, step: Step) -> None:
        """None: only the device knows which levels the objects chose."""


@register_head_adapter('FreeAnchorRetinaHead')
class FreeAnchorHeadAdapter(AnchorHeadAdapter):
    """FreeAnchor: hard labels made from its soft assignment.

    FreeAnchor has no labels: it maximises the likelihood of a bag of 50 anchors per object, and its negative loss
    leaves out anchors that localise an object. For that it computes P{a in A+}, (P, C): the probability that the box
    predicted at an anchor localises an object of a class (1 at the best one, 0 below IoU 0.6). The label of an anchor
    is its most probable class if that probability is at least 1/2, else background. Its object is the one of that class
    whose box is nearest to the predicted box. Every weight is 1.
    """

    taps: Mapping[str, str] = {'head': 'bbox_head', 'bags': 'bbox_head.positive_loss_single()'}

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        box_maps = [maps.detach() for maps in outputs.box_maps[0]]
        anchors = self.decoder(self.student_head, outputs, step.inputs).priors
        deltas = gather_rows(box_maps, None, channels=4).view(-1, len(anchors), 4)
        assignments = []
        for image, (sample, bags) in enumerate(
            zip(step.data_samples, step.record('bags'), strict=True)
        ):
            objects = sample.gt_instances
            probability, best = bags[0].max(dim=1)
            labels = torch.where(probability >= 0.5, best, self.num_classes)
            of = nearest_object(
                self.student_head.bbox_coder.decode(anchors, deltas[image]),
                objects.bboxes[None].expand(len(anchors), -1, -1),
                labels[:, None] == objects.labels,
            )
            object_ids = torch.where(probability >= 0.5, of, -1)
            assignments.append(Assignment(labels, probability.new_ones(len(labels)), object_ids))
        return assignments

    @override
    def num_foreground(self, step: Step) -> None:
        """None: FreeAnchor's own step has no hard labels."""
