"""CKD: contrastive knowledge distillation from a sample-wise perspective.

Zhu, Zhou, Zhu, Wang, Hu: arXiv 2404.14109, IEEE Transactions on Image Processing 2025.
Written from the paper's formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._common import check_option, check_positive
from .processes import gather_rows, world_size
from .rows import unit_rows

NEGATIVES = ('teacher_student', 'student_student')


def ckd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    negatives: str = 'teacher_student',
    symmetric: bool = False,
    chunk_size: int | None = None,
    groups: Tensor | None = None,
    gather: bool = False,
) -> Tensor:
    r"""Contrast every sample's student and teacher logits against those of the other samples.

    With rows divided by their L2 norm, :math:`\hat s_i` and :math:`\hat t_i`, and temperature
    :math:`\tau`, the loss is the mean over samples i of

    ``negatives='teacher_student'`` (the authors' released code):

    .. math:: -\log \frac{\exp(\hat t_i \cdot \hat s_i / \tau)}
                         {\sum_j \exp(\hat t_i \cdot \hat s_j / \tau)}

    ``negatives='student_student'`` (the paper's text):

    .. math:: -\log \frac{\exp(\hat t_i \cdot \hat s_i / \tau)}
                         {\exp(\hat t_i \cdot \hat s_i / \tau)
                          + \sum_{j \ne i} \exp(\hat s_i \cdot \hat s_j / \tau)}

    ``symmetric=True``: the teacher-student form plus its transpose, in which the student's row is
    the anchor and the softmax runs over the teacher's rows, each with weight 1.

    The loss does not see the length of a row, only its direction, and it is *not* zero for equal
    logits: at temperature 1 each form lies between ``log(1 + (S - 1) exp(-2))`` and
    ``log(1 + (S - 1) exp(2))`` (twice that for the symmetric form). Half-precision logits are
    computed in float32, autocast or not.

    Args:
        student_logits: Shape (S, C), one row per sample: an image, a sampled RoI, an anchor.
        teacher_logits: Shape (S, C), row i belonging to row i of the student. Gets no gradient.
        temperature: Divides the cosines; positive.
        negatives: ``'teacher_student'`` or ``'student_student'``.
        symmetric: Add the transpose of the teacher-student form.
        chunk_size: None computes with the whole S x S matrix (with ``gather`` S x K, for the K
            samples of all processes). A number computes it in square blocks of that edge, which
            are recomputed in the backward pass: same value and gradient to rounding, memory
            O(S C + chunk_size^2), with ``gather`` O(K C + chunk_size^2). The chunked form can be
            differentiated once, not twice.
        groups: Integers of shape (S,), or None. Two samples with the same number >= 0 show the
            same object and are not each other's negatives. A negative number belongs to no group.
            The numbers of two processes have nothing to do with each other.
        gather: The samples of all processes (of the default process group) are one batch: each
            process contrasts its own ones with those of all. S may differ between processes and
            be 0, but all of them have to call this, with logits that require a gradient on all or
            none. Without a process group it changes nothing.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph of
        ``student_logits``; S = 1, or all samples in one group, gives exactly zero. With ``gather``
        the mean of the processes' values is the loss of the whole batch, and the mean of their
        gradients (what ``DistributedDataParallel`` makes of them) its gradient.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, a temperature or
            chunk size that is not positive, an unknown ``negatives``, ``symmetric`` beside
            ``student_student``, and groups that are not S integers.
    """
    _check_logits(student_logits, teacher_logits)
    _check_groups(groups, len(student_logits))
    check_option('negatives', negatives, NEGATIVES)
    if symmetric and negatives != 'teacher_student':
        raise ValueError(
            f'symmetric=True is the transpose of the teacher_student form and has no meaning for '
            f"negatives={negatives!r}: set negatives='teacher_student' or symmetric=False"
        )

    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    student = unit_rows(student_logits.to(dtype))
    teacher = unit_rows(teacher_logits.detach().to(dtype))
    if gather:
        all_students, own_index = gather_rows(student)
        all_teachers = gather_rows(teacher)[0] if symmetric else teacher
        all_groups = groups
        if groups is not None:  # an object is on one process only
            all_groups = groups.new_full((len(all_students),), -1)
            all_groups[own_index] = groups
    else:
        all_students, all_teachers, all_groups = student, teacher, groups
        own_index = torch.arange(len(student), device=student.device)

    def contrast(anchors: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
        return info_nce(
            anchors,
            positives,
            candidates,
            own_index,
            temperature=temperature,
            anchor_groups=groups,
            candidate_groups=all_groups,
            chunk_size=chunk_size,
        )

    if negatives == 'student_student':
        losses = contrast(anchors=student, positives=teacher, candidates=all_students)
    else:
        losses = contrast(anchors=teacher, positives=student, candidates=all_students)
        if symmetric:
            losses = losses + contrast(anchors=student, positives=teacher, candidates=all_teachers)
    mean = losses.sum() / max(len(all_students), 1)
    return mean * world_size() if gather else mean


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    candidates: Tensor,
    own_index: Tensor,
    temperature: float = 1.0,
    anchor_groups: Tensor | None = None,
    candidate_groups: Tensor | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Contrast each anchor's positive with the candidates that come from other samples.

    .. math:: L_i = -\log \frac{\exp(a_i \cdot p_i / \tau)}
                               {\exp(a_i \cdot p_i / \tau) + \sum_j \exp(a_i \cdot c_j / \tau)}

    where j runs over the candidates except ``own_index[i]`` and those of anchor i's group. Every
    form of CKD is one or two calls of this. Candidates may be more than the anchors, and anchors
    may be a part of a batch: with the rows of other processes among the candidates, ``own_index``
    says where this process's samples stand.

    Args:
        anchors: Shape (A, C), rows of norm 1.
        positives: Shape (A, C), rows of norm 1; row i is what anchor i should resemble.
        candidates: Shape (K, C), rows of norm 1.
        own_index: Integers of shape (A,): the candidate of the sample that anchor i belongs to,
            never a negative of that anchor.
        temperature: Divides the similarities; positive.
        anchor_groups: Integers of shape (A,), or None; negative numbers belong to no group.
        candidate_groups: Integers of shape (K,); given exactly when ``anchor_groups`` is.
        chunk_size: As in :func:`ckd_loss`.

    Returns:
        Shape (A,), one loss per anchor.

    Raises:
        ValueError: For a temperature or chunk size that is not positive, and groups for one side
            only.
    """
    check_positive('temperature', temperature)
    if chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size >= 1):
        raise ValueError(
            f'chunk_size: {chunk_size!r} is not a number of rows: use 1 or more, or None to compute '
            'with the whole matrix'
        )
    if anchor_groups is not None and candidate_groups is not None:
        # Two different numbers for "no group", so that one comparison tells groups apart.
        anchor_groups = anchor_groups.long().masked_fill(anchor_groups < 0, -1)
        candidate_groups = candidate_groups.long().masked_fill(candidate_groups < 0, -2)
    elif anchor_groups is not None or candidate_groups is not None:
        raise ValueError(
            'anchor_groups and candidate_groups: only one of them is given: groups need both'
        )

    with torch.autocast(anchors.device.type, enabled=False):
        anchors = anchors / temperature
        positive_logits = (anchors * positives).sum(dim=1)
        if chunk_size is not None:
            log_normalizers: Tensor = _ChunkedLogNormalizer.apply(
                positive_logits,
                anchors,
                candidates,
                own_index,
                anchor_groups,
                candidate_groups,
                chunk_size,
            )
            return log_normalizers - positive_logits

        logits = anchors @ candidates.T
        if anchor_groups is not None and candidate_groups is not None:
            logits.masked_fill_(anchor_groups[:, None] == candidate_groups, -math.inf)
        logits.scatter_(1, own_index[:, None], positive_logits[:, None])
        return F.cross_entropy(logits, own_index, reduction='none')


class _ChunkedLogNormalizer(torch.autograd.Function):
    """The logarithm of the denominators of :func:`info_nce`, one block of logits at a time.

    Only the A results are kept for the backward pass, which computes every block again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        positive_logits: Tensor,
        anchors: Tensor,
        candidates: Tensor,
        own_index: Tensor,
        anchor_groups: Tensor | None,
        candidate_groups: Tensor | None,
        chunk_size: int,
    ) -> Tensor:
        groups = (anchor_groups, candidate_groups)
        log_normalizers = positive_logits.clone()
        for rows, _, logits in _blocks(anchors, candidates, own_index, groups, chunk_size):
            log_normalizers[rows] = torch.logaddexp(log_normalizers[rows], logits.logsumexp(dim=1))
        ctx.save_for_backward(
            positive_logits, anchors, candidates, own_index, *groups, log_normalizers
        )
        ctx.chunk_size = chunk_size
        return log_normalizers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        positive_logits, anchors, candidates, own_index, *groups, log_normalizers = (
            ctx.saved_tensors
        )
        _, anchors_learn, candidates_learn, *_ = ctx.needs_input_grad
        grad_anchors = torch.zeros_like(anchors) if anchors_learn else None
        grad_candidates = torch.zeros_like(candidates) if candidates_learn else None
        grad_positive_logits = gradient * (positive_logits - log_normalizers).exp()

        # The caller may run the backward pass within autocast.
        with torch.autocast(anchors.device.type, enabled=False):
            for rows, columns, logits in _blocks(
                anchors, candidates, own_index, tuple(groups), ctx.chunk_size
            ):
                grad_logits = logits.sub_(log_normalizers[rows, None]).exp_()
                grad_logits.mul_(gradient[rows, None])
                if grad_anchors is not None:
                    grad_anchors[rows].addmm_(grad_logits, candidates[columns])
                if grad_candidates is not None:
                    grad_candidates[columns].addmm_(grad_logits.T, anchors[rows])
        return grad_positive_logits, grad_anchors, grad_candidates, None, None, None, None


def _blocks(
    anchors: Tensor,
    candidates: Tensor,
    own_index: Tensor,
    groups: tuple[Tensor | None, Tensor | None],
    chunk_size: int,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield row slice, column slice and the logits there, -inf where a pair is no negative."""
    anchor_groups, candidate_groups = groups
    positions = torch.arange(len(candidates), device=candidates.device)
    for top in range(0, len(anchors), chunk_size):
        rows = slice(top, top + chunk_size)
        for left in range(0, len(candidates), chunk_size):
            columns = slice(left, left + chunk_size)
            excluded = own_index[rows, None] == positions[columns]
            if anchor_groups is not None and candidate_groups is not None:
                excluded |= anchor_groups[rows, None] == candidate_groups[columns]
            logits = anchors[rows] @ candidates[columns].T
            yield rows, columns, logits.masked_fill_(excluded, -math.inf)


def _check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    for name, logits in (('student_logits', student_logits), ('teacher_logits', teacher_logits)):
        if logits.dim() != 2:
            raise ValueError(
                f'{name}: shape {tuple(logits.shape)} is not (S, C): fold every dimension but the '
                'classes into the samples'
            )
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f'student_logits has shape {tuple(student_logits.shape)} and teacher_logits '
            f'{tuple(teacher_logits.shape)}: both must hold the same samples and classes'
        )


def _check_groups(groups: Tensor | None, num_samples: int) -> None:
    if groups is None:
        return
    if groups.shape != (num_samples,):
        raise ValueError(
            f'groups: shape {tuple(groups.shape)} is not ({num_samples},), one number per sample'
        )
    if groups.is_floating_point() or groups.is_complex() or groups.dtype == torch.bool:
        raise ValueError(f'groups: {groups.dtype} is not an integer type')
