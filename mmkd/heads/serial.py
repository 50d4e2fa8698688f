"""A linear layer in series with the student's class layers: the task sees what is behind it, the losses what is before.

The layer is folded into the weights that the class layers run with, so that training, validation and the exported
student compute the same numbers; what the class layers would put out without it is computed for the losses only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import Conv2d, Linear
from torch import Tensor, nn

from mmkd.structures import Step

Fold = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Weight and bias of a class layer to those that it runs with."""

SUPPORTED = (
    "dense and point heads but TOOD's and YOLOF's, RoI heads, DETR and its kin, Sparse R-CNN, and MMPretrain's "
    'heads that end in a linear layer'
)


class FoldedClassLayer:
    """Stands in for the forward of one class layer, which runs with folded weights; the class stays as it is.

    Args:
        layer: A linear layer or a convolution with a bias.
        fold: Makes the weights that it runs with of its own.
    """

    def __init__(self, layer: Any, fold: Fold) -> None:
        self.layer = layer
        self.fold = fold
        layer.forward = self

    def __call__(self, features: Tensor) -> Tensor:
        """What the layer puts out with its folded weights."""
        return self._run(features, *self.fold(self.layer.weight, self.layer.bias))

    def unfolded(self, features: Tensor) -> Tensor:
        """What the layer puts out with its own weights."""
        return self._run(features, self.layer.weight, self.layer.bias)

    def _run(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.layer, nn.Conv2d):
            return self.layer._conv_forward(features, weight, bias)
        return F.linear(features, weight, bias)


class ClassLayers:
    """The class layers of one head with a fold in them.

    Args:
        head: The student's head.
        path: Its name in the student.
        names: Names of its class layers, see :meth:`mmkd.heads.HeadAdapter.class_layers`.
        num_logits: C.
        fold: What is folded into them.

    Attributes:
        taps: Taps on what the layers take and put out, as :class:`mmkd.heads.HeadAdapter` names them.

    Raises:
        ValueError: There are no class layers, or they cannot take the fold.
    """

    def __init__(
        self, head: nn.Module, path: str, names: Sequence[str], num_logits: int, fold: Fold
    ) -> None:
        self._kind = type(head).__name__
        self._layers: list[FoldedClassLayer] = []
        self.taps: dict[str, str] = {}
        for name, layer in check_class_layers(head, names, num_logits).items():
            number = len(self._layers)
            self._layers.append(FoldedClassLayer(layer, fold))
            self.taps[f'class_layer_{number}_takes'] = f'{path}.{name}.forward(...)'
            self.taps[f'class_layer_{number}_gives'] = f'{path}.{name}.forward()'

    def unfolded(self, step: Step, logits: Tensor) -> Tensor:
        """The logits that the losses are to see, in the place of those that the head put out.

        Args:
            step: The step that recorded the class layers' calls.
            logits: What one call of a class layer put out, in any shape; or (M, C) rows of it, in any order.

        Returns:
            Of the shape of ``logits``, attached to the graph.

        Raises:
            RuntimeError: A class layer did not put out ``logits``.
        """
        for layer, features, output in self._calls(step):
            if logits is output or _is_reshaped(logits, output):
                return layer.unfolded(features).view(logits.shape)
        if logits.dim() == 2:
            return self._rows(step, logits)
        raise self._unknown(logits)

    def _rows(self, step: Step, rows: Tensor) -> Tensor:
        """Look up rows that were copied out of what the layers put out; copies have the same bits."""
        if not len(rows):
            return rows
        result = torch.zeros_like(rows)
        missing = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        for layer, features, output in self._calls(step):
            if (
                not output.requires_grad
            ):  # a look ahead without gradients, such as DDQ's choice of queries
                continue
            table = output.detach().flatten(0, -2).to(rows.dtype)
            of, at = (rows[:, :1] == table[:, 0]).nonzero(as_tuple=True)
            same = (rows[of] == table[at]).all(dim=1) & missing[of]
            if not same.any():
                continue
            places = torch.full_like(missing, -1, dtype=torch.long)
            places[of[same]] = at[same]
            found = (places >= 0).nonzero().flatten()
            unfolded = layer.unfolded(features).flatten(0, -2)
            result = result.index_put((found,), unfolded[places[found]].to(rows.dtype))
            missing[found] = False
        if missing.any():
            raise self._unknown(rows)
        return result

    def _calls(self, step: Step) -> Iterator[tuple[FoldedClassLayer, Tensor, Tensor]]:
        for number, layer in enumerate(self._layers):
            takes = step.records.get(f'class_layer_{number}_takes', ())
            gives = step.records.get(f'class_layer_{number}_gives', ())
            for arguments, output in zip(takes, gives, strict=True):
                yield layer, arguments['features'], output

    def _unknown(self, logits: Tensor) -> RuntimeError:
        return RuntimeError(
            f'{self._kind} changes what its class layers put out before it uses it as logits '
            f'{tuple(logits.shape)}: a layer in series with them cannot be separated from them. Use '
            f"serial='task_then_distill'; supported are {SUPPORTED}"
        )


def _is_reshaped(tensor: Tensor, of: Tensor) -> bool:
    """Whether both are the same numbers of the same memory in the same order."""
    same_memory = tensor.data_ptr() == of.data_ptr() and tensor.numel() == of.numel()
    return same_memory and tensor.is_contiguous() and of.is_contiguous()


def check_class_layers(head: nn.Module, names: Sequence[str], num_logits: int) -> Mapping[str, Any]:
    """The class layers of a head by name, each once.

    Args:
        head: The head.
        names: Names of its class layers.
        num_logits: C.

    Raises:
        ValueError: There are none, or one is not linear with a bias and A * C outputs.
    """
    kind = type(head).__name__
    if not names:
        raise ValueError(
            f'{kind} has no layer whose outputs are its class logits, or its adapter does not know it '
            f"(mmkd.heads.HeadAdapter.class_layers). Use serial='task_then_distill'; supported are {SUPPORTED}"
        )
    layers: dict[str, Any] = {}
    for name in names:
        layer: Any = head.get_submodule(name)
        if type(layer) not in (nn.Linear, nn.Conv2d, Linear, Conv2d) or layer.bias is None:
            raise ValueError(
                f'{name} of {kind} is a {type(layer).__name__}: only a linear layer or convolution with a bias '
                "can take another linear layer into its weights. Use serial='task_then_distill'"
            )
        if len(layer.weight) % num_logits:
            raise ValueError(
                f'{name} of {kind} puts out {len(layer.weight)} channels, which are no blocks of '
                f"{num_logits} logits. Use serial='task_then_distill'"
            )
        if layer not in layers.values():  # decoder layers may share one
            layers[name] = layer
    return layers
