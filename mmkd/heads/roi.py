"""RoI heads of two-stage detectors: the teacher's box head scores the RoIs that the student's own step sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from mmkd.structures import Activation, SampleTable, Step, TeacherPass

from .base import HeadAdapter, register_head_adapter

UNSUPPORTED = {
    'MultiInstanceRoIHead': 'each RoI predicts a set of objects, so a RoI has no single logit vector',
    'TridentRoIHead': 'its backbone repeats the batch for every branch in training but not in evaluation, '
    "so the student's RoIs refer to images that the teacher's features do not have",
}
"""RoI heads of the family that cannot be distilled, and why."""


BoxCode = Tensor | Sequence[Tensor]
"""(S, 4) or (S, classes * 4) encoded boxes as a box head predicts them; a pair for buckets (SABL)."""


@dataclass(frozen=True)
class RoIOutputs:
    """The outputs of a stage of the teacher at S RoIs.

    Attributes:
        logits: (S, C) logits of the student's classes.
        code: The encoded boxes; None if the logits are the mean of several stages.
    """

    logits: Tensor
    code: BoxCode | None


@dataclass
class RoITable(SampleTable):
    """Samples of one box head: the RoIs of one stage, image by image, positives first within an image.

    If a box head predicts a box for every class, the box of a sample is that of its label; for background, that of the
    teacher's best class.

    Attributes:
        student_rows: (N, C) logits of the student.
        student_code: The student's encoded boxes at all RoIs.
        rois: (N, 5) index of the image and xyxy box in input pixels.
        run_teacher: Computes the teacher's outputs at (S, 5) RoIs.
        decode_student: Decodes the student's boxes from (S, 5) RoIs, their code and (S,) classes.
        decode_teacher: Decodes the teacher's boxes; classes are the student's.
    """

    student_rows: Tensor
    student_code: BoxCode
    rois: Tensor
    run_teacher: Callable[[Tensor], RoIOutputs]
    decode_student: Callable[[Tensor, BoxCode, Tensor], Tensor]
    decode_teacher: Callable[[Tensor, BoxCode, Tensor], Tensor]

    @cached_property
    def teacher_outputs(self) -> RoIOutputs:
        """The teacher's outputs at all RoIs, cached for other samplers."""
        return self.run_teacher(self.rois)

    @property
    def teacher_rows(self) -> Tensor:
        """(N, C) logits of the teacher at all RoIs."""
        return self.teacher_outputs.logits

    @override
    def student_logits(self, index: Tensor) -> Tensor:
        return self.student_rows[index]

    @override
    def teacher_logits(self, index: Tensor) -> Tensor:
        """Computed for the samples asked for only, unless all are known."""
        if not len(index):
            return self.student_rows.detach()[index]
        if 'teacher_outputs' in self.__dict__ or len(index) == len(self):
            return self.teacher_rows[index]
        return self.run_teacher(self.rois[index]).logits

    @override
    def teacher_confidence(self) -> Tensor:
        if not len(self):
            return self.weights
        return self.highest_foreground(self.teacher_rows)

    def boxes(self, index: Tensor) -> Tensor:
        """(S, 4) the RoIs."""
        return self.rois[index, 1:5]

    @override
    def student_boxes(self, index: Tensor) -> Tensor:
        code = _code_at(self.student_code, index)
        return self.decode_student(self.rois[index], code, self._box_classes(index))

    @override
    def teacher_boxes(self, index: Tensor) -> Tensor:
        if not len(index):
            return self.student_boxes(index).detach()
        code = self.teacher_outputs.code
        assert code is not None
        return self.decode_teacher(
            self.rois[index], _code_at(code, index), self._box_classes(index)
        )

    def _box_classes(self, index: Tensor) -> Tensor:
        """(S,) the class whose box is the sample's."""
        assert self.labels is not None
        labels = self.labels[index]
        best = self.teacher_logits(index)[:, : self.num_classes].argmax(dim=1)
        return torch.where((labels >= 0) & (labels < self.num_classes), labels, best)


