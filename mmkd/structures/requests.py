"""What losses ask of a training step. Requests are known before training; equal ones share one answer."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from typing_extensions import override

from .pairs import BoxPairs, FeaturePair, LogitPairs
from .samples import Sampler

Answer = TypeVar('Answer')

TEACHER = 'teacher'
"""Name of the teacher of a recipe that has only one."""
NECK = 'neck'
PRE_LOGITS = 'pre_logits'
"""``at`` of the (B, C) features that a classifier's class layer reads."""
BEFORE_RELU = '.before_relu'
"""End of an ``at``: what the ReLU reads that a module ends with; of a module without one at its end its output."""


@dataclass(frozen=True)
class Request(Generic[Answer]):
    """Something to compare between the student and one teacher; equal requests share one answer.

    Attributes:
        teacher: Name of the teacher.
    """

    teacher: str = TEACHER

    @property
    def source(self) -> Hashable:
        """Key of the source that answers this request; requests with equal keys share a source."""
        return self


@dataclass(frozen=True)
class HeadRequest(Request[Answer]):
    """Something that the heads output.

    Attributes:
        crossed: For CrossKD, else None. The student's features after the first ``crossed`` convolutions of its head go
            through the rest of the *teacher's* head, whose outputs are then the student's side.
    """

    crossed: int | None = None

    @property
    def source(self) -> Hashable:
        """One source per pair of heads, whatever is asked of it and at whichever samples."""
        return head_source(self.teacher, self.crossed)


def head_source(teacher: str, crossed: int | None = None) -> Hashable:
    """``source`` of the requests to the heads of the student and of a teacher."""
    return HeadRequest[Any](teacher, crossed)


@dataclass(frozen=True)
class SampleRequest(HeadRequest[Answer]):
    """What the heads output at samples.

    Attributes:
        samples: Picks the samples.
    """

    samples: Sampler = field(kw_only=True)

    @property
    def shared_queries(self) -> int | None:
        """Number of random queries that both networks answer, besides the teacher's; None if each answers its own."""
        return getattr(self.samples, 'shared_queries', None)

    @property
    def matched_queries(self) -> bool:
        """Whether queries are paired by what they predict, and not by objects."""
        return getattr(self.samples, 'matched_queries', False)

    @property
    @override
    def source(self) -> Hashable:
        """The source of the heads; shared queries and matched ones have a source of their own."""
        own = super().source
        if self.matched_queries:
            return own, 'matched queries'
        return own if self.shared_queries is None else (own, self.shared_queries)


@dataclass(frozen=True)
class Logits(SampleRequest[LogitPairs]):
    """Logits at the samples that ``samples`` picks: one answer per set of predictions (stages, decoder layers)."""


@dataclass(frozen=True)
class Boxes(SampleRequest[BoxPairs]):
    """Predicted boxes at the samples that ``samples`` picks: one answer per set of predictions."""


@dataclass(frozen=True)
class ClassMaps(HeadRequest[FeaturePair]):
    """The class logits of dense heads as maps: one answer per level."""


def module_path(at: str) -> str:
    """The module of a path that may end with :data:`BEFORE_RELU`."""
    return at.removesuffix(BEFORE_RELU)


@dataclass(frozen=True)
class Features(Request[FeaturePair]):
    """Features of both networks: one answer per level of equal stride.

    Attributes:
        at: Path of a module of the student, such as ``'neck'``, ``'backbone.layer3'`` or ``'bbox_head.cls_convs.3'``,
            or ``'pre_logits'``: the (B, C) features that a classifier's class layer reads. With
            :data:`BEFORE_RELU` at its end, as in ``'backbone.layer3.before_relu'``, what the module's last ReLU reads.
        teacher_at: Likewise of the teacher; None where its module has the same name.
    """

    at: str = NECK
    teacher_at: str | None = None
