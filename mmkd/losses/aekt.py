"""AEKT on the logits of any head, with its serial layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.functional import aekt_loss
from mmkd.functional.aekt import ExplicitTerm, NonTargetTerm, fold_serial_layer
from mmkd.registry import LOSSES
from mmkd.structures import HeadSource, LogitPairs, NeckSource

from ._labels import targets
from .base import LogitLoss, Rows
from .samplers import Positives
from .schedules import Schedule

Serial = Literal['task_then_distill', 'distill_then_task', 'none']
TASK_LAYER = 'task_layer'
"""Name of the serial layer, within the loss, that belongs to the student and is folded into it at export."""


@LOSSES.register_module()
class AEKTLoss(LogitLoss):
    """AEKT, reconstructed from its abstract and analysis (Park, Lee: arXiv 2409.01679).

    The full equations are not public; see :func:`mmkd.functional.aekt_loss` for the form used here, and docs/aekt.md.
    The target is what the student's own assignment says; a sample counts with its weight in the student's own loss.

    On softmax heads background is a class like any other. On sigmoid heads, where it has none, only foreground samples
    count, and the target term is binary: ``σ(t_y / τ)`` against ``σ(s_y / τ)``.

    A serial layer, :class:`SerialLayer`, stands between task and distillation. All stages of a cascade and all layers
    of a decoder share it. Of the student's logits s

    - ``serial='task_then_distill'`` shows the loss ``W s + b``, and the task's own loss s. The layer is a part of the
      loss: the student without it is the plain student.
    - ``serial='distill_then_task'`` shows the task's own loss (and the predictions) ``W s + b``, and this loss, like
      all other losses on logits, s. The layer is a part of the student: it is folded into the head's class layers at
      export, and until then a checkpoint is not the plain student's. It learns in the steps in which this loss has a
      weight above 0.

    Args:
        weight: Weight or schedule; as for DKD a warm-up, ``dict(type='LinearWarmup', end=20)``.
        alpha: α, weight of the explicit term, the target class.
        beta: β, weight of the non-target term.
        temperature: τ.
        gamma: γ, exponent of the ratio of teacher's and student's confidence.
        r_max: The largest ratio.
        explicit: ``'ratio_tckd'``, ``'ratio'``, ``'nkd'`` or ``'tckd'`` (which is DKD).
        non_target: ``'nckd'``, or on sigmoid heads ``'binary_kl'``.
        serial: ``'task_then_distill'``, ``'distill_then_task'`` or ``'none'``.
        samples: Config of a sampler; default all samples on softmax heads, ``mmkd.Positives`` on sigmoid heads.
        rows: ``'raw'`` (default), ``'center'`` or ``'standardize'`` (LSKD), of what leaves the serial layer. Sigmoid
            heads: ``'raw'`` only.

    Raises:
        ValueError: An option is unknown or out of its range, or (by :meth:`attach`) means nothing on this head, or (in
            the first step) the head gives no labels.
    """

    serial_layer: SerialLayer
    task_layer: SerialLayer

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        gamma: float = 1.0,
        r_max: float = 4.0,
        explicit: ExplicitTerm = 'ratio_tckd',
        non_target: NonTargetTerm = 'nckd',
        serial: Serial = 'task_then_distill',
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
    ) -> None:
        super().__init__(weight, samples, rows)
        if serial not in get_args(Serial):
            raise ValueError(
                f'AEKTLoss.serial: {serial!r} is unknown: use one of {", ".join(get_args(Serial))}'
            )
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.gamma = gamma
        self.r_max = r_max
        self.explicit: ExplicitTerm = explicit
        self.non_target: NonTargetTerm = non_target
        self.serial = serial
        self._samples_given = samples is not None
        self._check_options('sigmoid')

    def attach(self, head: HeadSource | None, neck: NeckSource | None) -> None:
        """Make the serial layer for the student's head, and check the options against it.

        Raises:
            ValueError: An option means nothing on this head, or ``'distill_then_task'`` finds no class layers in it.
        """
        super().attach(head, neck)
        assert head is not None
        if head.activation == 'sigmoid':
            if self.rows not in (None, 'raw'):
                raise ValueError(
                    f'AEKTLoss.rows: {self.rows!r} changes the scores of a sigmoid head, which the target term '
                    "compares: use 'raw'"
                )
            if not self._samples_given:
                self.sampler = Positives()
        else:
            self._check_options('softmax')
        if self.serial == 'task_then_distill':
            self.serial_layer = SerialLayer(head.num_logits)
        elif self.serial == 'distill_then_task':
            setattr(self, TASK_LAYER, SerialLayer(head.num_logits))
            try:
                head.fold_into_class_layers(self.task_layer.fold)
            except ValueError as error:
                raise ValueError(f"AEKTLoss.serial='distill_then_task': {error}") from None

    def begin_step(self, active: bool) -> None:
        """Let the layer in the student's head learn only while this loss does: off means off."""
        if self.serial == 'distill_then_task':
            self.task_layer.learns = active

    def student_logits(self, pairs: LogitPairs) -> Tensor:
        """(S, C) the student's logits, behind the serial layer where that one is the loss's."""
        logits = super().student_logits(pairs)
        return self.serial_layer(logits) if self.serial == 'task_then_distill' else logits

    def averaged_by(self, pairs: LogitPairs) -> Tensor:
        """The samples' weights, 0 for those that have no target."""
        return targets(pairs, 'AEKTLoss')[1]

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """See :func:`mmkd.functional.aekt_loss`."""
        labels, weights = targets(pairs, 'AEKTLoss')
        return aekt_loss(
            student,
            teacher,
            labels,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            gamma=self.gamma,
            r_max=self.r_max,
            explicit=self.explicit,
            activation=pairs.activation,
            non_target=self.non_target,
            weights=weights,
        )


class SerialLayer(nn.Module):
    """``z = W s + b`` with ``W = I + D``: the layer between the task's logits and the distilled ones.

    With ``'task_then_distill'`` s is the task's, with ``'distill_then_task'`` z is.

    D and b are what is trained, and start at 0: the layer starts as the identity, exactly, and weight decay pulls it
    back there rather than to the zero map. ``W[i, j]`` says how far the logit of class j speaks for class i.

    Args:
        num_logits: C.

    Attributes:
        learns: Whether :meth:`fold` passes gradients on to D and b.
    """

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.learns = True
        self.offset = nn.Parameter(torch.zeros(num_logits, num_logits))
        self.bias = nn.Parameter(torch.zeros(num_logits))

    def forward(self, logits: Tensor) -> Tensor:
        """(S, C) logits to (S, C) logits."""
        return logits + F.linear(logits, self.offset, self.bias)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of a class layer with this layer behind it.

        See :func:`mmkd.functional.aekt.fold_serial_layer`. In full precision under autocast too: training computes the
        very numbers that an export writes.
        """
        added: list[Tensor] = [self.offset, self.bias]
        if not self.learns:
            added = [each.detach() for each in added]
        with torch.autocast(weight.device.type, enabled=False):
            return fold_serial_layer(weight, bias, *added)
