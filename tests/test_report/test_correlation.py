from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmkd.report import draw_correlations, logit_correlations, read_scores


def random_logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(50, 4)) @ np.diag([1.0, 2, 3, 4])


def test_correlations_against_numpy() -> None:
    logits = random_logits()
    np.testing.assert_allclose(logit_correlations(logits), np.corrcoef(logits.T))


def test_a_constant_class_correlates_with_none() -> None:
    logits = random_logits()
    logits[:, 2] = 1.0
    matrix = logit_correlations(logits)
    assert not matrix[2].any()
    np.testing.assert_allclose(matrix[0, 1], np.corrcoef(logits[:, 0], logits[:, 1])[0, 1])


def test_logits_are_read_back_from_probabilities(tmp_path: Path) -> None:
    logits = 5 * random_logits()
    probabilities = torch.from_numpy(logits).float().softmax(dim=1)
    path = tmp_path / 'predictions.pkl'
    path.write_bytes(pickle.dumps([{'pred_score': row} for row in probabilities]))
    read = read_scores(path)
    centred = logits - logits.mean(axis=1, keepdims=True)
    possible = (probabilities > 1e-30).all(dim=1).numpy()
    assert possible.sum() > 20
    np.testing.assert_allclose(read[possible], centred[possible], atol=1e-3)
    assert np.isfinite(read).all()


def test_a_panel_per_model_and_difference_and_one_for_the_curves(tmp_path: Path) -> None:
    teacher, student = random_logits(0), random_logits(1)
    logits = {'teacher': teacher, 'copy': 3 * teacher + 1, 'other': student}
    path = tmp_path / 'report.png'
    figure = draw_correlations(path, logits, {'teacher': {1: 20.0, 2: 71.26}})
    assert cv2.imread(str(path)).shape[1] > 600
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    difference = np.abs(np.corrcoef(student.T) - np.corrcoef(teacher.T)).mean()
    assert titles[:3] == ['teacher', 'copy', 'other']
    assert titles[3:] == [
        '|difference|, mean 0.000',
        f'|difference|, mean {difference:.3f}',
    ]
    (label,) = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert label == 'teacher 71.3'
    with pytest.raises(ValueError, match='shapes'):
        draw_correlations(path, logits | {'wrong': student[:, :3]}, {})
