from __future__ import annotations

import math
import statistics

import pytest
import torch

from mmkd.functional import vid_loss


def make_features(*shape: int):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    variances = torch.rand(shape[1], generator=generator, dtype=torch.float64) + 0.1
    return student.requires_grad_(), teacher, variances.requires_grad_()


@pytest.mark.parametrize('shape', [(4, 3), (2, 3, 4, 5)])
def test_value_is_that_of_the_gaussian_density(shape):
    student, teacher, variances = make_features(*shape)
    expected = []
    for channel in range(3):
        normal = statistics.NormalDist(0, math.sqrt(variances[channel].item()))
        errors = (student - teacher)[:, channel].flatten().tolist()
        expected += [-math.log(normal.pdf(error)) - math.log(2 * math.pi) / 2 for error in errors]
    loss = vid_loss(student, teacher, variances)
    assert loss.item() == pytest.approx(statistics.fmean(expected), rel=1e-10)


def test_the_best_variance_is_the_mean_squared_error_of_a_channel():
    student, teacher, variances = make_features(2, 3, 4, 5)
    best = (student - teacher).detach().square().mean((0, 2, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(vid_loss(student, teacher, best), best)
    assert gradient.abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda each: vid_loss(student, teacher, each), variances)


def test_variances_that_are_not_one_per_channel_are_an_error():
    student, teacher, variances = make_features(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r'variances: shape \(2,\) is not \(3,\)'):
        vid_loss(student, teacher, variances[:2])
