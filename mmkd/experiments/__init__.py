"""Trainings and evaluations of a comparison: what is done is kept, what was interrupted goes on."""

from mmkd.experiments.cells import Cell, Comparison, Family
from mmkd.experiments.jobs import Command, Job, JobError, run_jobs, say
from mmkd.experiments.similarity import class_similarities

__all__ = [
    'Cell',
    'Command',
    'Comparison',
    'Family',
    'Job',
    'JobError',
    'class_similarities',
    'run_jobs',
    'say',
]
