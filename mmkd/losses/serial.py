"""AEKT's serial layer, and how it is folded into the class layers of the student's head."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import Conv2d, Linear
from torch import Tensor, nn

from mmkd.functional.aekt import fold_serial_layer

Fold = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_CLASS_LAYER = re.compile(
    r'retina_cls|atss_cls|gfl_cls|vfnet_cls|rtm_cls(\.\d+)?|reppoints_cls_out|multi_level_conv_cls\.\d+|conv_cls|'
    r'bbox_head(\.\d+)?\.fc_cls|fc_cls|cls_branches\.\d+|fc|fc2|head|head\.linear|layers\.head|layers\.head_dist|'
    r'layers\.\d+\.fc'
)
"""Names of the layers that output class logits in MMDetection's and MMPretrain's heads."""
_LAST_IN_CLASS_LAYERS = re.compile(r'cls_convs\.\d+|heatmap_head')
"""Sequences whose last layer outputs the class logits: SSD's, one per level, and CenterNet's."""


class SerialLayer(nn.Module):
    """``z = W s + b`` with ``W = I + D``: the layer between the task's logits and the distilled ones.

    With ``'task_then_distill'``, s are the task's logits; with ``'distill_then_task'``, z are.

    D and b are trained and start at 0. So the layer starts as the identity, and weight decay pulls it back to the
    identity, not to zero. ``W[i, j]`` is the contribution of class j's logit to class i.

    Args:
        num_logits: C, the number of logits.

    Attributes:
        learns: Whether :meth:`fold` passes gradients on to D and b.
    """

    def __init__(self, num_logits: int) -> None:
        super().__init__()
        self.learns = True
        self.offset = nn.Parameter(torch.zeros(num_logits, num_logits))
        self.bias = nn.Parameter(torch.zeros(num_logits))

    def forward(self, logits: Tensor) -> Tensor:
        """(S, C) logits s to (S, C) logits z."""
        return logits + F.linear(logits, self.offset, self.bias)

    def invert(self, logits: Tensor) -> Tensor:
        """(S, C) logits z to (S, C) logits s = (I + D)^-1 (z - b), to rounding, in at least float32."""
        offset, bias = self._parts()
        dtype = torch.promote_types(logits.dtype, offset.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            matrix = torch.eye(len(bias), dtype=dtype, device=bias.device) + offset
            right = (logits.to(dtype) - bias).T
            solved, _ = torch.linalg.solve_ex(matrix, right)  # solve() would wait for the device
            return solved.T

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of a class layer followed by this layer.

        See :func:`mmkd.functional.aekt.fold_serial_layer`. Computed in full precision, also under autocast, so that
        training uses the same numbers that an export writes.
        """
        with torch.autocast(weight.device.type, enabled=False):
            return fold_serial_layer(weight, bias, *self._parts())

    def fold_into(self, head: nn.Module) -> None:
        """Make the class layers of a head run with this layer folded into their weights.

        Raises:
            ValueError: The head has no suitable class layers, or another layer is already folded into them.
        """
        layers = class_layers(head, len(self.bias))
        if any(isinstance(layer.forward, FoldedClassLayer) for layer in layers.values()):
            raise ValueError('a head takes one serial layer, and another loss has put one into it')
        for layer in layers.values():
            layer.forward = FoldedClassLayer(layer, self.fold)

    def _parts(self) -> tuple[Tensor, Tensor]:
        if self.learns:
            return self.offset, self.bias
        return self.offset.detach(), self.bias.detach()


class FoldedClassLayer:
    """Replaces the forward of one class layer, which then runs with folded weights; its class is not changed.

    Args:
        layer: A linear layer or a convolution with a bias.
        fold: Computes the weight and bias to run with from the layer's own.
    """

    def __init__(self, layer: Any, fold: Fold) -> None:
        self.layer = layer
        self.fold = fold

    def __call__(self, features: Tensor) -> Tensor:
        """The layer's output with folded weights."""
        weight, bias = self.fold(self.layer.weight, self.layer.bias)
        if isinstance(self.layer, nn.Conv2d):
            return self.layer._conv_forward(features, weight, bias)
        return F.linear(features, weight, bias)


def class_layers(head: nn.Module, num_logits: int) -> dict[str, Any]:
    """The layers of a head that output its class logits, by name, each once.

    Args:
        head: A head of MMDetection or MMPretrain.
        num_logits: C, the number of logits.

    Raises:
        ValueError: There are none, or one is not a linear layer with a bias and A * C outputs.
    """
    kind = type(head).__name__
    layers: dict[str, Any] = {}
    for name, module in head.named_modules():
        if _LAST_IN_CLASS_LAYERS.fullmatch(name) and isinstance(module, nn.Sequential):
            name, module = f'{name}.{len(module) - 1}', module[-1]
        elif not _CLASS_LAYER.fullmatch(name) or isinstance(module, nn.ModuleList):
            continue
        layers[name] = module
    stacked = [name for name in layers if name.startswith('layers.') and name.endswith('.fc')]
    for name in stacked[:-1]:  # hidden layers
        del layers[name]
    if getattr(head, 'as_two_stage', False):  # the last branch scores the encoder's proposals
        branches: Any = head.cls_branches
        layers.pop(f'cls_branches.{len(branches) - 1}', None)
    if getattr(head, 'with_objectness', False):
        raise ValueError(
            f"{kind} mixes an objectness into its class logits: use serial='task_then_distill'"
        )
    if not layers:
        raise ValueError(
            f'{kind} has no layer that is known to output its class logits: use '
            "serial='task_then_distill' (TOOD, YOLOF and Conformer make their logits of what several layers output)"
        )
    for name, layer in layers.items():
        if type(layer) not in (nn.Linear, nn.Conv2d, Linear, Conv2d) or layer.bias is None:
            raise ValueError(
                f'{name} of {kind} is a {type(layer).__name__}: only a linear layer or convolution with a bias '
                "can take another linear layer into its weights. Use serial='task_then_distill'"
            )
        if len(layer.weight) % num_logits:
            raise ValueError(
                f'{name} of {kind} outputs {len(layer.weight)} channels, which are no blocks of '
                f"{num_logits} logits. Use serial='task_then_distill'"
            )
    return layers
