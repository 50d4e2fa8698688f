"""MMEngine hooks, registered in the ``mmkd`` scope."""

from .export import ExportStudentHook
from .resume_state import ResumeStateHook

__all__ = ['ExportStudentHook', 'ResumeStateHook']
