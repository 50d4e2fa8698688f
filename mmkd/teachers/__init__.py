"""Teachers: frozen networks, moving averages of the student, peers that are trained beside it."""

from .averaged import AveragedTeacher
from .base import LivePass, Teacher
from .frozen import RANDOM_INIT, FrozenTeacher
from .peer import PeerTeacher

__all__ = [
    'RANDOM_INIT',
    'AveragedTeacher',
    'FrozenTeacher',
    'LivePass',
    'PeerTeacher',
    'Teacher',
]
