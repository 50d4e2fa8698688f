"""A teacher that is no network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from mmkd.functional import virtual_logits
from mmkd.heads.classifier import ClassifierAdapter
from mmkd.registry import TEACHERS
from mmkd.structures import ClassMap, Logits, Request, Sources, StoredRows

from .base import LivePass, Teacher

Result = TypeVar('Result')


@TEACHERS.register_module()
class VirtualTeacher(Teacher):
    """The label of an image as its teacher (Tf-KD with a manually designed teacher, Yuan et al., CVPR 2020).

    Its class probabilities are ``confidence`` for the label and equal for all others; its logits are their logarithms,
    see :func:`mmkd.functional.virtual_logits`. Any loss on the logits of single-label classifiers takes them; Tf-KD is
    ``mmkd.KDLoss`` with a temperature of 20. It has no weights and nothing runs.

    Args:
        confidence: Probability of the label, between 0 and 1. Published: 0.99.
        student: The student.

    Raises:
        ValueError: ``confidence`` is out of its range, or (by :meth:`check_requests`) a loss asks for something else.
    """

    def __init__(self, confidence: float = 0.99, *, student: Any) -> None:
        if not (isinstance(confidence, int | float) and 0 < confidence < 1):
            raise ValueError(f'model.teacher.confidence: {confidence!r} is not between 0 and 1')
        # Adapters read from a network what kind of head it has: the student's.
        super().__init__(copy.deepcopy(student), student)
        self.confidence = confidence
        self.num_classes = 0

    @property
    @override
    def can_predict(self) -> bool:
        return False

    @property
    @override
    def description(self) -> str:
        return f'VirtualTeacher, {self.confidence:g} for the label'

    def check_requests(
        self, requests: Mapping[str, Sequence[Request[Any]]], sources: Sources
    ) -> None:
        """Whether the losses ask for logits of a single-label classifier; then the copy's weights are freed.

        Raises:
            ValueError: They do not; the message names the loss.
        """
        for loss, asked in requests.items():
            for request in asked:
                head = sources.of(request)
                fits = isinstance(request, Logits) and isinstance(head, ClassifierAdapter)
                if not fits or head.activation != 'softmax':
                    raise ValueError(
                        f'model.losses.{loss}: model.teacher: a VirtualTeacher has class probabilities of images with '
                        'one label each and nothing else: take a loss on the logits of a classifier, such as '
                        'mmkd.KDLoss, or another teacher'
                    )
                self.num_classes = head.num_classes
        for parameter in self.model.parameters():
            parameter.data = parameter.data.new_empty(0)

    @override
    def on(self, inputs: Tensor, data_samples: Sequence[Any], classes: ClassMap) -> VirtualPass:
        return VirtualPass(self, inputs, data_samples, classes)

    def predict(self, data: Any, classes: ClassMap) -> NoReturn:
        """Raise an error: there is no network."""
        raise RuntimeError(
            'a virtual teacher predicts nothing: take the hook that asks it out of custom_hooks'
        )


@dataclass
class VirtualPass(LivePass):
    """A virtual teacher on the batch of a step."""

    teacher: VirtualTeacher

    @override
    def outputs(
        self,
        compute: Callable[[Any, tuple[Tensor, ...]], Result],
        restore: Callable[[list[StoredRows]], Result],
    ) -> Result:
        classes = torch.arange(self.teacher.num_classes, device=self.inputs.device)
        shares = [
            sample.gt_score if 'gt_score' in sample else (sample.gt_label == classes).float()
            for sample in self.data_samples
        ]
        logits = virtual_logits(torch.stack(shares), self.teacher.confidence)
        return restore([{'logits': row} for row in logits.split(1)])
