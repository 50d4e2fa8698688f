"""MMEngine hooks, registered in the ``mmkd`` scope."""

from .resume_state import ResumeStateHook

__all__ = ['ResumeStateHook']
