from __future__ import annotations

import pytest
import torch

from mmkd.functional import mlld_loss


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def formula(student, teacher, temperatures, samples, classes):
    """Each number on its own."""
    total = 0.0
    num_samples, num_classes = student.shape
    for temperature in temperatures:
        q, p = ((x / temperature).softmax(1).detach() for x in (student, teacher))
        total += temperature**2 * (p * (p / q).log()).sum() / num_samples
        for i in range(num_samples):
            for j in range(num_samples):
                total += samples * ((p[i] * p[j]).sum() - (q[i] * q[j]).sum()) ** 2 / num_samples
        for c in range(num_classes):
            for d in range(num_classes):
                difference = (p[:, c] * p[:, d]).sum() - (q[:, c] * q[:, d]).sum()
                total += classes * difference**2 / num_classes
    return total.item()


@pytest.mark.parametrize(
    ('temperatures', 'samples', 'classes'),
    [((2, 3, 4, 5, 6), 1.0, 1.0), ([1.0], 0.0, 3.0), ([0.5, 4.0], 2.0, 0.0)],
)
def test_value_is_the_formula(temperatures, samples, classes):
    student, teacher = make_logits()
    loss = mlld_loss(student, teacher, temperatures, samples, classes)
    expected = formula(student, teacher, temperatures, samples, classes)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_published_settings_are_the_default():
    student, teacher = make_logits()
    expected = mlld_loss(student, teacher, [2, 3, 4, 5, 6], sample_weight=1, class_weight=1)
    assert torch.equal(mlld_loss(student, teacher), expected)


@pytest.mark.parametrize('temperatures', [[], [0.0], [4.0, -1.0], [float('nan')], 4.0])
def test_temperatures_that_are_no_list_of_positive_numbers_are_an_error(temperatures):
    with pytest.raises(ValueError, match='temperatures'):
        mlld_loss(*make_logits(), temperatures=temperatures)
