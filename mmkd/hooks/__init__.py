"""MMEngine hooks, registered in the ``mmkd`` scope."""

from .checkpoint import WholeCheckpointHook
from .export import ExportStudentHook
from .finite_loss import FiniteLossHook
from .monitor import DistillMonitorHook
from .resume_state import ResumeStateHook
from .seeded_views import SeededViewsHook
from .start_report import StartReportHook
from .teacher_check import TeacherCheckHook
from .teacher_store import TeacherStoreHook
from .visualization import DistillVisualizationHook

__all__ = [
    'DistillMonitorHook',
    'DistillVisualizationHook',
    'ExportStudentHook',
    'FiniteLossHook',
    'ResumeStateHook',
    'SeededViewsHook',
    'StartReportHook',
    'TeacherCheckHook',
    'TeacherStoreHook',
    'WholeCheckpointHook',
]
