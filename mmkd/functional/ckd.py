"""CKD: contrastive knowledge distillation from a sample-wise perspective.

Zhu, Zhou, Zhu, Wang, Hu: arXiv 2404.14109, IEEE Transactions on Image Processing 2025.
Written from the paper's formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._common import check_option, check_positive, prepare_pair, with_gradients
from .box import overlapping
from .processes import gather_rows, world_size
from .rows import unit_rows

NEGATIVES = ('teacher_student', 'student_student')

Mask = Callable[[slice], Tensor]


def ckd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    negatives: str = 'teacher_student',
    symmetric: bool = False,
    chunk_size: int | None = None,
    groups: Tensor | None = None,
    gather: bool = False,
    boxes: Tensor | None = None,
    images: Tensor | None = None,
    mask_iou: float | None = None,
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
    computed in float32, autocast or not. The gradient is made together with the value; the loss can
    be differentiated once, not twice.

    Args:
        student_logits: Shape (S, C), one row per sample: an image, a sampled RoI, an anchor.
        teacher_logits: Shape (S, C), row i belonging to row i of the student. Gets no gradient.
        temperature: Divides the cosines; positive.
        negatives: ``'teacher_student'`` or ``'student_student'``.
        symmetric: Add the transpose of the teacher-student form.
        chunk_size: None computes with the whole S x S matrix (with ``gather`` S x K, for the K
            samples of all processes) at once. A number computes it some rows at a time, with no
            more entries than a square of that edge or, if these are more, the logits have: same
            value and gradient to rounding, memory O(S C + chunk_size^2), with ``gather``
            O(K C + chunk_size^2).
        groups: Integers of shape (S,), or None. Two samples with the same number >= 0 show the
            same object and are not each other's negatives. A negative number belongs to no group.
            The numbers of two processes have nothing to do with each other.
        gather: The samples of all processes (of the default process group) are one batch: each
            process contrasts its own ones with those of all. S may differ between processes and
            be 0, but all of them have to call this, with logits that require a gradient on all or
            none. Without a process group it changes nothing.
        boxes: Shape (S, 4), the corners (x1, y1, x2, y2) of what each sample shows. Wanted with
            ``mask_iou``.
        images: Integers of shape (S,): the image that a sample is of, as boxes of two images do not
            overlap. None means that all are of one.
        mask_iou: Two samples of an image whose boxes have an IoU above this number show the same
            object, too, and are not each other's negatives. None asks for no boxes.

    Returns:
        A scalar, float32 or wider. S = 0 gives a zero that is still attached to the graph of
        ``student_logits``; S = 1, or all samples of one object, gives exactly zero. With ``gather``
        the mean of the processes' values is the loss of the whole batch, and the mean of their
        gradients (what ``DistributedDataParallel`` makes of them) its gradient.

    Raises:
        ValueError: For logits that are not two (S, C) matrices of one shape, a temperature or
            chunk size that is not positive, an unknown ``negatives``, ``symmetric`` beside
            ``student_student``, groups or images that are not S integers, a ``mask_iou`` outside of
            [0, 1), and one without boxes.
    """
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    student, teacher = prepare_pair(student_logits, teacher_logits, ('S', 'C'))
    student, teacher = unit_rows(student.to(dtype)), unit_rows(teacher.to(dtype))
    _check_integers('groups', groups, len(student))
    _check_integers('images', images, len(student))
    _check_boxes(boxes, mask_iou, len(student))
    check_option('negatives', negatives, NEGATIVES)
    if symmetric and negatives != 'teacher_student':
        raise ValueError(
            f'symmetric=True is the transpose of the teacher_student form and has no meaning for '
            f"negatives={negatives!r}: set negatives='teacher_student' or symmetric=False"
        )

    if gather:
        all_students, own_index = gather_rows(student)
        all_teachers = gather_rows(teacher)[0] if symmetric else teacher
    else:
        all_students, all_teachers = student, teacher
        own_index = torch.arange(len(student), device=student.device)

    def among_all(own: Tensor, others: int) -> Tensor:
        """This process's rows in their places; an object is on one process only."""
        return own.new_full((len(all_students), *own.shape[1:]), others).index_copy_(
            0, own_index, own
        )

    same: list[Mask] = []
    if groups is not None:
        # Two different numbers for "no group", so that one comparison tells groups apart.
        of_anchors = groups.long().masked_fill(groups < 0, -1)
        of_all = among_all(groups.long().masked_fill(groups < 0, -2), -2)
        same.append(lambda part: of_anchors[part, None] == of_all)
    if mask_iou is not None and boxes is not None:
        own_boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
        own_images = own_index.new_zeros(len(boxes)) if images is None else images.long()
        all_boxes, all_images = among_all(own_boxes, 0), among_all(own_images, -1)
        same.append(
            lambda part: overlapping(own_boxes[part], all_boxes, mask_iou).logical_and_(
                own_images[part, None] == all_images
            )
        )

    def contrast(anchors: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
        return info_nce(
            anchors,
            positives,
            candidates,
            own_index,
            temperature=temperature,
            same=same,
            chunk_size=chunk_size,
        )

    if negatives == 'student_student':
        total = contrast(anchors=student, positives=teacher, candidates=all_students)
    else:
        total = contrast(anchors=teacher, positives=student, candidates=all_students)
        if symmetric:
            total = total + contrast(anchors=student, positives=teacher, candidates=all_teachers)
    mean = total / max(len(all_students), 1)
    return mean * world_size() if gather else mean


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    candidates: Tensor,
    own_index: Tensor,
    temperature: float = 1.0,
    same: Sequence[Mask] = (),
    chunk_size: int | None = None,
) -> Tensor:
    r"""Contrast each anchor's positive with the candidates that come from other samples.

    .. math:: \sum_i -\log \frac{\exp(a_i \cdot p_i / \tau)}
                              {\exp(a_i \cdot p_i / \tau) + \sum_j \exp(a_i \cdot c_j / \tau)}

    where j runs over the candidates except ``own_index[i]`` and those that show the same as anchor
    i. Every form of CKD is one or two calls of this. Candidates may be more than the anchors, and anchors
    may be a part of a batch: with the rows of other processes among the candidates, ``own_index``
    says where this process's samples stand.

    The gradient is made together with the value: as this is a sum over the anchors, a block of
    them is done with when its gradient is there, and nothing is kept or computed again.

    Args:
        anchors: Shape (A, C), rows of norm 1.
        positives: Shape (A, C), rows of norm 1; row i is what anchor i should resemble.
        candidates: Shape (K, C), rows of norm 1.
        own_index: Integers of shape (A,): the candidate of the sample that anchor i belongs to,
            never a negative of that anchor.
        temperature: Divides the similarities; positive.
        same: Each gives, of a slice of n anchors, a (n, K) mask of the candidates that show the
            same object as an anchor.
        chunk_size: As in :func:`ckd_loss`.

    Returns:
        A scalar, the sum over the anchors, which can be differentiated once.

    Raises:
        ValueError: For a temperature or chunk size that is not positive.
    """
    check_positive('temperature', temperature)
    if chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size >= 1):
        raise ValueError(
            f'chunk_size: {chunk_size!r} is not a number of rows: use 1 or more, or None to compute '
            'with the whole matrix'
        )

    rows_at_once = len(anchors)
    if chunk_size is not None:
        # Against all candidates, so that a row's softmax is there when its gradient is made. With
        # fewer than C rows, adding to the candidates' gradient would cost more than the products.
        rows_at_once = max(chunk_size**2 // max(len(candidates), 1), anchors.shape[1])

    def zeros_if_learning(rows: Tensor) -> Tensor | None:
        is_learning = torch.is_grad_enabled() and rows.requires_grad
        return torch.zeros_like(rows) if is_learning else None

    inputs = (anchors, positives, candidates)
    gradients = tuple(zeros_if_learning(rows) for rows in inputs)
    total = _contrast_in_blocks(
        inputs,
        gradients,
        own_index,
        same,
        1 / temperature,
        max(rows_at_once, 1),
    )
    return with_gradients(total, *zip(inputs, gradients, strict=True))


@torch.no_grad()
def _contrast_in_blocks(
    inputs: tuple[Tensor, Tensor, Tensor],
    gradients: tuple[Tensor | None, ...],
    own_index: Tensor,
    same: Sequence[Mask],
    scale: float,
    rows_at_once: int,
) -> Tensor:
    """The value of :func:`info_nce`; adds to those gradients of its inputs that are not None.

    One matrix holds every block in turn, and all that is done to it is done in place, which
    autocast leaves alone.
    """
    anchors, positives, candidates = inputs
    anchor_gradient, positive_gradient, candidate_gradient = gradients
    total = anchors.new_zeros(())
    matrix = anchors.new_empty(min(rows_at_once, len(anchors)), len(candidates))
    for start in range(0, len(anchors), rows_at_once):
        part = slice(start, start + rows_at_once)
        anchor, positive = anchors[part], positives[part]
        positive_logits = scale * (anchor * positive).sum(1, keepdim=True)
        logits = matrix[: len(anchor)].addmm_(anchor, candidates.T, beta=0, alpha=scale)
        logits.scatter_(1, own_index[part, None], -math.inf)
        for mask in same:
            logits.masked_fill_(mask(part), -math.inf)
        highest = torch.maximum(logits.amax(1, keepdim=True), positive_logits)
        exponentials = logits.sub_(highest).exp_()
        of_negatives = exponentials.sum(1, keepdim=True)
        sums = of_negatives + (positive_logits - highest).exp()
        total += (sums.log() + (highest - positive_logits)).sum()

        # The softmax is the exponentials over their sums: divided where it costs C, not K columns.
        factors = scale / sums
        pull = factors * of_negatives
        if anchor_gradient is not None:
            anchor_gradient[part].addmm_(exponentials, candidates).mul_(factors)
            anchor_gradient[part].sub_(pull * positive)
        if positive_gradient is not None:
            positive_gradient[part].sub_(pull * anchor)
        if candidate_gradient is not None:
            candidate_gradient.addmm_(exponentials.T, factors * anchor)
    return total


def _check_integers(name: str, values: Tensor | None, num_samples: int) -> None:
    if values is None:
        return
    if values.shape != (num_samples,):
        raise ValueError(
            f'{name}: shape {tuple(values.shape)} is not ({num_samples},), one number per sample'
        )
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f'{name}: {values.dtype} is not an integer type')


def _check_boxes(boxes: Tensor | None, mask_iou: float | None, num_samples: int) -> None:
    if mask_iou is None:
        return
    if not (isinstance(mask_iou, int | float) and 0 <= mask_iou < 1):
        raise ValueError(f'mask_iou: {mask_iou!r} is not in [0, 1)')
    if boxes is None or boxes.shape != (num_samples, 4):
        given = 'None' if boxes is None else f'shape {tuple(boxes.shape)}'
        raise ValueError(f'boxes: {given} is not ({num_samples}, 4), as mask_iou needs them')
