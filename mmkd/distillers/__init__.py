"""The distiller, which trains a student with its teachers."""

from .description import describe
from .distiller import Distiller

__all__ = ['Distiller', 'describe']
