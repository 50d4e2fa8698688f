"""Folds the batch norms of a frozen network into the convolutions before them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_CONVOLUTIONS = (nn.Conv2d, Conv2d)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def has_batch_norms(model: nn.Module) -> bool:
    """Whether there is a batch norm to fold."""
    return any(type(module) in _NORMS for module in model.modules())


@torch.no_grad()
def fuse_batch_norms(
    model: nn.Module, run: Callable[[], list[Tensor]], keep: Collection[str] = ()
) -> int:
    """Fold, in place, each batch norm into a convolution whose output nothing else reads.

    A run of the network shows the pairs. Neither names nor order of the modules would: a batch norm may come before
    its convolution, and levels with batch norms of their own may share convolutions. Each folded batch norm is replaced
    by an identity. If the outputs change by more than rounding, everything is undone.

    Args:
        model: A network in eval mode.
        run: Runs it on an image and returns its outputs.
        keep: Paths of modules whose own outputs are needed.

    Returns:
        Number of batch norms that were folded.
    """
    kept = [model.get_submodule(path) for path in keep]
    before, pairs = _pairs(model, run)
    pairs = {conv: norm for conv, norm in pairs.items() if conv not in kept}
    originals = {conv: (conv.weight, conv.bias) for conv in pairs}
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if child in pairs.values()
    ]
    for conv, norm in pairs.items():
        statistics = (norm.running_mean.double(), norm.running_var.double(), norm.eps)
        affine = (_double(norm.weight), _double(norm.bias))
        weight, bias = fuse_conv_bn_weights(
            conv.weight.double(), _double(conv.bias), *statistics, *affine
        )
        conv.weight, conv.bias = (
            nn.Parameter(each.to(conv.weight), requires_grad=False) for each in (weight, bias)
        )
    for parent, name, _ in places:
        setattr(parent, name, nn.Identity())
    exact = all(conv.weight.dtype in (torch.float32, torch.float64) for conv in pairs)
    tolerance = 1e-3 if exact else 0.2  # rounding to 8 bits adds up over the layers
    if all(_close(*outputs, tolerance) for outputs in zip(before, run(), strict=True)):
        return len(pairs)
    for conv, (weight, bias) in originals.items():
        conv.weight, conv.bias = weight, bias
    for parent, name, child in places:
        setattr(parent, name, child)
    print_log(
        f'{type(model).__name__}: its batch norms are not folded into its convolutions, because its outputs would '
        'change: a module may read the input of a batch norm',
        'current',
    )
    return 0


def _pairs(
    model: nn.Module, run: Callable[[], list[Tensor]]
) -> tuple[list[Tensor], dict[Any, Any]]:
    """The network's outputs, and the convolutions whose outputs all go into one and the same batch norm."""
    made: dict[
        int, tuple[Tensor, int, nn.Module]
    ] = {}  # tensors are kept, so that none has the id of another
    read_by: dict[nn.Module, list[nn.Module]] = {}
    reads: dict[nn.Module, list[nn.Module | None]] = {}

    def after_convolution(conv: nn.Module, args: Any, output: Tensor) -> None:
        made[id(output)] = (output, output._version, conv)
        read_by.setdefault(conv, [])

    def before_norm(norm: nn.Module, args: tuple[Tensor]) -> None:
        _, version, conv = made.get(id(args[0]), (None, -1, None))
        if (
            conv is not None and version == args[0]._version
        ):  # else an operation changed it in place
            read_by[conv].append(norm)
        else:
            conv = None
        reads.setdefault(norm, []).append(conv)

    with ExitStack() as hooks:
        for module in model.modules():
            handle = None
            if type(module) in _CONVOLUTIONS and 'weight' in module._parameters:
                handle = module.register_forward_hook(after_convolution)
            elif type(module) in _NORMS and module.running_mean is not None:
                handle = module.register_forward_pre_hook(before_norm)
            if handle is not None:
                hooks.callback(handle.remove)
        outputs = run()
    calls = [conv for _, _, conv in made.values()]
    return outputs, {
        conv: norms[0]
        for conv, norms in read_by.items()
        if len(norms) == calls.count(conv) and len({*norms}) == 1 and {*reads[norms[0]]} == {conv}
    }


def _double(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.double()


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    ours, theirs = ours.double(), theirs.double()
    return bool((ours - theirs).norm() <= tolerance * ours.norm())
