from __future__ import annotations

import pytest
import torch

from mmkd.functional import fitnet_loss


@pytest.mark.parametrize('shape', [(4, 3), (2, 3, 4, 5)])
def test_value_and_gradient_are_those_of_the_mean_squared_difference(shape):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    loss = fitnet_loss(student, teacher)
    values = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    expected = sum((s - t) ** 2 for s, t in values) / len(values)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, 2 * (student - teacher) / len(values))
