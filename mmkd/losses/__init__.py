"""Registered losses, the samplers that choose their samples, and the schedules of their weights."""

from .aekt import AEKTLoss
from .at import ATLoss
from .base import DistillLoss
from .bckd import BCKDLoss
from .box import BoxGIoULoss, BoxL1Loss, BoxLoss
from .cc import CCLoss
from .ckd import CKDLoss
from .clkd import CLKDLoss
from .comparative_kd import ComparativeKDLoss
from .correlation_kd import CorrelationKDLoss
from .crd import CRDLoss
from .cross_kd import CrossKDLoss
from .ctkd import CTKDLoss
from .cwd import CWDLoss
from .defeat import DeFeatLoss
from .dist import DISTLoss
from .dkd import DKDLoss
from .features import FeatureLoss
from .fgd import FGDLoss
from .fgfi import FGFILoss
from .fitnet import FitNetLoss
from .gradient_shares import GradientShares
from .ickd import ICKDLoss
from .kd import KDLoss
from .ld import LDLoss
from .logits import LogitLoss
from .mgd import MGDLoss
from .mimic import MimicLoss
from .mlld import MLLDLoss
from .nkd import NKDLoss
from .nst import NSTLoss
from .ofa import OFALoss
from .ofd import OFDLoss
from .pkd import PKDLoss
from .pkt import PKTLoss
from .qfl_kd import QFLKDLoss
from .quadratic_kd import QuadraticKDLoss
from .review_kd import ReviewKDLoss
from .rkd import RKDLoss
from .samplers import (
    AllSamples,
    MatchedQueries,
    Negatives,
    Positives,
    PositivesAndTeacherTopK,
    SharedQueries,
    TeacherTopK,
)
from .schedules import (
    Chain,
    Constant,
    CosineDecay,
    CosineWarmup,
    GradientShare,
    LinearWarmup,
    Schedule,
    Steps,
    Stop,
    build_schedule,
    is_over,
)
from .sp import SPLoss
from .ttm import TTMLoss
from .vid import VIDLoss

__all__ = [
    'AEKTLoss',
    'ATLoss',
    'AllSamples',
    'BCKDLoss',
    'BoxGIoULoss',
    'BoxL1Loss',
    'BoxLoss',
    'CCLoss',
    'CKDLoss',
    'CLKDLoss',
    'CRDLoss',
    'CTKDLoss',
    'CWDLoss',
    'Chain',
    'ComparativeKDLoss',
    'Constant',
    'CorrelationKDLoss',
    'CosineDecay',
    'CosineWarmup',
    'CrossKDLoss',
    'DISTLoss',
    'DKDLoss',
    'DeFeatLoss',
    'DistillLoss',
    'FGDLoss',
    'FGFILoss',
    'FeatureLoss',
    'FitNetLoss',
    'GradientShare',
    'GradientShares',
    'ICKDLoss',
    'KDLoss',
    'LDLoss',
    'LinearWarmup',
    'LogitLoss',
    'MGDLoss',
    'MLLDLoss',
    'MatchedQueries',
    'MimicLoss',
    'NKDLoss',
    'NSTLoss',
    'Negatives',
    'OFALoss',
    'OFDLoss',
    'PKDLoss',
    'PKTLoss',
    'Positives',
    'PositivesAndTeacherTopK',
    'QFLKDLoss',
    'QuadraticKDLoss',
    'RKDLoss',
    'ReviewKDLoss',
    'SPLoss',
    'Schedule',
    'SharedQueries',
    'Steps',
    'Stop',
    'TTMLoss',
    'TeacherTopK',
    'VIDLoss',
    'build_schedule',
    'is_over',
]
