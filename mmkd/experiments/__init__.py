"""Several trainings as one command: what is done is reused, what was interrupted is continued."""

from mmkd.experiments.progress import Display
from mmkd.experiments.runs import (
    Action,
    Decision,
    EvaluationRun,
    Stage,
    StageError,
    TrainingRun,
    relative_path,
    resolve_config,
)
from mmkd.experiments.schedule import run_stages
from mmkd.experiments.tasks import CLASSIFICATION, DETECTION, Task, task_of

__all__ = [
    'CLASSIFICATION',
    'DETECTION',
    'Action',
    'Decision',
    'Display',
    'EvaluationRun',
    'Stage',
    'StageError',
    'Task',
    'TrainingRun',
    'relative_path',
    'resolve_config',
    'run_stages',
    'task_of',
]
