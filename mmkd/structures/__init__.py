"""What flows from heads to losses."""

from .classes import ClassMap
from .pairs import Activation, FeaturePair, LogitPairs
from .samples import Sampler, SampleTable
from .step import HeadSource, NeckSource, Step, TeacherPass

__all__ = [
    'Activation',
    'ClassMap',
    'FeaturePair',
    'HeadSource',
    'LogitPairs',
    'NeckSource',
    'SampleTable',
    'Sampler',
    'Step',
    'TeacherPass',
]
