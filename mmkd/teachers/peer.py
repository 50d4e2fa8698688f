"""A teacher that is trained beside the student, each by the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from torch import Tensor, nn
from typing_extensions import override

from mmkd.heads import build_head_adapter
from mmkd.heads.features import flat, tap_path
from mmkd.heads.tapped import TappedNetwork
from mmkd.losses import DistillLoss, GradientShares
from mmkd.losses.base import idle
from mmkd.losses.gradient_shares import NAME as SHARES
from mmkd.losses.gradient_shares import shares_of
from mmkd.registry import LOSSES, TEACHERS, build
from mmkd.structures import NECK, ClassMap, Progress, Step, TeacherPass, evaluating

from .base import Teacher
from .frozen import build_network, load_config
from .isolation import isolated_rng

Result = TypeVar('Result')
Watch = Callable[[str, Tensor, Progress, Step], None]

STUDENT = 'student'
"""Name of the student as the teacher of its peer."""
_FEATURES = 'extract_feat'


@TEACHERS.register_module()
class PeerTeacher(Teacher):
    """A second network that learns beside the student, from the ground truth and from the student (DML, CVPR 2018).

    It trains on the student's pixels, with its own loss and with ``losses``, whose teacher is the student. In turn it
    teaches the student's losses; for mutual learning both sides use the same kind of loss. Both networks run once per
    step, in training mode, and see each other's outputs without gradient. The log shows its losses as
    ``<name>.loss_...``.

    Its weights are in the optimizer and in checkpoints, as ``distill.<name>.*``; an export leaves them out. It trains
    in steps in which a loss of the student has a weight other than 0.

    Args:
        config: The peer's config, see :class:`FrozenTeacher`; it starts with the weights that its ``init_cfg`` names.
        losses: Name to loss config, like ``model.losses``.
        student: The student.

    Raises:
        ValueError, TypeError, FileNotFoundError: Config or losses cannot be built or do not suit this pair; or the peer
            has other classes than the student, whose ground truth it learns.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | Config,
        losses: Mapping[str, Mapping[str, Any]],
        *,
        student: Any,
    ) -> None:
        with isolated_rng():
            # Another seed, or it could start as a copy of the student. Only the CPU's generator draws weights.
            torch.default_generator.manual_seed(torch.initial_seed() + 1)
            model = build_network(load_config(config))
            model.init_weights()
            built: dict[str, DistillLoss] = {
                name: build(
                    LOSSES, dict(options, teacher=STUDENT), where=f'model.teacher.losses.{name}'
                )
                for name, options in losses.items()
            }
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            super().__init__(model, student)
            for parameter in trained:
                parameter.requires_grad_(True)
            model.train()
            self._check_classes(student)
            try:
                self._tapped = TappedNetwork(model, {STUDENT: student}, built)
                shares = GradientShares(model, built) if shares_of(built) else None
            except ValueError as error:
                text = str(error).removeprefix('model.losses.')
                raise ValueError(f'model.teacher.losses: {text}') from None
        self._module = nn.ModuleDict(dict(model=model, losses=nn.ModuleDict(built)))
        if shares is not None:
            self._module[SHARES] = shares
        self._weights: dict[str, float] = {}
        self._pixels: Tensor | None = None
        self._task: dict[str, Any] = {}
        self._records: dict[str, list[Any]] = {}

    @property
    @override
    def module(self) -> nn.Module:
        return self._module

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Do nothing: the peer moves with the modules that are trained."""

    @override
    def tap(self, paths: Sequence[str], only: bool = False) -> None:
        """Tap the peer's own training step."""
        self._tapped.also_tap(guest_taps(paths))

    @property
    def asks(self) -> list[str]:
        """The student's modules whose outputs the peer's losses ask for."""
        return self._tapped.paths(STUDENT)[0]

    @override
    def begin_step(self, progress: Progress) -> None:
        for name, loss in self._tapped.losses.items():
            self._weights[name] = loss.weight(progress)
            loss.begin_step(active=bool(self._weights[name]))

    def on(self, inputs: Tensor, data_samples: Sequence[Any], classes: ClassMap) -> RecordedPass:
        """Run the peer's training step and return a pass over its outputs."""
        self._pixels = self.convert_pixels(inputs, data_samples)
        self._task, self._records = self._tapped.loss(self._pixels, data_samples)
        return RecordedPass(self.model, self._records, inputs, classes)

    def learn(
        self,
        data_samples: Sequence[Any],
        student: RecordedPass,
        progress: Progress,
        watch: Watch,
    ) -> dict[str, Any]:
        """The peer's own losses in the step that :meth:`on` ran, and its distillation losses.

        Args:
            data_samples: The batch's data samples.
            student: The student's step, which teaches the peer.
            progress: How far training has come.
            watch: Checks the value of each of ``losses``, see :meth:`LossWatch.check`.
        """
        assert self._pixels is not None
        step: Step = self._tapped.step(
            self._pixels, data_samples, self._records, {STUDENT: student}, progress
        )
        losses = dict(self._task)
        values = {
            name: loss(step) for name, loss in self._tapped.losses.items() if self._weights[name]
        }
        weights: dict[str, float | Tensor] = {**self._weights}
        if SHARES in self._module:
            weights |= self._module[SHARES].weights(  # type: ignore[operator]
                self.model, self._task, 1.0, values, self._weights, progress
            )
        for name, loss in self._tapped.losses.items():
            if name in values:
                losses[f'loss_{name}'] = weights[name] * values[name]
                watch(f'loss_{name}', losses[f'loss_{name}'], progress, step)
            elif (zero := idle(loss)) is not None:
                losses[f'loss_{name}'] = zero
        self._task, self._records, self._pixels = {}, {}, None
        return losses

    def _check_classes(self, student: Any) -> None:
        try:
            ours, theirs = (
                build_head_adapter(network, network).num_classes
                for network in (student, self.model)
            )
        except (
            ValueError
        ):  # no adapter knows the head, which only losses on features can do without
            return
        self.check_num_classes(ours, theirs)

    def release(self) -> int:
        """Nothing: what the peer has learned stays in the checkpoint."""
        self.released = True
        return 0

    def _share_memory(self, memo: dict[int, Any]) -> None:
        """Share nothing: the peer is trained, and copied with the modules that are."""


