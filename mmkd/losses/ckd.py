"""CKD on the logits of any head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkd.functional import ckd_loss
from mmkd.functional.processes import world_size
from mmkd.registry import LOSSES
from mmkd.structures import Activation, HeadSource, LogitPairs, NeckSource

from .base import LogitLoss, Rows
from .samplers import TeacherTopK
from .schedules import Schedule

_MOST_SAMPLES_AT_ONCE = 32768  # 4 GiB of similarities in float32


@LOSSES.register_module()
class CKDLoss(LogitLoss):
    """Sample-wise contrastive KD (Zhu et al., arXiv 2404.14109): InfoNCE between teacher and student logit vectors.

    All picked samples of the batch form one contrastive set: a sample's positive is the other network's vector of the
    same sample, its negatives are those of the other samples. See :func:`mmkd.functional.ckd_loss`.

    The batch is that of all processes, so that a run on several GPUs has the loss and gradient of one GPU with the
    whole batch. The released code contrasts the samples of each GPU among themselves: ``gather=False``.

    On softmax heads and classifiers this is the published loss. On sigmoid heads nothing is published: there rows are
    centred by default, because background rows are nearly parallel, and samples have to be chosen (``samples``).

    Args:
        weight: Weight or schedule.
        temperature: τ of the softmax over cosine similarities.
        negatives: ``'teacher_student'`` (released code) or ``'student_student'`` (the paper's text).
        symmetric: Add the transposed direction, students as anchors.
        samples: Config of a sampler; default ``mmkd.TeacherTopK`` with k 64 on sigmoid heads, else all samples.
        rows: ``'raw'``, ``'center'`` or ``'standardize'``; default ``'center'`` on sigmoid heads, else ``'raw'``.
        same_object: ``'mask'`` leaves pairs of samples that the student assigned to the same object out of the
            negatives, ``'keep'`` keeps them. Samples that it assigned to none stay negatives even where they overlap.
        chunk_size: Rows per block when S×S similarities should not be held; None holds them.
        gather: Contrast with the samples of all processes; False: with those of the same process only.

    Raises:
        ValueError: ``same_object`` is something else, or (by :meth:`attach`) the head has a single class, or two and
            their rows are centred.
    """

    def __init__(
        self,
        weight: float | Mapping[str, Any] | Schedule = 1.0,
        temperature: float = 1.0,
        negatives: str = 'teacher_student',
        symmetric: bool = False,
        samples: Mapping[str, Any] | None = None,
        rows: Rows | None = None,
        same_object: str = 'mask',
        chunk_size: int | None = None,
        gather: bool = True,
    ) -> None:
        super().__init__(weight, samples, rows)
        self._default_samples = samples is None
        if same_object not in ('mask', 'keep'):
            raise ValueError(f"CKDLoss.same_object: {same_object!r} is neither 'mask' nor 'keep'")
        self.temperature = temperature
        self.negatives = negatives
        self.symmetric = symmetric
        self.mask_same_object = same_object == 'mask'
        self.chunk_size = chunk_size
        self.gather = gather

    def attach(self, head: HeadSource | None, neck: NeckSource | None) -> None:
        """See :meth:`DistillLoss.attach`.

        Raises:
            ValueError: The head has so few logits that their direction has no gradient.
        """
        super().attach(head, neck)
        assert head is not None
        if self._default_samples and head.activation == 'sigmoid':
            self.sampler = TeacherTopK(k=64)
        rows = self.rows or _default_rows(head.activation)
        # A single number has a sign only; so has the difference that centring leaves of two.
        if head.num_logits < (2 if rows == 'raw' else 3):
            fix = (
                "Set rows='raw'"
                if head.num_logits == 2
                else 'Use mmkd.QFLKDLoss, or a loss on boxes or features'
            )
            raise ValueError(
                f'CKDLoss compares directions, and that of {head.num_logits} logit(s) with rows={rows!r} has no '
                f'gradient: nothing would be learned. {fix}'
            )

    def default_rows(self, pairs: LogitPairs) -> Rows:
        """Centred on sigmoid heads, as they are on softmax heads (the published form)."""
        return _default_rows(pairs.activation)

    def averaged_by(self, pairs: LogitPairs) -> None:
        """None: every sample is compared with the others, see ``gather``."""

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """See :func:`mmkd.functional.ckd_loss`.

        Raises:
            ValueError: There are so many samples that their similarities would fill the memory.
        """
        similarities = len(student) ** 2 * (world_size() if self.gather else 1)
        if self.chunk_size is None and similarities > _MOST_SAMPLES_AT_ONCE**2:
            raise ValueError(
                f'CKDLoss: {len(student)} samples would need a matrix of {similarities * 4 / 2**30:.0f} GiB: '
                "choose some of them, samples=dict(type='mmkd.TeacherTopK', k=64), or set chunk_size=1024"
            )
        return ckd_loss(
            student,
            teacher,
            temperature=self.temperature,
            negatives=self.negatives,
            symmetric=self.symmetric,
            chunk_size=self.chunk_size,
            groups=pairs.object_groups if self.mask_same_object else None,
            gather=self.gather,
        )


def _default_rows(activation: Activation) -> Rows:
    return 'center' if activation == 'sigmoid' else 'raw'
