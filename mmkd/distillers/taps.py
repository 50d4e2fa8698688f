"""Taps: record what passes through a module or a method while the student computes its own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class OutputTap:
    """Forward hook that keeps a module's outputs while it is recording."""

    def __init__(self, module: nn.Module) -> None:
        self.recorded: list[Any] | None = None
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Called by PyTorch after the module's forward."""
        if self.recorded is not None:
            self.recorded.append(output)


class MethodTap:
    """Stands in for a method of one instance and keeps what it returns while it is recording.

    The class stays as it is: only this instance's attribute is shadowed.
    """

    def __init__(self, owner: nn.Module, name: str) -> None:
        self.recorded: list[Any] | None = None
        self.method: Callable[..., Any] = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; record its result."""
        result = self.method(*args, **kwargs)
        if self.recorded is not None:
            self.recorded.append(result)
        return result


class Taps:
    """The taps of one student, attached once, recording only within :meth:`recording`.

    Args:
        student: The module that the paths start from.
        paths: Tap name to a module's path (``'bbox_head'``: its outputs) or a method's
            (``'bbox_head._get_targets_single()'``: its results).
    """

    def __init__(self, student: nn.Module, paths: dict[str, str]) -> None:
        self._taps: dict[str, OutputTap | MethodTap] = {}
        for name, path in paths.items():
            if path.endswith('()'):
                owner, _, method = path.removesuffix('()').rpartition('.')
                self._taps[name] = MethodTap(student.get_submodule(owner), method)
            else:
                self._taps[name] = OutputTap(student.get_submodule(path))

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[Any]]]:
        """Record within the block; yields tap name to the list of what it saw, in order."""
        records: dict[str, list[Any]] = {name: [] for name in self._taps}
        try:
            for name, tap in self._taps.items():
                tap.recorded = records[name]
            yield records
        finally:
            for tap in self._taps.values():
                tap.recorded = None
