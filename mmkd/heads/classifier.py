"""MMPretrain's classification heads: every image of the batch is one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from mmkd.structures import (
    Activation,
    Holding,
    Request,
    SampleTable,
    Step,
    StoredRows,
    TeacherPass,
)

from .base import HeadAdapter, adapter_class, register_head_adapter

Token = Literal['distillation', 'mean']


@dataclass
class ClassifierTable(SampleTable):
    """The images of a batch.

    Attributes:
        student_rows: (B, C) logits of the student.
        run_teacher: Computes the teacher's (B, C) logits.
    """

    student_rows: Tensor
    run_teacher: Callable[[], Tensor]

    @cached_property
    def teacher_rows(self) -> Tensor:
        """(B, C) logits of the teacher."""
        return self.run_teacher()

    @override
    def student_logits(self, index: Tensor) -> Tensor:
        return self.student_rows[index]

    @override
    def teacher_logits(self, index: Tensor) -> Tensor:
        return self.teacher_rows[index]

    @override
    def teacher_confidence(self) -> Tensor:
        return self.highest_foreground(self.teacher_rows)


@register_head_adapter('ClsHead')
class ClassifierAdapter(HeadAdapter):
    """Classifiers of one label per image: linear, stacked, ViT, Conformer, LeViT, EfficientFormer and other heads.

    The student's logits come from its own training step. The teacher's are computed in eval mode on the same pixels,
    after Mixup and CutMix. Teacher and student may have different heads of this family. A head with two classifiers
    counts as in prediction: Conformer's logits are the sum of its branches', those of a teacher with a distillation
    token the mean of its classifiers'.

    A sample's label is its ``gt_label``. Mixup and CutMix leave a soft label (``gt_score``); then it is the class with
    the largest share, because some losses (DKD, NKD, AEKT) need a single class. KD, DIST and CKD need none. Label
    smoothing is a part of the student's own loss and changes no label. Every weight is 1. No two images show the same
    object, not even copies of one image in a batch (repeated augmentation): to CKD they are negatives of each other.

    CKD contrasts the images of one forward pass, of all processes unless ``gather=False``; gradient accumulation adds
    no negatives. With a single image it is exactly 0. If a head starts at zero (ViT), its logits have no direction, and
    CKD has no gradient until the student's own loss has moved them in the first step.

    Raises:
        ValueError: One head is single-label and the other multi-label, or a head cannot be distilled.
    """

    taps: Mapping[str, str] = {'logits': 'head'}
    probabilities: ClassVar[Activation] = 'softmax'

    def __init__(self, student: nn.Module, teacher: nn.Module, path: str) -> None:
        super().__init__(student, teacher, path)
        for role, head in (('student', self.student_head), ('teacher', self.teacher_head)):
            if _is_a(head, 'RegressionHead'):
                raise ValueError(
                    f"the {role}'s {type(head).__name__} predicts numbers, not classes: take a loss on features"
                )
        if getattr(self.student_head, 'distillation', False) or getattr(
            self.student_head, 'dist', False
        ):
            raise ValueError(
                f'MMPretrain cannot train {type(self.student_head).__name__} with its second classifier: '
                'set distillation=False in model.student.head'
            )
        self._num_classes = _num_classes(student, self.student_head, 'student')
        self._num_teacher_classes = _num_classes(teacher, self.teacher_head, 'teacher')
        family = adapter_class(self.teacher_head)
        assert family is not None
        assert issubclass(family, ClassifierAdapter)
        if self.probabilities != family.probabilities:
            raise ValueError(
                f"activation: the student's {type(self.student_head).__name__} has {self.probabilities}, the "
                f"teacher's {type(self.teacher_head).__name__} {family.probabilities}: a single-label head "
                'and a multi-label head cannot be compared; take a teacher of the same kind'
            )

    @property
    def activation(self) -> Activation:
        """Softmax for one label per image, sigmoid for several, as in prediction; the head's loss may differ."""
        return self.probabilities

    @property
    @override
    def num_logits(self) -> int:
        return self._num_classes

    @property
    @override
    def num_classes(self) -> int:
        return self._num_classes

    @property
    @override
    def num_teacher_classes(self) -> int:
        return self._num_teacher_classes

    @classmethod
    def aligns_with(cls, teacher: type[HeadAdapter]) -> bool:
        """Any classifier; the constructor checks the rest."""
        return issubclass(teacher, ClassifierAdapter)

    def tables(self, step: Step) -> list[SampleTable]:
        """One table: the images of the batch."""
        logits = self.student_logits(step)
        teacher = self.teacher_pass(step)
        return [
            ClassifierTable(
                activation=self.activation,
                num_classes=self._num_classes,
                samples_per_image=[1] * len(logits),
                labels=self.labels(step.data_samples),
                weights=logits.new_ones(len(logits), dtype=torch.float32),
                object_ids=torch.full((len(logits),), -1, device=logits.device),
                student_rows=logits,
                run_teacher=lambda: self._teacher_logits(teacher),
            )
        ]

    def student_logits(self, step: Step) -> Tensor:
        """(B, C) logits of the student's own step."""
        output = step.record('logits')[0]
        return _prediction(output)

    @override
    def to_store(self, request: Request[Any]) -> Holding:
        """The logits of every image."""
        return Holding()

    @override
    def teacher_rows(
        self,
        teacher: TeacherPass,
        student: Any,
        data_samples: Sequence[Any],
        holding: Holding,
    ) -> list[StoredRows]:
        return [{'logits': row.half()} for row in self._teacher_logits(teacher).split(1)]

    def _teacher_logits(self, teacher: TeacherPass) -> Tensor:
        def compute(model: Any, features: tuple[Tensor, ...]) -> Tensor:
            output = model.get_submodule(self.teacher_path)(features)
            return teacher.classes.logits(_prediction(output))

        def restore(images: list[StoredRows]) -> Tensor:
            rows = torch.cat([image['logits'] for image in images])
            return rows.to(teacher.inputs.device, non_blocking=True).float()

        return teacher.outputs(compute, restore)

    def labels(self, data_samples: Sequence[Any]) -> Tensor | None:
        """(B,) class of every image; None if images may have several."""
        if 'gt_score' in data_samples[0]:
            return torch.stack([sample.gt_score for sample in data_samples]).argmax(dim=1)
        return torch.cat([sample.gt_label for sample in data_samples])