@register_head_adapter('StandardRoIHead', 'CascadeRoIHead')
class RoIHeadAdapter(HeadAdapter):
    """Faster R-CNN and detectors derived from it, including cascades: one table per stage.

    Stage k of the teacher scores the RoIs of the student's stage k. If the teacher has another number of stages, the
    mean of all its stages scores the RoIs of each, see :func:`roi_logits`.

    Logits, RoIs, labels and weights are the arguments of ``bbox_head.loss(...)`` in the student's own step, matched
    ground truths those of ``bbox_head.get_targets(...)``. The student's head does not run again, and the teacher's RPN
    never runs.

    Raises:
        ValueError: A head's classifier is of another kind, or the head is one of :data:`UNSUPPORTED`.
    """

    has_rois = True

    def __init__(self, student: nn.Module, teacher: nn.Module, path: str) -> None:
        super().__init__(student, teacher, path)
        check_roi_head('student', self.student_head)
        self.scores = RoIScores(teacher, self.activation)
        self._same_stages = len(self._box_heads) == self.scores.num_stages
        cascade = isinstance(self.student_head.bbox_head, nn.ModuleList)
        self.taps: Mapping[str, str] = {
            f'{method}_{stage}': f'{path}.bbox_head{f".{stage}" if cascade else ""}.{method}(...)'
            for stage in range(len(self._box_heads))
            for method in ('loss', 'get_targets')
        }

    @property
    @override
    def activation(self) -> Activation:
        return _activation(self._box_heads[0])

    @property
    @override
    def num_classes(self) -> int:
        return int(self._box_heads[0].num_classes)

    @property
    @override
    def num_teacher_classes(self) -> int:
        return self.scores.num_classes

    @property
    @override
    def num_logits(self) -> int:
        return int(self._box_heads[0].fc_cls.out_features)

    @override
    def check_boxes(self, distributions: bool = False) -> None:
        theirs = _per_stage(self.teacher_head.bbox_head)
        for role, heads in (('student', self._box_heads), ('teacher', theirs)):
            for head in heads:
                if not getattr(head, 'with_reg', True):  # SABL's has no such option
                    raise ValueError(
                        f"the {role}'s {type(head).__name__} has with_reg=False and predicts no boxes, as in Grid "
                        'R-CNN: use a loss on logits'
                    )
        if not self._same_stages:
            raise ValueError(
                f'number of stages: the student has {len(self._box_heads)}, the teacher {len(theirs)}, each of '
                'which refines the boxes of the one before: take a teacher with as many stages, or a loss on logits'
            )
        if distributions:
            raise ValueError(
                f'{type(self.student_head).__name__} predicts a box as four numbers, not as distributions: '
                'use mmkd.BoxGIoULoss or mmkd.BoxL1Loss'
            )

    def tables(self, step: Step) -> list[SampleTable]:
        """One table of the sampled RoIs per stage; RoIs of later stages are refined by the student."""
        teacher = self.scores.on(self.teacher_pass(step))
        tables: list[SampleTable] = []
        for stage in range(len(self._box_heads)):
            if tables and not len(tables[-1]):
                # MMDetection ends a cascade that has run out of RoIs; on other processes it may go on.
                tables.append(tables[-1])
            else:
                tables.append(self._table(step, stage, teacher))
        return tables

    @property
    def _box_heads(self) -> list[Any]:
        """The student's box heads, one per stage."""
        return _per_stage(self.student_head.bbox_head)

    def _table(self, step: Step, stage: int, teacher: RoIScorer) -> RoITable:
        # Samplers such as OHEM call the same method to rate candidates, without reduction.
        calls = step.record(f'loss_{stage}')
        loss = next((call for call in calls if call.get('reduction_override') is None), None)
        if loss is None:
            raise RuntimeError(
                f'{type(self.student_head).__name__} calls bbox_head.loss with reduction_override only: '
                'it needs a head adapter of its own (mmkd.heads.register_head_adapter)'
            )
        sampled = step.record(f'get_targets_{stage}')[-1]['sampling_results']
        head = self._box_heads[stage]
        return RoITable(
            activation=_activation(head),
            num_classes=head.num_classes,
            samples_per_image=[len(one.pos_inds) + len(one.neg_inds) for one in sampled],
            labels=loss['labels'],
            weights=loss['label_weights'],
            object_ids=torch.cat([_object_ids(one) for one in sampled]),
            num_foreground=sum(len(one.pos_inds) for one in sampled),
            student_rows=loss['cls_score'],
            student_code=loss['bbox_pred'],
            rois=loss['rois'],
            run_teacher=lambda rois: teacher.outputs(rois, stage if self._same_stages else None),
            decode_student=lambda rois, code, classes: _decode(head, rois, code, classes),
            decode_teacher=lambda rois, code, classes: teacher.decode(rois, code, classes, stage),
        )


