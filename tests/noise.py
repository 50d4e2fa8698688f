"""Training data that show which random numbers were drawn for them."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset


class Noise(Dataset):
    """Numbers that depend on all three generators of the process that loads them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return dict(x=torch.full((3,), index + noise))


def end_workers(runner: Runner) -> None:
    """End the data loaders' workers at once; the garbage collector would wait five seconds for each."""
    loops = (runner.train_loop, runner.val_loop)
    for owner in (
        *(getattr(loop, 'dataloader', None) for loop in loops),
        getattr(runner.train_loop, 'dataloader_iterator', None),
    ):
        if hasattr(owner, '_iterator'):
            owner._iterator = None
