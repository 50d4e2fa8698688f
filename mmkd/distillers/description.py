"""Describes a distiller in words, for the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmkd.losses import DistillLoss, GradientShare
from mmkd.losses.gradient_shares import NAME as SHARES
from mmkd.losses.schedules import Constant, Schedule
from mmkd.structures import Features, Progress, Sources
from mmkd.teachers import FrozenTeacher

if TYPE_CHECKING:
    from .distiller import Distiller


def describe(model: Distiller, progress: Progress) -> dict[str, str]:
    """Name and description of each part: student, teachers with their classes and heads, losses.

    Args:
        model: The distiller. Its classes are matched with those of the run, if not done before.
        progress: How far training has come: losses are listed with their weight at this point.

    Raises:
        ValueError: The classes cannot be matched.
    """
    model.match_classes()
    parts = {'student': type(model.student).__name__}
    task = model._task_schedule
    if not isinstance(task, Constant) or task(progress) != 1:
        parts['task_weight'] = _describe_weight(task, progress)
    for name, teacher in model.teachers.items():
        of = f' {name}' if len(model.teachers) > 1 else ''
        parts[f'teacher{of}'] = teacher.description
        head = model._heads.get(name)
        if head is None:
            continue
        of = f' of{of}' if of else ''
        unnamed = isinstance(teacher, FrozenTeacher) and not teacher.classes
        parts[f'classes{of}'] = f"the student's {head.num_classes} are " + (
            "the teacher's, in the same order"
            + ', as far as is known: nothing names them' * unnamed
            if model._classes[name].columns is None
            else f"matched by name with the teacher's {head.num_teacher_classes}"
        )
        parts[f'head{of}'] = (
            f'{type(head).__name__} reads {type(head.student_head).__name__}, of the teacher '
            f'{type(head.teacher_head).__name__}'
        )
        if strides := _strides(head.student_head):
            parts[f'head{of}'] += f'; levels of strides {", ".join(map(str, strides))}'
    place = getattr(model.distill, SHARES).place if SHARES in model.distill else ''
    for name, loss in model.distill_losses.items():
        of = f' of {loss.teacher}' if len(model.teachers) > 1 else ''
        parts[f'loss_{name}'] = type(loss).__name__ + of
        parts[f'loss_{name}'] += _describe_loss(loss, model._tapped.sources, progress, place)
    return parts


def _strides(head: Any) -> list[Any]:
    """Strides of the levels that a dense or RoI head reads; empty for other heads."""
    generator = getattr(head, 'prior_generator', None)
    extractor = getattr(head, 'bbox_roi_extractor', None)
    strides = getattr(generator, 'strides', None) or getattr(extractor, 'featmap_strides', None)
    return [
        each[0] if isinstance(each, tuple) and len(set(each)) == 1 else each
        for each in strides or ()
    ]


def _describe_loss(loss: DistillLoss, sources: Sources, progress: Progress, place: str) -> str:
    if isinstance(loss.schedule, GradientShare):
        share = _describe_weight(loss.schedule.schedule, progress)
        text = f', share {share} of the gradient' + f' on {place}' * bool(place)
    else:
        text = f', weight {_describe_weight(loss.schedule, progress)}'
    sampler = getattr(loss, 'sampler', None)
    if sampler is not None:
        text += f', samples {_named(sampler)}'
    for request in loss.requests():
        if isinstance(request, Features):
            strides = sources.of(request).strides
            text += f', features at {request.at}, strides {", ".join(map(str, strides))}'
    return text


def _describe_weight(schedule: Schedule, progress: Progress) -> str:
    now = f'{schedule(progress):g}'
    return now if isinstance(schedule, Constant) else f'{now} now, {_named(schedule)}'


def _named(part: object) -> str:
    """A part with its options, if its repr shows them."""
    shown = repr(part)
    return type(part).__name__ if shown.startswith('<') else shown
