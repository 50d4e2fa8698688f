"""Embedded data: generators that need no download."""

from mmkd.datasets.shapes import default_folder, make_default_set, make_shapes

__all__ = ['default_folder', 'make_default_set', 'make_shapes']
