"""Distiller (wraps a student) and Teacher (holds the frozen network)."""

from .distiller import Distiller
from .teacher import RANDOM_INIT, Teacher

__all__ = ['RANDOM_INIT', 'Distiller', 'Teacher']
