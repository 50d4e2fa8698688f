"""Point heads: FCOS, FoveaBox, VFNet, RepPoints, AutoAssign, YOLOX, RTMDet, CenterNet and what derives from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from mmkd.structures import Step

from .base import register_head_adapter
from .dense import (
    BOX_LOSS,
    Assignment,
    DenseHeadAdapter,
    DenseOutputs,
    Places,
    SampledTargetsAdapter,
    boxes_in_loss,
    fingerprint,
    nearest_object,
)


@register_head_adapter('RTMDetHead')
class RTMDetHeadAdapter(SampledTargetsAdapter):
    """RTMDet, tiny to x: targets as ATSS returns them, points before labels, with the sampling result last."""

    labels_at: ClassVar[int] = 1


@register_head_adapter('RepPointsHead')
class RepPointsHeadAdapter(SampledTargetsAdapter):
    """RepPoints: the targets of the refinement stage, which train its classification."""

    last_round: ClassVar[bool] = True
    boxes_at: ClassVar[int] = -1

    @classmethod
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        """The box around the refined points, in strides from the cell; in eval mode the head outputs the box itself."""
        points = head.training and len(code[0])  # MMDetection's method fails on no points
        offsets = head.points2bbox(code[0]) if points else code[0][:, :4]
        return offsets * places.strides.repeat(1, 2) + places.priors.repeat(1, 2)


class RegressedTargetsAdapter(DenseHeadAdapter):
    """Heads that keep a label and a regression target per point, but not the index of the object.

    The object is the one with the same label and the recorded regression target, see
    :func:`mmkd.heads.dense.nearest_object`. Every weight is 1.
    """

    taps: Mapping[str, str] = {**DenseHeadAdapter.taps, **BOX_LOSS}

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        points = self.decoder(self.student_head, outputs, step.inputs)
        assignments = []
        for sample, targets in zip(step.data_samples, step.record('targets'), strict=True):
            objects = sample.gt_instances
            labels, regression = self.flat_targets(targets)
            of = nearest_object(
                regression,
                self.encode(_sides(points.priors, objects.bboxes), points.level_of),
                labels[:, None] == objects.labels,
            )
            object_ids = torch.where(self.is_foreground(labels), of, -1)
            assignments.append(
                Assignment(labels, torch.ones_like(labels, dtype=torch.float), object_ids)
            )
        return assignments

    @override
    def num_foreground(self, step: Step) -> int | None:
        return boxes_in_loss(self.student_head, step)

    def flat_targets(self, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """(P,) labels and (P, 4) regression targets in what ``_get_targets_single`` returned for an image."""
        return targets[0], targets[1]

    def encode(self, sides: Tensor, levels: Tensor) -> Tensor:
        """The regression targets of a head.

        Args:
            sides: (S, G, 4) pixels from a point to an object's left, top, right and bottom side.
            levels: (S,) the points' levels.
        """
        return sides


@register_head_adapter('FCOSHead')
class FCOSHeadAdapter(RegressedTargetsAdapter):
    """FCOS, NAS-FCOS and heads derived from them: regression targets are the distances to the box's sides.

    With ``norm_on_bbox`` the head outputs distances in strides in training mode, in pixels in eval mode.
    """

    @classmethod
    @override
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        in_strides = head.training and getattr(
            head, 'norm_on_bbox', False
        )  # VFNet has no such option
        distances = code[0] * places.strides.repeat(1, 2) if in_strides else code[0]
        return head.bbox_coder.decode(places.priors, distances)

    @override
    def static_assignment(self) -> str | None:
        head = self.student_head
        if type(self) is not FCOSHeadAdapter:
            return None
        return fingerprint(
            type(head)._get_targets_single.__qualname__,  # a derived head may assign differently
            [list(limits) for limits in head.regress_ranges],
            head.center_sampling,
            head.center_sample_radius,
            list(head.strides),
        )


@register_head_adapter('FoveaHead')
class FoveaHeadAdapter(RegressedTargetsAdapter):
    """FoveaBox: targets are maps; regression targets are log-distances in units of the level's edge length."""

    @override
    def flat_targets(self, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        labels, regression = targets
        return (
            torch.cat([level.flatten() for level in labels]),
            torch.cat([level.reshape(-1, 4) for level in regression]),
        )

    @override
    def encode(self, sides: Tensor, levels: Tensor) -> Tensor:
        """Log-distances, with FoveaBox's own limits."""
        edges = _edges(self.student_head, sides)[levels]
        return (sides / edges[:, None, None]).clamp(1 / 16, 16).log()

    @classmethod
    @override
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        """Written out here, because the head's own decoder always clips to the image."""
        edges = _edges(head, code[0])[places.levels]
        from_corner, to_corner = (code[0].exp() * edges[:, None]).chunk(2, dim=1)
        return torch.cat([places.priors - from_corner, places.priors + to_corner], dim=1)


@register_head_adapter('VFNetHead')
class VFNetHeadAdapter(RTMDetHeadAdapter, FCOSHeadAdapter):
    """VFNet: ATSS's targets with ``use_atss=True``, the published setting, else FCOS's; the refined boxes."""

    boxes_at: ClassVar[int] = -1

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        if self.student_head.use_atss:
            return super().assignments(step, outputs)
        return FCOSHeadAdapter.assignments(self, step, outputs)

    @override
    def num_foreground(self, step: Step) -> int | None:
        if self.student_head.use_atss:
            return super().num_foreground(step)
        return FCOSHeadAdapter.num_foreground(self, step)


@register_head_adapter('AutoAssignHead')
class AutoAssignHeadAdapter(DenseHeadAdapter):
    """AutoAssign: hard labels made from its centre prior.

    AutoAssign has no labels: every point inside an object's box is positive and negative at once. Its confidence and a
    learned Gaussian around the object's centre, the centre prior G in [0, 1], decide to which degree. A point belongs
    to the object with the highest G if that is at least 1/2, else it is background. Every weight is 1.

    The class maps are only trained multiplied by an objectness, so the teacher's confidence is their product.
    """

    taps: Mapping[str, str] = {'head': 'bbox_head', 'center_prior': 'bbox_head.center_prior'}
    objectness_at: ClassVar[int | None] = 2

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        assignments = []
        for sample, (prior, _) in zip(step.data_samples, step.record('center_prior'), strict=True):
            labels_of = sample.gt_instances.labels
            if len(labels_of):
                highest, of = prior.detach().max(dim=1)
                positive = highest >= 0.5
                labels = torch.where(positive, labels_of[of], self.num_classes)
                object_ids = torch.where(positive, of, -1)
            else:
                labels = labels_of.new_full((len(prior),), self.num_classes)
                object_ids = torch.full_like(labels, -1)
            assignments.append(Assignment(labels, prior.new_ones(len(prior)), object_ids))
        return assignments


@register_head_adapter('YOLOXHead')
class YOLOXHeadAdapter(DenseHeadAdapter):
    """YOLOX: SimOTA's positives; the object is the one whose box is the recorded box target.

    Only positives enter YOLOX's classification loss, so background has weight 0: a separate map, the objectness, tells
    objects from background. The samples are the class logits; the teacher's confidence is the product of class
    probability and objectness, as in YOLOX's score.
    """

    objectness_at: ClassVar[int | None] = 2

    @classmethod
    @override
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        return head._bbox_decode(torch.cat([places.priors, places.strides], dim=1), code[0])

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        assignments = []
        for sample, targets in zip(step.data_samples, step.record('targets'), strict=True):
            positive, scores, _, boxes, *_ = targets
            objects = sample.gt_instances
            if len(boxes):
                # The target of a positive is its IoU at its class. With an IoU of 0 the whole row is 0.
                allowed = scores[:, objects.labels] > 0
                allowed |= ~allowed.any(dim=1, keepdim=True)
                of = nearest_object(boxes, objects.bboxes[None].expand(len(boxes), -1, -1), allowed)
            else:
                of = objects.labels[:0]
            assignments.append(
                Assignment(
                    self.spread(objects.labels[of], positive, fill=self.num_classes),
                    positive.float(),
                    self.spread(of, positive, fill=-1),
                )
            )
        return assignments

    @override
    def num_foreground(self, step: Step) -> int | None:
        return sum(len(boxes) for _, _, _, boxes, *_ in step.record('targets'))


@register_head_adapter('CenterNetHead')
class CenterNetHeadAdapter(DenseHeadAdapter):
    """CenterNet: the cells that hold an object's centre are positive, all others background; every weight is 1.

    Centres are the cells where the heatmap's target is 1. If two objects share a cell, the label is that of the object
    with the size and offset in the recorded regression targets. The logits are taken before the sigmoid in the head's
    forward. The code of a box is its centre's offset within the cell and its size, in cells.
    """

    taps: Mapping[str, str] = {
        'head': 'bbox_head.heatmap_head',
        'sizes': 'bbox_head.wh_head',
        'offsets': 'bbox_head.offset_head',
        'targets': 'bbox_head.get_targets()',
    }
    prior_generator: ClassVar[str | None] = None

    @property
    @override
    def num_logits(self) -> int:
        return self.num_classes

    @override
    def student_outputs(self, step: Step) -> DenseOutputs:
        boxes = [step.record('offsets'), step.record('sizes')]
        return DenseOutputs(step.record('head'), boxes)

    @classmethod
    @override
    def run(cls, head: Any, features: Sequence[Tensor]) -> DenseOutputs:
        boxes = [
            [branch(level) for level in features] for branch in (head.offset_head, head.wh_head)
        ]
        return DenseOutputs([head.heatmap_head(level) for level in features], boxes)

    @classmethod
    def grid(
        cls, head: Any, sizes: Sequence[tuple[int, int]], device: torch.device
    ) -> list[Tensor]:
        """(n, 2) column and row of every cell, per level."""
        return [
            torch.cartesian_prod(
                torch.arange(height, dtype=torch.float, device=device),
                torch.arange(width, dtype=torch.float, device=device),
            ).flip(1)
            for height, width in sizes
        ]

    @classmethod
    @override
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        offsets, sizes = code
        center = places.priors + offsets
        corners = torch.cat([center - sizes / 2, center + sizes / 2], dim=1)
        return corners * places.strides.repeat(1, 2)

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        targets, _ = step.record('targets')[0]
        heatmaps = targets['center_heatmap_target'].flatten(2)
        sizes, offsets = (targets[key].flatten(2) for key in ('wh_target', 'offset_target'))
        height, width = targets['center_heatmap_target'].shape[-2:]
        ratios = [width / step.inputs.shape[-1], height / step.inputs.shape[-2]] * 2
        scale = torch.tensor(ratios).to(heatmaps, non_blocking=True)
        cells = torch.arange(height * width, device=heatmaps.device)
        places = torch.stack([cells % width, cells // width], dim=1)
        assignments = []
        for sample, heatmap, size, offset in zip(
            step.data_samples, heatmaps, sizes, offsets, strict=True
        ):
            objects = sample.gt_instances
            corner, far = (objects.bboxes * scale).chunk(2, dim=1)
            center = (corner + far) / 2
            is_center = (heatmap == 1).any(dim=0)
            of = nearest_object(
                torch.cat([places + offset.T, size.T], dim=1),
                torch.cat([center, far - corner], dim=1).expand(len(cells), -1, -1),
                heatmap[objects.labels].T == 1,
            )
            labels = objects.labels[of] if len(objects) else of
            assignments.append(
                Assignment(
                    torch.where(is_center, labels, self.num_classes),
                    heatmap.new_ones(len(cells)),
                    torch.where(is_center, of, -1),
                )
            )
        return assignments


@register_head_adapter('CenterNetUpdateHead')
class CenterNetUpdateHeadAdapter(DenseHeadAdapter):
    """CenterNet of CenterNet2: positives are up to 9 cells around an object's centre that predict its box well.

    Labels come from ``add_cls_pos_inds``, the positives of its classification loss. The object is the one with this
    positive among the 3x3 cells around its centre; a cell that is positive for several objects keeps one of them. Every
    weight is 1: the heatmap's Gaussian only softens the loss of the negatives.
    """

    taps: Mapping[str, str] = {
        'head': 'bbox_head',
        'positives': 'bbox_head.add_cls_pos_inds()',
        'centers': 'bbox_head._get_center3x3_region_index_targets()',
    }

    @classmethod
    def decode(cls, head: Any, code: Sequence[Tensor], places: Places) -> Tensor:
        """The head outputs distances in strides in training mode, in pixels in eval mode."""
        distances = code[0] * places.strides.repeat(1, 2) if head.training else code[0]
        return head.bbox_coder.decode(places.priors, distances)

    @override
    def assignments(self, step: Step, outputs: DenseOutputs) -> list[Assignment]:
        images, priors = len(outputs.class_maps[0]), self.priors_per_image(outputs)
        device = outputs.class_maps[0].device
        labels = torch.full((images * priors,), self.num_classes, device=device)
        object_ids = torch.full_like(labels, -1)
        cells, cell_labels = step.record('positives')[0]
        if cells is not None:
            classes, _, around, _, valid = step.record('centers')[0]
            holds = (around.flatten(1)[None] == cells[:, None, None]) & valid.flatten(1)
            of = (holds.any(dim=2) & (classes == cell_labels[:, None])).int().argmax(dim=1)
            place = _image_major(cells, [level.shape for level in outputs.class_maps])
            within = [n for s in step.data_samples for n in range(len(s.gt_instances))]
            labels[place] = classes[of]
            object_ids[place] = torch.tensor(within).to(device, non_blocking=True)[of]
        weights = torch.ones_like(labels, dtype=torch.float)
        return [
            Assignment(*parts)
            for parts in zip(
                *(values.view(images, -1) for values in (labels, weights, object_ids)), strict=True
            )
        ]


def _sides(points: Tensor, boxes: Tensor) -> Tensor:
    """(S, G, 4) pixels from (S, 2) points to the left, top, right and bottom side of (G, 4) boxes."""
    from_corner = points[:, None] - boxes[:, :2]
    to_corner = boxes[:, 2:] - points[:, None]
    return torch.cat([from_corner, to_corner], dim=-1)


def _edges(head: Any, like: Tensor) -> Tensor:
    """Edge lengths of FoveaBox's levels."""
    return torch.tensor(head.base_edge_list).to(like, non_blocking=True)


def _image_major(index: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
    """Indices in the order level, image, cell as indices in the order image, level, cell.

    Args:
        index: (S,) indices.
        shapes: (B, C, H, W) of every level.
    """
    images = shapes[0][0]
    sizes = [height * width for _, _, height, width in shapes]
    areas = torch.tensor(sizes).to(index, non_blocking=True)
    starts = areas.cumsum(0) - areas
    level = torch.bucketize(index, (starts + areas) * images, right=True)
    within = index - starts[level] * images
    image, cell = within // areas[level], within % areas[level]
    return image * areas.sum() + starts[level] + cell
