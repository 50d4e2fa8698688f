"""Registered losses, the samplers that choose their samples, and the schedules of their weights."""

from .base import DistillLoss, FeatureLoss, LogitLoss
from .ckd import CKDLoss
from .pkd import PKDLoss
from .samplers import AllSamples, Positives, PositivesAndTeacherTopK, TeacherTopK
from .schedules import (
    Chain,
    Constant,
    CosineDecay,
    LinearWarmup,
    Progress,
    Schedule,
    Steps,
    Stop,
    build_schedule,
)

__all__ = [
    'AllSamples',
    'CKDLoss',
    'Chain',
    'Constant',
    'CosineDecay',
    'DistillLoss',
    'FeatureLoss',
    'LinearWarmup',
    'LogitLoss',
    'PKDLoss',
    'Positives',
    'PositivesAndTeacherTopK',
    'Progress',
    'Schedule',
    'Steps',
    'Stop',
    'TeacherTopK',
    'build_schedule',
]
