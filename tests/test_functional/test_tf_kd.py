from __future__ import annotations

import pytest
import torch

from mmkd.functional import kd_loss, virtual_logits


@pytest.mark.parametrize('confidence', [0.99, 0.5, 0.1])
def test_probabilities_are_the_confidence_and_equal_shares_of_the_rest(confidence):
    labels = [2, 0, 4]
    shares = torch.eye(5, dtype=torch.float64)[labels]
    probs = virtual_logits(shares, confidence).softmax(1)
    for row, label in zip(probs.tolist(), labels, strict=True):
        expected = [confidence if c == label else (1 - confidence) / 4 for c in range(5)]
        assert row == pytest.approx(expected, rel=1e-12)


def test_its_logits_are_logarithms_of_probabilities():
    logits = virtual_logits(torch.eye(3, dtype=torch.float64))
    assert torch.allclose(logits.exp().sum(1), torch.ones(3, dtype=torch.float64))


def test_mixed_labels_are_a_mixture():
    eye = torch.eye(4, dtype=torch.float64)
    mixed = virtual_logits(0.3 * eye[:1] + 0.7 * eye[2:3]).exp()
    expected = 0.3 * virtual_logits(eye[:1]).exp() + 0.7 * virtual_logits(eye[2:3]).exp()
    assert torch.allclose(mixed, expected, rtol=1e-12)


def test_kd_from_it_is_the_divergence_from_the_softened_distribution():
    student = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    softened = torch.tensor([0.99, 0.005, 0.005], dtype=torch.float64) ** (1 / 20)
    target = softened / softened.sum()
    q = (student[0] / 20).softmax(0)
    expected = 400 * (target * (target / q).log()).sum().item()
    shares = torch.eye(3, dtype=torch.float64)[:1]
    loss = kd_loss(student, virtual_logits(shares), temperature=20.0)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_half_precision_is_computed_in_float32_and_no_samples_are_none():
    assert virtual_logits(torch.eye(3).half()).dtype == torch.float32
    assert virtual_logits(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize('confidence', [0.0, 1.0, -0.5, float('nan')])
def test_a_confidence_out_of_range_is_an_error(confidence):
    with pytest.raises(ValueError, match='confidence'):
        virtual_logits(torch.eye(3), confidence)


@pytest.mark.parametrize('shape', [(3,), (3, 1), (2, 3, 4)])
def test_shares_that_are_no_rows_of_classes_are_an_error(shape):
    with pytest.raises(ValueError, match=r'shares|logits'):
        virtual_logits(torch.zeros(shape))
