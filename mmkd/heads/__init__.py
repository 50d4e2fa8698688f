"""One adapter per head family: a head's outputs become aligned pairs once, in one place."""

from .base import HeadAdapter, build_head_adapter, register_head_adapter
from .dense import AnchorHeadAdapter, DenseHeadAdapter
from .neck import NeckAdapter

__all__ = [
    'AnchorHeadAdapter',
    'DenseHeadAdapter',
    'HeadAdapter',
    'NeckAdapter',
    'build_head_adapter',
    'register_head_adapter',
]
