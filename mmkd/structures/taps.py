"""Taps: record what passes through a module or a method of a network while it runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .requests import BEFORE_RELU, module_path

_RELUS = (nn.ReLU, nn.ReLU6)


class _EnoughError(Exception):
    """Everything wanted of this run is recorded."""


class OutputTap:
    """Forward hook that keeps a module's outputs while it is recording."""

    def __init__(self, module: nn.Module) -> None:
        self.recorded: list[Any] | None = None
        self.then: Callable[[], None] = _go_on
        self._handle = module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Called by PyTorch after the module's forward."""
        if self.recorded is not None:
            self.recorded.append(self._seen(output))
            self.then()

    def detach(self) -> None:
        """Take the hook off."""
        self._handle.remove()

    def _seen(self, output: Any) -> Any:
        """What is kept of an output."""
        return output


class BeforeReLUTap(OutputTap):
    """Keeps what the ReLU read that made an output of the module, and the output itself where none made it."""

    def __init__(self, module: nn.Module) -> None:
        # Output to input. Weak, so that no map lives longer than without the tap.
        self._inputs = WeakIdKeyDictionary()
        self._read: Tensor | None = None
        self._handles = [
            handle
            for relu in module.modules()
            if isinstance(relu, _RELUS)
            for handle in (
                relu.register_forward_pre_hook(self._before),
                relu.register_forward_hook(self._after),
            )
        ]
        super().__init__(module)  # last: the module may be the ReLU

    def detach(self) -> None:
        """Take all hooks off."""
        super().detach()
        for handle in self._handles:
            handle.remove()

    def _before(self, relu: Any, args: tuple[Tensor]) -> None:
        if self.recorded is not None:
            self._read = args[0].clone() if relu.inplace else args[0]

    def _after(self, relu: nn.Module, args: Any, output: Tensor) -> None:
        if self._read is not None:
            self._inputs[output], self._read = self._read, None

    def _seen(self, output: Any) -> Any:
        if isinstance(output, list | tuple):
            return [self._seen(each) for each in output]
        return self._inputs.get(output, output)


class MethodTap:
    """Wraps a method of one instance and keeps what it returns while it is recording.

    The class is not changed: an attribute of the instance shadows its method.
    """

    def __init__(self, owner: object, name: str) -> None:
        self.recorded: list[Any] | None = None
        self.method: Callable[..., Any] = getattr(owner, name)
        self._owner, self._name, self._shadowed = owner, name, name in vars(owner)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; record its result."""
        result = self.method(*args, **kwargs)
        if self.recorded is not None:
            self.recorded.append(result)
        return result

    def detach(self) -> None:
        """Restore the method, unless something else has replaced the tap."""
        if vars(self._owner).get(self._name) is not self:
            return
        if self._shadowed:
            setattr(self._owner, self._name, self.method)
        else:
            delattr(self._owner, self._name)


class ArgumentTap(MethodTap):
    """Wraps a method of one instance and keeps its arguments, by parameter name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record the arguments; call the method."""
        if self.recorded is not None:
            bound = inspect.signature(self.method).bind(*args, **kwargs)
            self.recorded.append(bound.arguments)
        return self.method(*args, **kwargs)


class Taps:
    """The taps of one network, attached once, recording only within :meth:`recording`.

    Args:
        network: The module that the paths start from.
        paths: Tap name to a module's path (``'bbox_head'``: its outputs; ``'backbone.layer1.before_relu'``: what
            the ReLU reads that it ends with) or a method's
            (``'bbox_head._get_targets_single()'``: its results; ``'bbox_head.loss(...)'``: its arguments).
            The owner of a method may be any object, such as a head's assigner. Of two taps of one method the one
            on its arguments comes first.
    """

    def __init__(self, network: nn.Module, paths: Mapping[str, str]) -> None:
        self._taps: dict[str, OutputTap | MethodTap] = {}
        for name, path in paths.items():
            target, parenthesis, inside = path.partition('(')
            if not parenthesis:
                module = network.get_submodule(module_path(target))
                self._taps[name] = (
                    BeforeReLUTap(module) if target.endswith(BEFORE_RELU) else OutputTap(module)
                )
                continue
            owner, _, method = target.rpartition('.')
            kind = MethodTap if inside == ')' else ArgumentTap
            self._taps[name] = kind(_resolve(network, owner), method)

    @contextmanager
    def recording(self, enough: Mapping[str, int] | None = None) -> Iterator[dict[str, list[Any]]]:
        """Record within the block; yields tap name to the list of what it saw, in order.

        Args:
            enough: Tap name to a number of outputs. The block ends once each of these taps has seen its number; what
                follows in the block, such as the rest of the network, does not run.
        """
        records: dict[str, list[Any]] = {name: [] for name in self._taps}

        def end_if_enough() -> None:
            if enough and all(len(records[name]) >= count for name, count in enough.items()):
                raise _EnoughError

        try:
            for name, tap in self._taps.items():
                tap.recorded = records[name]
                if isinstance(tap, OutputTap):
                    tap.then = end_if_enough
            yield records
        except _EnoughError:
            pass
        finally:
            for tap in self._taps.values():
                tap.recorded = None
                if isinstance(tap, OutputTap):
                    tap.then = _go_on  # the recorded lists now belong to the caller

    def detach(self) -> None:
        """Remove all taps, the last one first: one method may have two."""
        for tap in reversed(self._taps.values()):
            tap.detach()


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Set eval mode within the block. Done module by module, as a backbone's ``train()`` may do more than that."""
    modes = {child: child.training for module in modules for child in module.modules()}
    for child in modes:
        child.training = False
    try:
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def _go_on() -> None:
    pass


def _resolve(network: nn.Module, path: str) -> object:
    """The object at a dotted path. Not ``get_submodule``: assigners and coders are no modules."""
    return functools.reduce(getattr, path.split('.') if path else [], network)
