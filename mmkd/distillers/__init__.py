"""Distiller: wraps a student, asks its teachers."""

from .distiller import Distiller

__all__ = ['Distiller']
