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

__all__ = [
    'Action',
    'Decision',
    'Display',
    'EvaluationRun',
    'Stage',
    'StageError',
    'TrainingRun',
    'relative_path',
    'resolve_config',
    'run_stages',
]