@dataclass
class RecordedPass(TeacherPass):
    """A network as a teacher, from the outputs of its own training step; at most its head runs again.

    Attributes:
        model: The network.
        records: What the taps of :func:`guest_taps` recorded.
        inputs: (B, 3, H, W) the student's normalised input.
        classes: Maps the logits of the network's head to the student's classes.
    """

    model: Any
    records: Mapping[str, list[Any]]
    inputs: Tensor
    classes: ClassMap

    @cached_property
    @override
    def features(self) -> tuple[Tensor, ...]:
        return _detached(self.records[_FEATURES][0])

    @override
    def features_at(self, path: str) -> list[Tensor]:
        outputs = [self.features] if path == NECK else self.records[_guest(path)]
        return flat(_detached(outputs))

    @override
    def run(self, function: Callable[[Any], Result], *, gradient: bool = False) -> Result:
        enabled = gradient and torch.is_grad_enabled()
        with torch.set_grad_enabled(enabled), evaluating(self.model), _constant(self.model):
            return function(self.model)


def guest_taps(paths: Sequence[str]) -> dict[str, str]:
    """The taps on a network's own step that a :class:`RecordedPass` of it reads."""
    return {_FEATURES: 'extract_feat()'} | {_guest(path): tap_path(path) for path in paths}


@contextmanager
def _constant(model: nn.Module) -> Iterator[None]:
    """Within the block, gradients flow through the network but not into its weights, which others train."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _guest(path: str) -> str:
    return f'guest {path}'


def _detached(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.detach()
    return type(outputs)(_detached(output) for output in outputs)
