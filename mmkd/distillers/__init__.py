"""Distiller: wraps a student, asks its teachers."""

from .description import describe
from .distiller import Distiller

__all__ = ['Distiller', 'describe']
