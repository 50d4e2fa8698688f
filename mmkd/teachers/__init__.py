"""Teachers: frozen networks, their outputs on disk, moving averages and peers of the student."""

from .averaged import AveragedTeacher
from .base import LivePass, Teacher
from .frozen import RANDOM_INIT, FrozenTeacher
from .peer import PeerTeacher
from .store import StoreError
from .stored import StoredTeacher
from .virtual import VirtualTeacher

__all__ = [
    'RANDOM_INIT',
    'AveragedTeacher',
    'FrozenTeacher',
    'LivePass',
    'PeerTeacher',
    'StoreError',
    'StoredTeacher',
    'Teacher',
    'VirtualTeacher',
]
