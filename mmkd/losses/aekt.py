"""AEKT on the logits of any head, with its serial layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.functional import aekt_loss
from mmkd.functional.aekt import ExplicitTerm, NonTargetTerm
from mmkd.registry import LOSSES
from mmkd.structures import HeadSource, LogitPairs, NeckSource

from ._labels import targets
from .base import LogitLoss, Rows
from .samplers import Positives
from .schedules import Schedule

Serial = Literal['task_then_distill', 'none']


@LOSSES.register_module()
class AEKTLoss(LogitLoss):
    """AEKT, reconstructed from its abstract and analysis (Park, Lee: arXiv 2409.01679).

    The full equations are not public; see :func:`mmkd.functional.aekt_loss` for the form used here, and docs/aekt.md.
    The target is what the student's own assignment says; a sample counts with its weight in the student's own loss.

    On softmax heads background is a class like any other. On sigmoid heads, where it has none, only foreground samples
    count, and the target term is binary: ``σ(t_y / τ)`` against ``σ(s_y / τ)``.

    With ``serial='task_then_distill'`` the loss sees ``W s + b`` in the place of the student's logits s, see
    :class:`SerialLayer`; the task's own loss keeps s. All stages of a cascade and all layers of a decoder share W. It
    is a part of the loss: the student without it is the plain student.

    Args:
        weight: Weight or schedule; as for DKD a warm-up, ``dict(type='LinearWarmup', end=20)``.
        alpha: α, weight of the explicit term, the target class.
        beta: β, weight of the non-target term.
        temperature: τ.
        gamma: γ, exponent of the ratio of teacher's and student's confidence.
        r_max: The largest ratio.
        explicit: ``'ratio_tckd'``, ``'ratio'``, ``'nkd'`` or ``'tckd'`` (which is DKD).
        non_target: ``'nckd'``, or on sigmoid heads ``'binary_kl'``.
        serial: ``'task_then_distill'`` or ``'none'``.
        samples: Config of a sampler; default all samples on softmax heads, ``mmkd.Positives`` on sigmoid heads.
        rows: ``'raw'`` (default), ``'center'`` or ``'standardize'`` (LSKD), of what leaves the serial layer. Sigmoid
            heads: ``'raw'`` only.

    Raises:
        ValueError: An option is unknown or out of its range, or (by :meth:`attach`) means nothing on this head, or (in
            the first step) the head gives no labels.
    """

    serial_layer: SerialLayer

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
        if serial not in ('task_then_distill', 'none'):
            raise ValueError(
                f"AEKTLoss.serial: {serial!r} is neither 'task_then_distill' (a layer between the student's "
                "logits and this loss) nor 'none'; a layer within the student's own head is no part of a loss"
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
        """Make the serial layer for the student's head, and check the options against it."""
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

    def student_logits(self, pairs: LogitPairs) -> Tensor:
        """(S, C) the student's logits behind the serial layer."""
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

    D and b are what is trained, and start at 0: the layer starts as the identity, exactly, and weight decay pulls it
    back there rather than to the zero map. ``W[i, j]`` says how far the logit of class j speaks for class i.

    Args:
        num_logits: C.
    """

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(num_logits, num_logits))
        self.bias = nn.Parameter(torch.zeros(num_logits))

    def forward(self, logits: Tensor) -> Tensor:
        """(S, C) logits to (S, C) logits."""
        return logits + F.linear(logits, self.offset, self.bias)
