"""Builds the sources that answer the losses' requests."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import nn

from mmkd.structures import (
    Boxes,
    ClassMaps,
    Features,
    HeadRequest,
    Request,
    SampleRequest,
    Sources,
    head_source,
)

from .base import HEAD_PATHS, HeadAdapter, adapter_class, known_heads
from .crossed import CrossedHeadAdapter
from .features import FeatureSource
from .matched_queries import MatchedQueryAdapter
from .roi_teacher import RoITeacherAdapter, is_two_stage
from .shared_queries import SharedQueryAdapter


def build_sources(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    requests: Mapping[str, Sequence[Request[Any]]],
    head: Mapping[str, Any] | None = None,
) -> Sources:
    """Build the sources for all requests; equal requests share a source.

    Args:
        student: The student.
        teachers: The teachers' networks by name.
        requests: Name of a loss to its requests.
        head: Options of the head adapters, see :func:`build_head_adapter`.

    Raises:
        ValueError: There is no such teacher, or the pair cannot answer a request; the message names the loss.
        TypeError: A head adapter has no such option.
    """
    sources: dict[Hashable, Any] = {}
    for loss, asked in requests.items():
        for request in asked:
            network = teachers.get(request.teacher)
            if network is None:
                raise ValueError(
                    f'model.losses.{loss}.teacher: there is no teacher {request.teacher!r}; there is '
                    f'{", ".join(map(repr, teachers)) or "none"}'
                )
            try:
                _add_source(sources, student, network, request, head)
            except ValueError as error:
                raise ValueError(f'model.losses.{loss}: {error}') from None
    with_boxes = {
        request.teacher
        for asked in requests.values()
        for request in asked
        if isinstance(request, Boxes)
    }
    for source in sources.values():
        if isinstance(source, HeadAdapter) and source.teacher not in with_boxes:
            source.leave_out_boxes()
    return Sources(sources)


def _add_source(
    sources: dict[Hashable, Any],
    student: nn.Module,
    teacher: nn.Module,
    request: Request[Any],
    head: Mapping[str, Any] | None,
) -> None:
    try:
        hash(request)
    except TypeError:
        raise ValueError(
            f'{request} is not hashable, by which equal requests share their answer: make its sampler a '
            '@dataclass(frozen=True)'
        ) from None
    if isinstance(request, Features):
        if request.source not in sources:
            sources[request.source] = FeatureSource(student, teacher, request)
        return
    if not isinstance(request, HeadRequest):
        raise ValueError(f'{type(request).__name__} is no request of mmkd.structures')
    own = head_source(request.teacher)
    if own not in sources:
        sources[own] = build_head_adapter(student, teacher, head)
        sources[own].learn_from(request.teacher)
    adapter = sources[own]
    if request.source not in sources:
        derived: HeadAdapter
        if request.crossed is not None:
            derived = CrossedHeadAdapter(adapter, student, teacher, adapter.path, request.crossed)
        elif isinstance(request, SampleRequest) and request.matched_queries:
            derived = MatchedQueryAdapter(adapter, student, teacher)
        else:
            assert isinstance(request, SampleRequest)
            assert request.shared_queries is not None
            derived = SharedQueryAdapter(adapter, student, teacher, request.shared_queries)
        derived.learn_from(request.teacher)
        sources[request.source] = derived
    if isinstance(request, ClassMaps):
        adapter.class_map_levels()


def build_head_adapter(
    student: nn.Module, teacher: nn.Module, options: Mapping[str, Any] | None = None
) -> HeadAdapter:
    """Build the adapter of the student's head: that of its class, else of the nearest base class that has one.

    If the teacher is a two-stage detector and its head is of another family, its RoI head scores the student's boxes:
    :class:`mmkd.heads.RoITeacherAdapter`.

    Args:
        student: The student.
        teacher: The teacher's network.
        options: Keyword options of the adapter, such as ``dict(layers='all')`` for query heads.

    Raises:
        ValueError: No adapter serves the student's head, or the teacher has another kind of head.
        TypeError: The adapter has no such option.
    """
    path = next((path for path in HEAD_PATHS if getattr(student, path, None) is not None), None)
    if path is None:
        others = [
            f'{name} ({type(part).__name__})'
            for name, part in student.named_children()
            if name.endswith('_head')
        ]
        advice = 'take a student with one of these heads'
        if getattr(student, 'neck', None) is not None:
            advice = (
                f'take losses on features, such as mmkd.PKDLoss or mmkd.ReviewKDLoss, or {advice}'
            )
        raise ValueError(
            f'{type(student).__name__} has none of {", ".join(HEAD_PATHS)}, which losses on logits or boxes read'
            + (f'; no adapter serves its {", ".join(others)}' if others else '')
            + f': {advice}'
        )
    head = getattr(student, path)
    adapter = adapter_class(head)
    if adapter is None:
        raise ValueError(
            f'no head adapter serves {type(head).__name__}; known families: '
            f'{", ".join(known_heads())}. Derive one from mmkd.heads.HeadAdapter, implement tables() '
            f"and register it with @register_head_adapter('{type(head).__name__}')"
        )
    teacher_head = getattr(teacher, path, None)
    teacher_adapter = None if teacher_head is None else adapter_class(teacher_head)
    if teacher_adapter is not None and adapter.aligns_with(teacher_adapter):
        return adapter(student, teacher, path, **_checked(options, head, adapter))
    if not is_two_stage(teacher):
        found = 'no head there' if teacher_head is None else type(teacher_head).__name__
        raise ValueError(
            f"the student's {path} is a {type(head).__name__}, the teacher ({type(teacher).__name__}) has "
            f'{found}: their logits cannot be aligned. Use a teacher of the same head family, or a two-stage '
            "detector, which scores any student's boxes"
        )
    checked = _checked(options, head, RoITeacherAdapter, adapter)
    return RoITeacherAdapter(student, teacher, path, adapter, **checked)


def _checked(
    options: Mapping[str, Any] | None, head: nn.Module, *adapters: type[HeadAdapter]
) -> dict[str, Any]:
    """The options, each of which one of the adapters must have."""
    options = dict(options or {})
    known = [name for adapter in adapters for name in _options(adapter)]
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(
            f'model.head: {adapters[0].__name__}, which serves {type(head).__name__}, has no option '
            f'{", ".join(unknown)}; its options are: {", ".join(known) or "none"}'
        )
    return options


def _options(adapter: type[HeadAdapter]) -> list[str]:
    """Keyword-only parameters of the adapter's constructor."""
    parameters = inspect.signature(adapter).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
