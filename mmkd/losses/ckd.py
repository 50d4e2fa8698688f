"""CKD on the logits of any head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkd.functional import ckd_loss
from mmkd.registry import LOSSES
from mmkd.structures import HeadSource, LogitPairs, NeckSource

from .base import LogitLoss, Rows
from .samplers import TeacherTopK
from .schedules import Schedule

_MOST_SAMPLES_AT_ONCE = 32768  # 4 GiB of similarities in float32


@LOSSES.register_module()
class CKDLoss(LogitLoss):
    """Sample-wise contrastive KD (Zhu et al., arXiv 2404.14109): InfoNCE between teacher and student logit vectors.

    All picked samples of the batch form one contrastive set: a sample's positive is the other network's vector of the
    same sample, its negatives are those of the other samples. See :func:`mmkd.functional.ckd_loss`.

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

    def attach(self, head: HeadSource | None, neck: NeckSource | None) -> None:
        """See :meth:`DistillLoss.attach`."""
        super().attach(head, neck)
        if self._default_samples and head is not None and head.activation == 'sigmoid':
            self.sampler = TeacherTopK(k=64)

    def default_rows(self, pairs: LogitPairs) -> Rows:
        """Centred on sigmoid heads, as they are on softmax heads (the published form)."""
        return 'center' if pairs.activation == 'sigmoid' else 'raw'

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        """See :func:`mmkd.functional.ckd_loss`.

        Raises:
            ValueError: There are so many samples that their similarities would fill the memory.
        """
        if self.chunk_size is None and len(student) > _MOST_SAMPLES_AT_ONCE:
            raise ValueError(
                f'CKDLoss: {len(student)} samples would need a matrix of {len(student) ** 2 * 4 / 2**30:.0f} GiB: '
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
        )