@torch.no_grad()
def roi_logits(teacher: nn.Module, features: Sequence[Tensor], rois: Tensor) -> Tensor:
    """Class logits of a two-stage detector at given boxes, without its RPN.

    Every stage of a cascade scores the given boxes; the logits are the mean over the stages, as in MMDetection's
    prediction.

    Args:
        teacher: A two-stage detector, in eval mode.
        features: The output of its ``extract_feat`` for a batch of B images.
        rois: (S, 5) index of the image in the batch and xyxy box in pixels of the detector's input. Boxes need x1 <= x2
            and y1 <= y2.

    Returns:
        (S, C) logits without gradient; softmax heads have the background in the last column.
    """
    roi_head: Any = teacher.roi_head
    stages = range(len(_per_stage(roi_head.bbox_head)))
    return _forward(roi_head, features, rois, stages, _context(roi_head, features)).logits


class RoIScores:
    """A two-stage teacher that scores the boxes of a student with any head.

    Args:
        teacher: The teacher's network, with a ``roi_head``.
        activation: What turns a row of the student's logits into probabilities.

    Attributes:
        num_classes: Number of the teacher's foreground classes.
        num_stages: Number of its stages.

    Raises:
        ValueError: The teacher's classifier is not supported, or its scores cannot be compared with the student's.
    """

    def __init__(self, teacher: Any, activation: Activation) -> None:
        self.roi_head: Any = teacher.roi_head
        check_roi_head('teacher', self.roi_head)
        stages = _per_stage(self.roi_head.bbox_head)
        self.num_stages = len(stages)
        self.num_classes = int(stages[0].num_classes)
        self.log_odds = activation == 'sigmoid' and _activation(stages[0]) == 'softmax'
        if activation == 'softmax' and _activation(stages[0]) == 'sigmoid':
            raise ValueError(
                f'activation: the student has softmax, the teacher ({_loss_name(stages[0])}) sigmoid, '
                'whose scores leave none for the background: use the same kind of loss_cls in both heads'
            )
        self.divisor = int(getattr(teacher.data_preprocessor, 'pad_size_divisor', 1))

    def on(self, images: TeacherPass) -> RoIScorer:
        """The teacher on the images of one step."""
        return RoIScorer(self, images)


@dataclass
class RoIScorer:
    """A two-stage teacher on the images of one step; what its stages share is computed once."""

    scores: RoIScores
    images: TeacherPass

    @cached_property
    def features(self) -> tuple[Tensor, ...]:
        """The teacher's feature maps."""
        features = self.images.features
        size = self.images.inputs.shape[-2:]
        _check_strides(self.scores.roi_head, features, size, self.scores.divisor)
        return features

    @cached_property
    def context(self) -> dict[str, Tensor]:
        """What HTC and SCNet add to the features of every RoI; made once per batch."""
        features = self.features
        return self.images.run(lambda model: _context(model.roi_head, features))

    def logits(self, rois: Tensor) -> Tensor:
        """The logits of :meth:`outputs`, the mean of all stages."""
        return self.outputs(rois).logits

    def outputs(self, rois: Tensor, stage: int | None = None) -> RoIOutputs:
        """The teacher's outputs at boxes, for the student's classes and activation.

        For a sigmoid student, a softmax teacher's scores are the log-odds of each class,
        ``log p_c - log(1 - p_c) = z_c - logsumexp of the other logits``, including background: their sigmoid is the
        teacher's probability.

        Args:
            rois: (S, 5) index of the image in the batch and xyxy box in input pixels.
            stage: The teacher's stage; None is the mean of all, see :func:`roi_logits`.

        Returns:
            (S, C) logits and the boxes' code, without gradient.
        """
        stages = range(self.scores.num_stages) if stage is None else (stage,)
        features, context = self.features, self.context
        outputs = self.images.run(
            lambda model: _forward(model.roi_head, features, rois, stages, context)
        )
        logits = self.images.classes.logits(outputs.logits)
        if self.scores.log_odds:
            logits = _log_odds(logits)[:, :-1]
        return RoIOutputs(logits, outputs.code)

    def decode(self, rois: Tensor, code: BoxCode, classes: Tensor, stage: int) -> Tensor:
        """(S, 4) boxes from (S, 5) RoIs, their code from a stage, and (S,) classes as the student numbers them."""
        theirs = self.images.classes.labels(classes)
        return self.images.run(
            lambda model: _decode(_per_stage(model.roi_head.bbox_head)[stage], rois, code, theirs)
        )


def _decode(head: Any, rois: Tensor, code: BoxCode, classes: Tensor) -> Tensor:
    """(S, 4) boxes as a box head refines RoIs in a cascade, but in float32 and not clipped to the image."""
    precise = code.float() if isinstance(code, Tensor) else tuple(part.float() for part in code)
    return head.regress_by_class(rois[:, 1:], classes, precise, dict(img_shape=None))


