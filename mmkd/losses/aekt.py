"""AEKT on the logits of any head, with its serial layer."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from mmkd.functional import aekt_loss
from mmkd.registry import LOSSES
from mmkd.structures import LogitPairs, Sources

from .logits import LogitLoss
from .samplers import TeacherTopK
from .serial import SerialLayer

Serial = Literal['task_then_distill', 'distill_then_task', 'none']
TASK_LAYER = 'task_layer'
"""Name of the serial layer, within the loss, that belongs to the student and is folded into it at export."""


@LOSSES.register_module()
class AEKTLoss(LogitLoss):
    """AEKT, reconstructed from its abstract and analysis (Park, Lee: arXiv 2409.01679).

    The full equations are not public; see :func:`mmkd.functional.aekt_loss` for the form used here, and docs/aekt.md.
    Samples are weighted as in the student's own loss.

    On softmax heads the default target is the class that the student's own assignment gave, which may be background.
    Sigmoid heads have no logit for background: there the default target is the teacher's class, and the target term is
    binary, ``σ(t_y / τ)`` against ``σ(s_y / τ)``.

    A serial layer, :class:`mmkd.losses.serial.SerialLayer`, can separate task and distillation. The default is none: it
    did not help where it was compared (docs/aekt.md). All stages of a cascade and all layers of a decoder share it.
    With the student's logits s,

    - ``serial='task_then_distill'`` computes this loss on ``W s + b`` and the task's own loss on s. The layer is a part
      of the loss: without it, the student is the plain student.
    - ``serial='distill_then_task'`` computes the task's own loss and the predictions from ``z = W s + b``; this loss,
      like all others on the student's logits and class maps, is computed on ``s = W^-1 (z - b)``. Losses on boxes are
      weighted by the confidence of the predictions, z. The layer is a part of the student and is folded into the head's
      class layers at export; until then, checkpoints are not those of the plain student. It is trained in steps in
      which this loss has a weight above 0.

    Args:
        serial: ``'none'``, ``'task_then_distill'`` or ``'distill_then_task'``.
        gather: Ratios are relative to the mean of the samples of all processes; False: of this process's.
        **options: See :class:`mmkd.losses.LogitLoss` and :func:`mmkd.functional.aekt_loss`. As for DKD a warm-up helps,
            ``weight=dict(type='LinearWarmup', end=20)``. On sigmoid heads the default samples are those
            that the teacher is most confident of, ``mmkd.TeacherTopK``, and ``rows`` has to be ``'raw'``.

    Raises:
        ValueError: An option is unknown or out of its range, (in :meth:`attach`) does not suit this head, or (in the
            first step) the head has no labels.
    """

    function = staticmethod(aekt_loss)
    samples_of_sigmoid_heads = TeacherTopK()
    serial_layer: SerialLayer
    task_layer: SerialLayer

    def __init__(self, serial: Serial = 'none', gather: bool = True, **options: Any) -> None:
        super().__init__(gather=gather, **options)
        if serial not in get_args(Serial):
            raise ValueError(
                f'AEKTLoss.serial: {serial!r} is unknown: use one of {", ".join(get_args(Serial))}'
            )
        self.serial = serial

    def attach(self, sources: Sources) -> None:
        """Build the serial layer for the student's head, and check that the options suit it.

        Raises:
            ValueError: An option does not suit this head, or ``'distill_then_task'`` finds no class layers in it.
        """
        super().attach(sources)
        head = sources.of(self.requests()[0])
        if head.activation == 'sigmoid' and self.rows not in (None, 'raw'):
            raise ValueError(
                f'AEKTLoss.rows: {self.rows!r} changes the scores of a sigmoid head, which the target term '
                "compares: use 'raw'"
            )
        if self.serial == 'task_then_distill':
            self.serial_layer = SerialLayer(head.num_logits)
        elif self.serial == 'distill_then_task':
            setattr(self, TASK_LAYER, SerialLayer(head.num_logits))
            try:
                self.task_layer.fold_into(head.student_head)
            except ValueError as error:
                raise ValueError(f"AEKTLoss.serial='distill_then_task': {error}") from None
            sources.undo = self.task_layer.invert

    def begin_step(self, active: bool) -> None:
        """Train the layer in the student's head only while this loss has a weight."""
        if self.serial == 'distill_then_task':
            self.task_layer.learns = active

    def student_logits(self, pairs: LogitPairs) -> Tensor:
        """(S, C) the student's logits, after the serial layer if that is a part of the loss."""
        logits = super().student_logits(pairs)
        return self.serial_layer(logits) if self.serial == 'task_then_distill' else logits
