"""Feature adapters: layers between the student's maps and a loss, where the teacher's are of another width."""

from .conv import ConvConnector
from .mlp import MLPConnector
from .norm import TolerantBatchNorm2d

__all__ = ['ConvConnector', 'MLPConnector', 'TolerantBatchNorm2d']
