"""The same pixels for both: turns the student's normalised input into the teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn


class PixelConverter:
    """Student's input to teacher's input: mean, std, channel order, padding value and size divisor.

    Per channel x_t = (x_s * std_s + mean_s - mean_t) / std_t, after reversing the channels when only one of the two
    converts BGR to RGB. Padded pixels get the teacher's pad value. Augmentation has happened before, once, for both.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's data preprocessor.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        mean_s, std_s, flip_s = _normalisation(student)
        mean_t, std_t, flip_t = _normalisation(teacher)
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

    @torch.no_grad()
    def __call__(self, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Convert a batch.

        Args:
            inputs: (B, 3, H, W) the student's input.
            data_samples: B data samples; ``img_shape`` tells padding from image.

        Returns:
            (B, 3, H', W') the teacher's input: ``inputs`` itself when both agree, H' and W' at least H and W.
        """
        outputs = inputs.flip(1) if self.flip else inputs
        if self.affine:
            scale = self.scale.to(inputs).view(1, -1, 1, 1)
            shift = self.shift.to(inputs).view(1, -1, 1, 1)
            outputs = outputs * scale + shift
        if self.repad and data_samples:
            outputs = outputs.clone() if outputs is inputs else outputs
            for image, sample in zip(outputs, data_samples, strict=True):
                height, width = sample.metainfo.get('img_shape', image.shape[-2:])[:2]
                image[:, height:] = self.pad_value
                image[:, :, width:] = self.pad_value
        height, width = outputs.shape[-2:]
        pad_h = math.ceil(height / self.divisor) * self.divisor - height
        pad_w = math.ceil(width / self.divisor) * self.divisor - width
        if pad_h or pad_w:
            outputs = F.pad(outputs, (0, pad_w, 0, pad_h), value=self.pad_value)
        return outputs


def _normalisation(preprocessor: Any) -> tuple[Tensor, Tensor, bool]:
    """(3,) mean and std in the order of the network's channels, and whether the image's channels were reversed."""
    if getattr(preprocessor, '_enable_normalize', False):
        mean = preprocessor.mean.detach().double().flatten().cpu()
        std = preprocessor.std.detach().double().flatten().cpu()
        mean, std = mean.expand(3), std.expand(3)
    else:
        mean, std = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    if isinstance(preprocessor, ImgDataPreprocessor):
        return mean, std, bool(preprocessor._channel_conversion)
    return mean, std, bool(getattr(preprocessor, 'to_rgb', False))  # mmpretrain's
