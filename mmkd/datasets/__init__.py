"""Embedded data: generators that need no download."""

from mmkd.datasets.shapes import make_shapes

__all__ = ['make_shapes']
