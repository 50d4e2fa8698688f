"""Turns the student's normalised input into the teacher's, so that both see the same pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn


class PixelConverter:
    """Converts mean, std, channel order, padding value and size divisor from the student's to the teacher's.

    Per channel x_t = (x_s * std_s + mean_s - mean_t) / std_t, after reversing the channels when only one of the two
    converts BGR to RGB. Padded pixels get the teacher's pad value. Augmentation was applied before, once for
    both. That includes Mixup and CutMix, whose weights sum to 1.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's data preprocessor.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        mean_s, std_s, flip_s = normalisation(student)
        mean_t, std_t, flip_t = normalisation(teacher)
        self.flip = flip_s != flip_t
        if self.flip:  # the student's statistics, in the teacher's channel order
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self.scale = std_s / std_t
        self.shift = (mean_s - mean_t) / std_t
        self.affine = bool((self.scale != 1).any() or (self.shift != 0).any())
        self.pad_value = float(getattr(teacher, 'pad_value', 0))
        same_padding = self.pad_value == float(getattr(student, 'pad_value', 0))
        self.repad = self.affine or not same_padding
        self.divisor = int(getattr(teacher, 'pad_size_divisor', 1))
        self.student_divisor = int(getattr(student, 'pad_size_divisor', 1))
        self.shapes_may_be_stale = not isinstance(student, ImgDataPreprocessor)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Convert a batch.

        Args:
            inputs: (B, 3, H, W) the student's input.
            data_samples: B data samples, whose ``img_shape`` tells image from padding. MMPretrain's wrappers of
                torchvision's transforms do not update it, so shapes that contradict the batch's size are ignored.

        Returns:
            (B, 3, H', W') the teacher's input, with H' >= H and W' >= W; ``inputs`` itself if nothing differs.
        """
        outputs = inputs.flip(1) if self.flip else inputs
        if self.affine:
            scale = self.scale.to(inputs, non_blocking=True).view(1, -1, 1, 1)
            shift = self.shift.to(inputs, non_blocking=True).view(1, -1, 1, 1)
            outputs = outputs * scale + shift
        if self.repad and data_samples:
            outputs = outputs.clone() if outputs is inputs else outputs
            shapes = self._image_shapes(data_samples, *inputs.shape[-2:])
            for image, (height, width) in zip(outputs, shapes, strict=True):
                image[:, height:] = self.pad_value
                image[:, :, width:] = self.pad_value
        height, width = outputs.shape[-2:]
        pad_h = math.ceil(height / self.divisor) * self.divisor - height
        pad_w = math.ceil(width / self.divisor) * self.divisor - width
        if pad_h or pad_w:
            outputs = F.pad(outputs, (0, pad_w, 0, pad_h), value=self.pad_value)
        return outputs

    def _image_shapes(
        self, data_samples: Sequence[Any], height: int, width: int
    ) -> list[tuple[int, int]]:
        """Height and width of each image within its padding."""
        size = height, width
        shapes = [tuple(sample.metainfo.get('img_shape', size)[:2]) for sample in data_samples]
        if self.shapes_may_be_stale:
            divisor = self.student_divisor
            padded = tuple(
                math.ceil(max(sides) / divisor) * divisor for sides in zip(*shapes, strict=True)
            )
            if padded != size:
                return [size] * len(shapes)
        return shapes


def normalisation(preprocessor: Any) -> tuple[Tensor, Tensor, bool]:
    """(3,) or (1,) mean and std in the network's channel order, and whether the image's channels are reversed."""
    if getattr(preprocessor, '_enable_normalize', False):
        mean = preprocessor.mean.detach().double().flatten().cpu()
        std = preprocessor.std.detach().double().flatten().cpu()
    else:
        mean, std = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if isinstance(preprocessor, ImgDataPreprocessor):
        return mean, std, bool(preprocessor._channel_conversion)
    return mean, std, bool(getattr(preprocessor, 'to_rgb', False))  # mmpretrain's