def _code_at(code: BoxCode, index: Tensor) -> BoxCode:
    return code[index] if isinstance(code, Tensor) else tuple(part[index] for part in code)


def _forward(
    roi_head: Any,
    features: Sequence[Tensor],
    rois: Tensor,
    stages: Sequence[int],
    context: Mapping[str, Tensor],
) -> RoIOutputs:
    """The output of the RoI head's own ``_bbox_forward``; logits are the mean of the stages."""
    cascade = isinstance(roi_head.bbox_head, nn.ModuleList)
    results = [
        roi_head._bbox_forward(*[stage] * cascade, features, rois, **context) for stage in stages
    ]
    logits = torch.stack([result['cls_score'] for result in results]).mean(dim=0)
    return RoIOutputs(logits, results[0]['bbox_pred'] if len(results) == 1 else None)


def _context(roi_head: Any, features: Sequence[Tensor]) -> dict[str, Tensor]:
    """What HTC (semantic branch) and SCNet (also global context) add to the features of every RoI."""
    context = {}
    if getattr(roi_head, 'with_semantic', False):
        context['semantic_feat'] = roi_head.semantic_head(features)[1]
    if getattr(roi_head, 'with_glbctx', False):
        context['glbctx_feat'] = roi_head.glbctx_head(features)[1]
    return context


def _object_ids(sampled: Any) -> Tensor:
    """(n,) ground truth of the RoIs of one image, -1 for background; positives come first."""
    negatives = sampled.pos_assigned_gt_inds.new_full((len(sampled.neg_inds),), -1)
    return torch.cat([sampled.pos_assigned_gt_inds, negatives])


def _per_stage(modules: Any) -> list[Any]:
    """The modules of a cascade's stages, or the one module of a head without stages."""
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def check_roi_head(role: str, roi_head: Any) -> None:
    """Check that the logits of a RoI head can be distilled.

    Raises:
        ValueError: They cannot; the message says why.
    """
    for kind in type(roi_head).__mro__:
        if kind.__name__ in UNSUPPORTED:
            raise ValueError(
                f'{type(roi_head).__name__} cannot be distilled: {UNSUPPORTED[kind.__name__]}. Take '
                'another RoI head, or a loss on features'
            )
    for head in _per_stage(roi_head.bbox_head):
        columns = getattr(getattr(head, 'fc_cls', None), 'out_features', None)
        expected = head.num_classes + (_activation(head) == 'softmax')
        if columns != expected:
            raise ValueError(
                f"the {role}'s {type(head).__name__} outputs {columns} logits for {head.num_classes} classes "
                f'({_loss_name(head)}): only softmax over classes and background ({head.num_classes + 1} '
                f'logits) or sigmoid over classes ({head.num_classes}) can be distilled. Use '
                'CrossEntropyLoss(use_sigmoid=False) as loss_cls'
            )


def _log_odds(logits: Tensor) -> Tensor:
    """(S, C) softmax logits to the log-odds of every class against all others, in at least float32.

    For the largest logit, the others are summed directly, because 1 - p is 0 if p rounds to 1.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    total = logits.logsumexp(dim=1, keepdim=True)
    others = total + (-(logits - total).exp()).log1p()
    largest = logits.argmax(dim=1, keepdim=True)
    below = logits.scatter(1, largest, -torch.inf).logsumexp(dim=1, keepdim=True)
    return logits - others.scatter(1, largest, below)


def _check_strides(
    roi_head: Any, features: Sequence[Tensor], size: Sequence[int], divisor: int
) -> None:
    """Check that the strides of the RoI extractors are those of the maps, up to rounding and padding."""
    for extractor in _per_stage(roi_head.bbox_roi_extractor):
        strides = extractor.featmap_strides
        fits = len(strides) <= len(features) and all(
            abs(cells * stride - pixels) <= stride + divisor
            for stride, level in zip(strides, features, strict=False)
            for cells, pixels in zip(level.shape[-2:], size, strict=True)
        )
        if not fits:
            raise ValueError(
                f"the teacher's bbox_roi_extractor has featmap_strides {list(strides)}, but for an input of "
                f'{tuple(size)} its neck gives maps of {[tuple(level.shape[-2:]) for level in features]}: '
                'set model.teacher.config to the config that trained the checkpoint'
            )


def _activation(head: Any) -> Activation:
    return 'sigmoid' if getattr(head.loss_cls, 'use_sigmoid', False) else 'softmax'


def _loss_name(head: Any) -> str:
    return f'{type(head).__name__} with {type(head.loss_cls).__name__}'
