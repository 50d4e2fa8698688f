"""The data that heads hand to losses."""

from .classes import ClassMap
from .pairs import Activation, BoxPairs, FeaturePair, LogitPairs
from .progress import Progress
from .requests import (
    BEFORE_RELU,
    NECK,
    PRE_LOGITS,
    TEACHER,
    Boxes,
    ClassMaps,
    Features,
    HeadRequest,
    Logits,
    Request,
    SampleRequest,
    head_source,
    module_path,
)
from .samples import Sampler, SampleTable
from .step import Source, Sources, Step, TeacherPass
from .stored import Holding, StoredRows
from .taps import Taps, evaluating

__all__ = [
    'BEFORE_RELU',
    'NECK',
    'PRE_LOGITS',
    'TEACHER',
    'Activation',
    'BoxPairs',
    'Boxes',
    'ClassMap',
    'ClassMaps',
    'FeaturePair',
    'Features',
    'HeadRequest',
    'Holding',
    'LogitPairs',
    'Logits',
    'Progress',
    'Request',
    'SampleRequest',
    'SampleTable',
    'Sampler',
    'Source',
    'Sources',
    'Step',
    'StoredRows',
    'Taps',
    'TeacherPass',
    'evaluating',
    'head_source',
    'module_path',
]
