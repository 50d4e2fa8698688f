"""What is drawn within the block is not missed after it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from mmkd.teachers.isolation import isolated_rng


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


@isolated_rng()
def draw_and_fail() -> None:
    draw()
    raise KeyError('inside')


def test_the_three_generators_go_on_as_if_nothing_was_drawn() -> None:
    seed()
    expected = draw()
    seed()
    with isolated_rng():
        assert draw() == expected
        assert draw() != expected
    assert draw() == expected


def test_also_after_an_exception() -> None:
    seed()
    expected = draw()
    seed()
    with pytest.raises(KeyError, match='inside'):
        draw_and_fail()
    assert draw() == expected


def test_a_seed_set_within_the_block_ends_with_it() -> None:
    seed()
    expected = draw()
    seed()
    with isolated_rng():
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
    assert draw() == expected
