"""FGD on feature maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmcv.cnn import ContextBlock
from torch import Tensor, nn

from mmkd.functional import fgd_loss
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair, Step

from .features import FeatureLoss


@LOSSES.register_module()
class FGDLoss(FeatureLoss):
    """Objects and background apart, by the teacher's attention, and global relations (FGD, Yang et al., CVPR 2022).

    See :func:`mmkd.functional.fgd_loss`. The weights are options of their own, summed over the levels as published;
    ``weight`` multiplies them all. Each level has a context block (GCNet's) for the maps of the student and one for the
    teacher's. They are trained with the student and are a part of the loss: the student without them is the plain one.
    """

    function = staticmethod(fgd_loss)
    student_blocks: nn.ModuleList
    teacher_blocks: nn.ModuleList

    def _make_layers(self, channels: Mapping[int, tuple[int, int]]) -> None:
        """Make two blocks per level, of the teacher's width."""
        super()._make_layers(channels)
        self.student_blocks, self.teacher_blocks = (
            nn.ModuleList(ContextBlock(theirs, ratio=0.5) for _, theirs in channels.values())
            for _ in range(2)
        )

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """The sum over the levels."""
        blocks = zip(self.student_blocks, self.teacher_blocks, strict=True)
        levels = zip(self._arguments(pairs, step.objects), blocks, strict=True)
        values = [
            self._call(
                student,
                teacher,
                # mmcv's block looks at the map by a view
                student_context=ours(student.contiguous()),
                teacher_context=theirs(teacher.contiguous()),
                **given,
            )
            for ((student, teacher), given), (ours, theirs) in levels
        ]
        return torch.stack(values).sum()
