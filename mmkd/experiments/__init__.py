"""Trainings and evaluations of a comparison: what is done is kept, what was interrupted goes on."""

from mmkd.experiments.cells import (
    PLAIN,
    TEACHER,
    Cell,
    Comparison,
    Family,
    NoSuchCell,
    check_seeds,
    preload_for,
)
from mmkd.experiments.jobs import Command, Job, JobError, run_jobs, say
from mmkd.experiments.similarity import class_similarities

__all__ = [
    'PLAIN',
    'TEACHER',
    'Cell',
    'Command',
    'Comparison',
    'Family',
    'Job',
    'JobError',
    'NoSuchCell',
    'check_seeds',
    'class_similarities',
    'preload_for',
    'run_jobs',
    'say',
]
