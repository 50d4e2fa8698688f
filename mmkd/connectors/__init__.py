"""Connectors: layers that bring the student's feature maps to the teacher's width before a loss compares them."""

from .conv import ConvConnector
from .mlp import MLPConnector
from .norm import TolerantBatchNorm2d

__all__ = ['ConvConnector', 'MLPConnector', 'TolerantBatchNorm2d']
