"""Samplers: which of a head's many samples a loss learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from mmkd.registry import SAMPLERS
from mmkd.structures import SampleTable


@SAMPLERS.register_module()
@dataclass(frozen=True)
class AllSamples:
    """Every sample: all images of a classifier, all RoIs, or all anchors (hundreds of thousands of rows)."""

    def __call__(self, table: SampleTable) -> Tensor:
        """(N,) all indices."""
        return table.everything


@SAMPLERS.register_module()
@dataclass(frozen=True)
class Positives:
    """The samples that the student's own assignment made positive; none in a batch without ground truth."""

    teacher_top: ClassVar[int] = 0
    positives: ClassVar[bool] = True

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices, ascending."""
        return table.foreground()


@SAMPLERS.register_module()
@dataclass(frozen=True)
class Negatives:
    """The samples that the student's own assignment made background; all of them where it says nothing.

    Their number has to be waited for: meant for RoI heads.
    """

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices, ascending."""
        if table.labels is None:
            return table.everything
        is_background = (table.labels == table.num_classes) & (table.weights > 0)
        return is_background.nonzero().flatten()


@SAMPLERS.register_module()
@dataclass(frozen=True)
class TeacherTopK:
    """The k samples of each image that the teacher is most confident of, by its highest class probability.

    Args:
        k: Samples per image; an image with fewer gives all it has.
    """

    k: int = 64

    def __post_init__(self) -> None:
        _check_k(self)

    @property
    def teacher_top(self) -> int:
        """k, as a stored teacher keeps only samples that it is most confident of."""
        return self.k

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices, ascending."""
        return table.teacher_top(self.k)


@SAMPLERS.register_module()
@dataclass(frozen=True)
class PositivesAndTeacherTopK:
    """The union of :class:`Positives` and :class:`TeacherTopK`.

    Args:
        k: Teacher's samples per image.
    """

    k: int = 64
    positives: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_k(self)

    @property
    def teacher_top(self) -> int:
        """k, as a stored teacher keeps only samples that it is most confident of."""
        return self.k

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices, ascending."""
        picked = table.is_foreground()
        picked[table.teacher_top(self.k)] = True
        return picked.nonzero().flatten()


@SAMPLERS.register_module()
@dataclass(frozen=True)
class SharedQueries:
    """The answers of both networks to the same queries, of query heads (KD-DETR, CVPR 2024): rows need no matching.

    The queries are the teacher's own and random ones, see :class:`mmkd.heads.SharedQueryAdapter`. A row has no label
    and counts by the teacher's confidence.

    Args:
        random: Random queries of each image; 0 for detectors whose queries have no reference points.
        k: Only the k queries of each image that the teacher is most confident of; None: all.
    """

    random: int = 0
    k: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.random, int) and self.random >= 0):
            raise ValueError(
                f'SharedQueries.random: {self.random!r} is not a number of queries per image: give a whole number, 0 '
                'or more'
            )
        if self.k is not None:
            _check_k(self)

    @property
    def shared_queries(self) -> int:
        """Random queries of each image."""
        return self.random

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices, ascending."""
        return table.everything if self.k is None else table.teacher_top(self.k)


Matched = Literal['all', 'positives', 'negatives']


@SAMPLERS.register_module()
@dataclass(frozen=True)
class MatchedQueries:
    """Queries of both networks that predict the most alike, of DETR and its kin (DETRDistill, ICCV 2023).

    See :class:`mmkd.heads.MatchedQueryAdapter`.

    Args:
        which: ``'positives'``: pairs whose teacher's query found an object; ``'negatives'``: the others; or ``'all'``.
    """

    which: Matched = 'all'
    matched_queries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.which not in get_args(Matched):
            raise ValueError(
                f'MatchedQueries.which: {self.which!r} is none of {", ".join(get_args(Matched))}'
            )

    def __call__(self, table: SampleTable) -> Tensor:
        """(S,) indices, ascending."""
        if self.which == 'all':
            return table.everything
        found = table.is_foreground()
        return (found if self.which == 'positives' else ~found).nonzero().flatten()


def _check_k(sampler: TeacherTopK | PositivesAndTeacherTopK | SharedQueries) -> None:
    if not (isinstance(sampler.k, int) and sampler.k >= 1):
        raise ValueError(
            f'{type(sampler).__name__}.k: {sampler.k!r} is not a number of samples per image: give a whole '
            'number, 1 or more'
        )
