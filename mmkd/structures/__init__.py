"""What flows from heads to losses."""

from .classes import ClassMap
from .pairs import Activation, BoxPairs, FeaturePair, LogitPairs
from .samples import Sampler, SampleTable
from .step import HeadSource, NeckSource, Step, TeacherPass

__all__ = [
    'Activation',
    'BoxPairs',
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
