"""RKD: relations between the samples of a batch, by distances and angles.

Park, Kim, Lu, Cho: "Relational Knowledge Distillation", CVPR 2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import check_not_negative, prepare_pair, with_gradients

_ANGLES_AT_ONCE = 2**18  # 1 MiB in float32


def rkd_loss(
    student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    r"""Pull the distances and angles between the student's samples to the teacher's.

    .. math:: w_d \, \mathrm{mean}_{ij} \, \ell(d^S_{ij}, d^T_{ij})
        + w_a \, \mathrm{mean}_{ijk} \, \ell(\cos^S_{ijk}, \cos^T_{ijk})

    where :math:`\ell` is the smooth L1 distance, :math:`d_{ij}` the distance of two samples divided
    by the mean of all distances that are not zero, and :math:`\cos_{ijk}` the cosine of the angle
    at sample j between samples i and k. As published, the means run over all :math:`S^2` pairs and
    :math:`S^3` triples, also those that hold a sample twice. Neither scale, offset nor rotation of
    a network's features matters, nor do their widths have to be equal.

    Angles are taken from the distances, by the law of cosines, some vertices j at a time and
    together with their gradient: time grows with :math:`S^2 C + S^3`, memory with :math:`S^2`, and
    the function can be differentiated once, not twice.
    Two samples may be so close that their direction is lost in rounding (a distance below the
    square root of the precision, in units of the mean). Their cosine is then 0, as published for
    equal ones.

    Args:
        student: Pooled features of shape (S, C_s).
        teacher: Pooled features of shape (S, C_t), row i of the same sample. Get no gradient.
        distance_weight: :math:`w_d`.
        angle_weight: :math:`w_a`; 0 saves the triples.

    Returns:
        A scalar, float32 or wider. Fewer than two samples have no relations: they give a zero that
        is still attached to the graph.

    Raises:
        ValueError: For features that are not two matrices of as many rows, and weights below 0.
    """
    student, teacher = prepare_pair(student, teacher, ('S', 'C'), name='features', free=[1])
    check_not_negative(distance_weight=distance_weight, angle_weight=angle_weight)
    student_distances, teacher_distances = _distances(student), _distances(teacher)
    num_samples = len(student)
    differences = F.smooth_l1_loss(student_distances, teacher_distances, reduction='sum')
    loss = distance_weight * differences / max(num_samples**2, 1)
    if angle_weight == 0:
        return loss

    angles = _compare_angles(student_distances, teacher_distances)
    return loss + angle_weight * angles / max(num_samples**3, 1)


def _distances(features: Tensor) -> Tensor:
    """(S, S) Euclidean distances, divided by the mean of those that are not zero."""
    # Not by the product of the features, which turns short distances into noise.
    distances = torch.cdist(features, features, compute_mode='donot_use_mm_for_euclid_dist')
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return distances / torch.where(mean == 0, 1.0, mean)


def _compare_angles(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum over all triples, with its gradient, from the distances; some vertices at a time."""
    with torch.no_grad():
        num_samples = len(student)
        inverses, teacher_inverses = _inverses(student), _inverses(teacher)
        squares, teacher_squares = student.square(), teacher.square()
        total = student.new_zeros(())
        gradient, of_squares = torch.zeros_like(student), torch.zeros_like(student)
        step = max(_ANGLES_AT_ONCE // max(num_samples**2, 1), 1)
        for start in range(0, num_samples, step):
            part = slice(start, start + step)
            cosines = _cosines(squares, inverses, part)
            differences = cosines - _cosines(teacher_squares, teacher_inverses, part)
            # The derivative of the smooth L1 distance, symmetric in the two ends of an angle.
            slopes = differences.clamp(-1, 1)
            total += (slopes * (differences - 0.5 * slopes)).sum()
            gradient[part] -= 2 * inverses[part] * cosines.mul_(slopes).sum(2)
            slopes.mul_(inverses[part, :, None]).mul_(inverses[part, None, :])
            of_squares[part] += slopes.sum(2)
            of_squares -= 0.5 * slopes.sum(0)
        gradient += 2 * student * of_squares
    return with_gradients(total, (student, gradient))


def _inverses(distances: Tensor) -> Tensor:
    """One over the distances; 0 where the direction is lost in rounding."""
    is_apart = distances > torch.finfo(distances.dtype).eps ** 0.5
    return torch.where(is_apart, 1 / distances, 0.0)


def _cosines(squares: Tensor, inverses: Tensor, vertices: slice) -> Tensor:
    """(J, S, S): the cosines of the angles at the vertices, between every two samples."""
    sides = squares[vertices]
    products = sides[:, :, None] + sides[:, None, :]
    products.sub_(squares).mul_(0.5)
    return products.mul_(inverses[vertices, :, None]).mul_(inverses[vertices, None, :])
