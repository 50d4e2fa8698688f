"""Feature pairs from the necks of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.structures import FeaturePair, Step

_PROBE_SIZES = (128, 384)
"""Pixels of the blank image: the stride of most detectors' deepest level; SSD's convolutions need more."""


class NeckAdapter:
    """Pairs the necks' outputs that have the same stride; a level that only one neck has is left out.

    Args:
        student: The student.
        teacher: The teacher's network.
        loss: Name of a loss that asks for features, for the error.

    Attributes:
        channels: Channels of student and teacher, one pair per common level, shallow to deep.
        strides: Pixels of the input per cell, one per common level.

    Raises:
        ValueError: Student or teacher has no neck, or no level is common to both.
    """

    taps: Mapping[str, str] = {'neck': 'neck'}

    def __init__(self, student: nn.Module, teacher: nn.Module, loss: str) -> None:
        for role, model in (('student', student), ('teacher', teacher)):
            if getattr(model, 'neck', None) is None:
                raise ValueError(
                    f'model.losses.{loss} compares neck features, but the {role} '
                    f'({type(model).__name__}) has no neck: give it one, or take a loss on logits'
                )
        ours, our_levels = _probe(student)
        theirs, their_levels = _probe(teacher)
        common = [key for key in our_levels if key in their_levels]
        our_strides, their_strides = (
            [key[0] for key in keys] for keys in (our_levels, their_levels)
        )
        if not common:
            raise ValueError(
                f"model.losses.{loss} compares neck features of equal stride, but the student's levels have strides "
                f"{our_strides}, the teacher's {their_strides}: give one neck a level of the other's, or take a loss "
                'on logits'
            )
        self.strides = [stride for stride, _ in common]
        self._pairs = [(our_levels[key], their_levels[key]) for key in common]
        self.channels = [(ours[i].shape[1], theirs[k].shape[1]) for i, k in self._pairs]
        if not len(common) == len(our_levels) == len(their_levels):
            print_log(
                f"neck features of strides {self.strides} are distilled: the student's levels have {our_strides}, "
                f"the teacher's {their_strides}",
                'current',
            )

    def feature_pairs(self, step: Step) -> list[FeaturePair]:
        """One pair per common level, of equal height and width.

        Where the two differ by what one network pads more or by rounding, both are cut to the cells that both have:
        padding is at the right and the bottom.
        """
        ours, theirs = step.record('neck')[0], step.teacher_features
        pairs = []
        for level, (i, k) in enumerate(self._pairs):
            height, width = (
                min(sizes) for sizes in zip(ours[i].shape[-2:], theirs[k].shape[-2:], strict=True)
            )
            pairs.append(
                FeaturePair(level, ours[i][..., :height, :width], theirs[k][..., :height, :width])
            )
        return pairs


def _levels(maps: Sequence[Tensor], size: int) -> dict[tuple[int, int], int]:
    """Stride of a level, and how many levels before it have the same, to its position."""
    strides = [size // level.shape[-1] for level in maps]
    return {
        (stride, strides[:position].count(stride)): position
        for position, stride in enumerate(strides)
    }


@torch.no_grad()
def _probe(model: Any) -> tuple[Sequence[Tensor], dict[tuple[int, int], int]]:
    """Neck outputs of a blank image; necks do not say alike how many channels and which strides their levels have.

    In eval mode, set and reset module by module: it changes no running statistics, and ``model.train()`` of a
    backbone may do more than set the mode.

    Returns:
        The maps, and the position of each level by its stride as :func:`_levels` says it.

    Raises:
        ValueError: The network takes images of none of the sizes.
    """
    modes = {module: module.training for module in model.modules()}
    reference = next(model.parameters())
    for module in modes:
        module.training = False
    try:
        for size in _PROBE_SIZES:
            try:
                maps = model.extract_feat(reference.new_zeros(1, 3, size, size))
            except RuntimeError as error:
                failure = error
            else:
                return maps, _levels(maps, size)
    finally:
        for module, mode in modes.items():
            module.training = mode
    raise ValueError(
        f'{type(model).__name__} takes no blank image of {" or ".join(map(str, _PROBE_SIZES))} px, by which the levels '
        f'of its neck are looked at ({failure}): losses on features cannot be used with it'
    ) from failure
