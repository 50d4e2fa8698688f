"""MMEngine hooks, registered in the ``mmkd`` scope."""

from .checkpoint import WholeCheckpointHook
from .export import ExportStudentHook
from .finite_loss import FiniteLossHook
from .resume_state import ResumeStateHook

__all__ = [
    'ExportStudentHook',
    'FiniteLossHook',
    'ResumeStateHook',
    'WholeCheckpointHook',
]