@register_head_adapter('MultiLabelClsHead')
class MultiLabelAdapter(ClassifierAdapter):
    """Classifiers of several labels per image: sigmoid, and samples without a label.

    Losses that need a sample's class raise an error; ``mmkd.QFLKDLoss(average='samples')`` and ``mmkd.CKDLoss`` need
    none.
    """

    probabilities: ClassVar[Activation] = 'sigmoid'

    def labels(self, data_samples: Sequence[Any]) -> None:
        """None: an image may have several."""


@register_head_adapter('DeiTClsHead')
class DeiTAdapter(ClassifierAdapter):
    """DeiT with a class token and a distillation token, each with a classifier of its own.

    The student's own loss is computed from the mean of the two, as in MMPretrain (whose warning that it does not distil
    can be ignored: here it does). The teacher teaches the classifier on the distillation token, as in DeiT (Touvron et
    al., arXiv 2012.12877).

    Args:
        student: See :class:`HeadAdapter`.
        teacher: See :class:`HeadAdapter`.
        path: See :class:`HeadAdapter`.
        token: Which logits the teacher teaches: ``'distillation'``, or ``'mean'`` for the mean of both classifiers.

    Raises:
        ValueError: See :class:`ClassifierAdapter`; or ``token`` is unknown.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        path: str,
        *,
        token: Token = 'distillation',
    ) -> None:
        super().__init__(student, teacher, path)
        if token not in ('distillation', 'mean'):
            raise ValueError(f"model.head.token: {token!r} is neither 'distillation' nor 'mean'")
        self.taps = {'logits': path if token == 'mean' else f'{path}.layers.head_dist'}


@register_head_adapter('ArcFaceClsHead')
class ArcFaceAdapter(ClassifierAdapter):
    """ArcFace: scaled cosines, without the margin that the student's own loss adds to the labelled class."""

    taps: Mapping[str, str] = {'cosines': 'head.norm_product'}

    @override
    def student_logits(self, step: Step) -> Tensor:
        return self.student_head.scale * step.record('cosines')[0]


def _prediction(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """(B, C) logits from a head's outputs; Conformer has two, whose sum it predicts with."""
    return output if isinstance(output, Tensor) else torch.stack(output).sum(dim=0)


def _num_classes(model: Any, head: Any, role: str) -> int:
    """Number of classes, from the head, the backbone (VGG, LeNet), or the width of the head's last layer."""
    for owner in (head, getattr(model, 'backbone', None)):
        number = getattr(owner, 'num_classes', None)
        if isinstance(number, int) and number > 0:
            return number
    for layer in reversed(list(head.modules())):
        if isinstance(layer, nn.Linear):
            return layer.out_features
        if isinstance(layer, nn.Conv2d):
            return layer.out_channels
    raise ValueError(
        f"the {role}'s {type(head).__name__} has no layer and its backbone no num_classes: nothing there "
        'classifies. Give the backbone its num_classes or take a LinearClsHead'
    )


def _is_a(head: object, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(head).__mro__)
