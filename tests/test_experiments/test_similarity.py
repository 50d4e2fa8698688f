from __future__ import annotations

import numpy as np

from mmkd.experiments.similarity import correlations


def test_against_numpy_on_rows_less_their_mean() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) @ np.diag([1.0, 2, 3, 4])
    rows = logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(correlations(logits), np.corrcoef(rows.T))
    # What the softmax takes away does not count.
    np.testing.assert_allclose(correlations(logits + rows[:, :1]), correlations(logits))


def test_a_constant_class_correlates_with_none() -> None:
    logits = np.array([[0.0, 1, -1], [0, 2, -2], [0, 3, -3]])
    np.testing.assert_allclose(
        correlations(logits), [[0, 0, 0], [0, 1, -1], [0, -1, 1]], atol=1e-12
    )
