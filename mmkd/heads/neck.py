"""Feature pairs from the necks of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.structures import FeaturePair, Step

_PROBE_SIZE = 128
"""Pixels of the blank image; the stride of most detectors' deepest level."""


class NeckAdapter:
    """Pairs the neck's outputs level by level.

    Args:
        student: The student.
        teacher: The teacher's network.
        loss: Name of a loss that asks for features, for the error.

    Attributes:
        channels: Channels of student and teacher, one pair per feature level.

    Raises:
        ValueError: Student or teacher has no neck, or they have other numbers of levels.
    """

    taps: Mapping[str, str] = {'neck': 'neck'}

    def __init__(self, student: nn.Module, teacher: nn.Module, loss: str) -> None:
        for role, model in (('student', student), ('teacher', teacher)):
            if getattr(model, 'neck', None) is None:
                raise ValueError(
                    f'model.losses.{loss} compares neck features, but the {role} '
                    f'({type(model).__name__}) has no neck: give it one, or take a loss on logits'
                )
        levels = _zip_levels(_probe(student), _probe(teacher))
        self.channels = [(ours.shape[1], theirs.shape[1]) for ours, theirs in levels]

    def feature_pairs(self, step: Step) -> list[FeaturePair]:
        """One pair per level.

        Raises:
            ValueError: Other number of levels, or a level of another shape.
        """
        levels = _zip_levels(step.record('neck')[0], step.teacher_features)
        for level, (ours, theirs) in enumerate(levels):
            if ours.shape != theirs.shape:
                raise ValueError(
                    f'neck level {level}: student {tuple(ours.shape)}, teacher {tuple(theirs.shape)}: '
                    'the necks need the same out_channels and strides'
                )
        return [FeaturePair(level, ours, theirs) for level, (ours, theirs) in enumerate(levels)]


def _zip_levels(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    if len(student_maps) != len(teacher_maps):
        raise ValueError(
            f"the student's neck gives {len(student_maps)} levels, the teacher's "
            f'{len(teacher_maps)}: set num_outs of both necks alike'
        )
    return list(zip(student_maps, teacher_maps, strict=True))


@torch.no_grad()
def _probe(model: Any) -> Sequence[Tensor]:
    """Neck outputs of a blank image; necks do not say alike how many channels their levels have.

    In eval mode, set and reset module by module: it changes no running statistics, and ``model.train()`` of a
    backbone may do more than set the mode.
    """
    modes = {module: module.training for module in model.modules()}
    reference = next(model.parameters())
    for module in modes:
        module.training = False
    try:
        blank = reference.new_zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE)
        return model.extract_feat(blank)
    finally:
        for module, mode in modes.items():
            module.training = mode
