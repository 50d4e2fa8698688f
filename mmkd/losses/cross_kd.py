"""CrossKD on dense heads."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from typing_extensions import override

from mmkd.registry import LOSSES
from mmkd.structures import TEACHER, Request, Sources, Step

from .base import DistillLoss
from .box import BoxGIoULoss, BoxLoss
from .ld import LDLoss
from .qfl_kd import QFLKDLoss

_ALL = dict(type='mmkd.AllSamples')


@LOSSES.register_module()
class CrossKDLoss(DistillLoss):
    """The student's features through the rest of the teacher's head, against the teacher (CrossKD, CVPR 2024).

    The outputs of the first ``layer`` convolutions of the student's class and box towers go through the remaining ones
    of the teacher. The resulting scores and boxes are compared with the teacher's own; the gradient flows through the
    teacher's layers into the student's. So the task's loss and the distillation act on different outputs. Scores:
    :class:`QFLKDLoss` over all samples, divided by the number of positives. Boxes: a mean over all samples, weighted by
    the teacher's confidence.

    The student's features are taken after the activation of a convolution. (The authors' code takes them before the
    normalisation and aligns their statistics.)

    Args:
        layer: Number of convolutions in each tower that are the student's. Published: 3 of 4.
        beta: See :class:`QFLKDLoss`.
        boxes: ``'giou'`` (:class:`BoxGIoULoss`), ``'ld'`` (:class:`LDLoss`, of heads that predict distributions),
            ``'none'``; ``'auto'`` (default) is ``'ld'`` if both heads have distributions.
        box_weight: Weight of the boxes relative to the scores. Published: 1; 0.25 for LD.
        temperature: τ of LD.
        weight: See :class:`DistillLoss`.
        teacher: See :class:`DistillLoss`.

    Raises:
        ValueError: An option is out of its range, or (before the first step) a head is no dense head with towers, the
            towers differ in depth, width or normalisation, or the head is a softmax head.
    """

    def __init__(
        self,
        layer: int = 3,
        beta: float = 1.0,
        boxes: Literal['auto', 'giou', 'ld', 'none'] = 'auto',
        box_weight: float = 1.0,
        temperature: float = 10.0,
        weight: Any = 1.0,
        teacher: str = TEACHER,
    ) -> None:
        super().__init__(weight, teacher)
        if not (isinstance(layer, int) and layer >= 1):
            raise ValueError(f'CrossKDLoss.layer: {layer!r} is not a whole number, 1 or more')
        if boxes not in ('auto', 'giou', 'ld', 'none'):
            raise ValueError(
                f"CrossKDLoss.boxes: {boxes!r} is none of 'auto', 'giou', 'ld', 'none'"
            )
        if not box_weight >= 0:
            raise ValueError(f'CrossKDLoss.box_weight: {box_weight!r} is not a number, 0 or more')
        self._kind = boxes
        self.box_weight = box_weight
        self.scores = QFLKDLoss(beta=beta, samples=_ALL, teacher=teacher)
        giou = BoxGIoULoss(samples=_ALL, teacher=teacher)
        ld = LDLoss(
            temperature=temperature,
            confidence='teacher',
            average='confidence',
            samples=_ALL,
            teacher=teacher,
        )
        for part in (self.scores, giou, ld):
            part.crossed = layer
        self._boxes: dict[str, BoxLoss] = {'giou': giou, 'ld': ld}

    def requests(self) -> tuple[Request[Any], ...]:
        """Logits and boxes of the crossed head."""
        if self._kind == 'none':
            return self.scores.requests()
        return self.scores.requests() + self._boxes['giou'].requests()

    @override
    def attach(self, sources: Sources) -> None:
        super().attach(sources)
        self.scores.attach(sources)
        if self._kind == 'auto':
            try:
                self._boxes['ld'].attach(sources)
            except ValueError:
                self._kind = 'giou'
            else:
                self._kind = 'ld'
        if self._kind != 'none':
            self._boxes[self._kind].attach(sources)

    def forward(self, step: Step) -> Tensor:
        """Loss on scores plus weighted loss on boxes."""
        value = self.scores(step)
        if self._kind == 'none':
            return value
        return value + self.box_weight * self._boxes[self._kind](step)
