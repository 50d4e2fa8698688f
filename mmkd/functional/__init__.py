"""Distillation losses as plain functions of tensors: PyTorch only, usable from any training loop.

Student first, teacher second, rows of shape (S, C), a scalar out.
"""

from .ckd import ckd_loss
from .rows import center_rows, standardize_rows, unit_rows

__all__ = [
    'center_rows',
    'ckd_loss',
    'standardize_rows',
    'unit_rows',
]
