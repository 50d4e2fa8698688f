"""Head adapters, one per family of heads: they align the outputs of student and teacher."""

from . import point  # noqa: F401  (registers its adapters)
from .anchor import AnchorHeadAdapter
from .base import HeadAdapter, register_head_adapter
from .build import build_head_adapter, build_sources
from .classifier import ClassifierAdapter
from .dense import Assignment, DenseHeadAdapter, DenseOutputs, SampledTargetsAdapter
from .features import FeatureSource
from .matched_queries import MatchedQueryAdapter
from .plain import DISTILL_PREFIX, plain_weights
from .query import DETRHeadAdapter, QueryHeadAdapter, SparseRoIHeadAdapter
from .roi import RoIHeadAdapter, roi_logits
from .roi_teacher import RoITeacherAdapter
from .shared_queries import SharedQueryAdapter

__all__ = [
    'DISTILL_PREFIX',
    'AnchorHeadAdapter',
    'Assignment',
    'ClassifierAdapter',
    'DETRHeadAdapter',
    'DenseHeadAdapter',
    'DenseOutputs',
    'FeatureSource',
    'HeadAdapter',
    'MatchedQueryAdapter',
    'QueryHeadAdapter',
    'RoIHeadAdapter',
    'RoITeacherAdapter',
    'SampledTargetsAdapter',
    'SharedQueryAdapter',
    'SparseRoIHeadAdapter',
    'build_head_adapter',
    'build_sources',
    'plain_weights',
    'register_head_adapter',
    'roi_logits',
]
