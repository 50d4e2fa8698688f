"""The base class of teachers: a network that is asked for its outputs in training steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from typing_extensions import override

from mmkd.heads.features import flat, run_to, tap_path
from mmkd.structures import (
    NECK,
    ClassMap,
    Progress,
    Request,
    Sources,
    Taps,
    TeacherPass,
)

from .pixels import PixelConverter
from .precision import compile_parts

Result = TypeVar('Result')


class Teacher:
    """Holds the teacher's network. It is deliberately not an ``nn.Module``.

    So it is in no state_dict, optimizer, EMA copy, DDP or FSDP wrapper, and ``model.train()`` does not reach it. The
    Distiller passes ``.to()``, ``.cuda()`` and ``.half()`` on to it. Copies of a distiller share the memory of their
    teachers' weights until one of them is moved or converted.

    Args:
        model: The network. It is frozen and set to eval mode.
        student: The student, whose preprocessed images the teacher gets.

    Attributes:
        model: The network.
        classes: Names of its classes in the order of its logits; None if they are not known.
        released: Whether the weights have been freed, see :meth:`release`.
    """

    def __init__(self, model: Any, student: Any) -> None:
        self.model: Any = model
        self.classes: tuple[str, ...] | None = None
        self.released = False
        self._copies = WeakSet([self])  # this one, and all copies that share or shared its memory
        self.model.requires_grad_(False)
        self.model.eval()
        self._precision: Callable[[torch.device], AbstractContextManager[Any]] = _as_the_student
        self.convert_pixels = PixelConverter(student.data_preprocessor, model.data_preprocessor)
        self.taps = Taps(model, {})
        self.ends_at_taps = False
        self._calls: dict[str, int] | None = None

    def tap(self, paths: Sequence[str], only: bool = False) -> None:
        """Record the outputs of some modules in every step.

        Args:
            paths: Paths of the modules.
            only: Nothing else is asked of the teacher, and all of them are in backbone or neck: the network need not
                run further than the last of them.
        """
        self.taps.detach()
        self.taps = Taps(self.model, {path: tap_path(path) for path in paths})
        self.ends_at_taps = only

    def compile(self, options: Mapping[str, Any]) -> None:
        """Compile parts of the network, see :func:`compile_parts`. Compiled parts always run to their end."""
        compile_parts(self.model, options)
        self.ends_at_taps = False

    @property
    def can_predict(self) -> bool:
        """Whether :meth:`predict` can be used."""
        return not self.released

    @property
    def module(self) -> nn.Module | None:
        """The part saved with the student's checkpoints, as ``distill.<name>.*``; None if there is none."""
        return None

    @property
    def description(self) -> str:
        """A description for the log."""
        return f'{type(self.model).__name__}, {type(self).__name__}'

    def begin_step(self, progress: Progress) -> None:
        """Called before every training step, even if no loss asks the teacher."""

    def on(self, inputs: Tensor, data_samples: Sequence[Any], classes: ClassMap) -> TeacherPass:
        """The teacher on the batch of a step.

        Args:
            inputs: (B, 3, H, W) the student's normalised input.
            data_samples: The batch's data samples.
            classes: Maps the teacher's classes to the student's.
        """
        return LivePass(self, inputs, data_samples, classes)

    @torch.no_grad()
    def features(self, inputs: Tensor, data_samples: Sequence[Any]) -> tuple[Tensor, ...]:
        """Backbone and neck on the student's input, see :meth:`on`.

        Returns:
            The feature maps of ``extract_feat``, shallow to deep.
        """
        if next(self.model.parameters()).device != inputs.device:
            self.model.to(inputs.device)  # FSDP moves the student's parameters one by one
        with self.precision():
            return self.model.extract_feat(self.convert_pixels(inputs, data_samples))

    def tapped(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, list[Any]]:
        """What the taps record on the student's input. After the first call, the network stops at the last tap."""
        with self.taps.recording(self._calls) as records:
            self.features(inputs, data_samples)
        self._calls = {path: len(outputs) for path, outputs in records.items()}
        return records

    def precision(self) -> AbstractContextManager[Any]:
        """A context in which every part of the teacher computes in the teacher's dtype."""
        return self._precision(next(self.model.parameters()).device)

    @torch.no_grad()
    def predict(self, data: Any, classes: ClassMap) -> list[Any]:
        """The teacher's predictions, with its own data preprocessor and test settings.

        Args:
            data: A batch as a dataloader yields it, before normalisation.
            classes: Maps the teacher's classes to the student's.

        Returns:
            Data samples with predictions in the student's classes; predictions of other classes are left out.
        """
        self.model._set_device(next(self.model.parameters()).device)
        batch = self.model.data_preprocessor(data, False)
        with self.precision():
            samples = self.model(**batch, mode='predict')
        for sample in samples:
            _rename_classes(sample, classes)
        return samples

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply ``fn``, such as a move to another device, to every parameter and buffer."""
        if not self.released:
            self.model._apply(fn)

    def release(self) -> int:
        """Free the weights, also of the copies that share them. The modules stay, but cannot run again.

        Returns:
            Number of bytes of the parameters and buffers.
        """
        tensors = {
            id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())
        }
        freed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        memory = self._memory()
        for teacher in [each for each in self._copies if each._memory() == memory]:
            teacher.apply(lambda tensor: tensor.to('meta'))
            teacher.released = True
        return freed

    def check_num_classes(self, student: int, teacher: int) -> None:
        """Check, as far as is known before training, that the classes of student and teacher can be matched.

        Args:
            student: Number of the student's classes.
            teacher: Number of the classes of the teacher's head.

        Raises:
            ValueError: They cannot.
        """
        if student != teacher:
            raise ValueError(
                f'number of classes: the student has {student}, the teacher {teacher}: give both networks the same '
                'classes'
            )

    def check_requests(
        self, requests: Mapping[str, Sequence[Request[Any]]], sources: Sources
    ) -> None:
        """Check that the teacher can answer all requests; a live one always can.

        Args:
            requests: Name of a loss to its requests to this teacher.
            sources: The sources that answer them.
        """

    def match_classes(self, names: Sequence[str] | None, student: int, teacher: int) -> ClassMap:
        """Find the student's classes among the teacher's.

        Args:
            names: Names of the data set's classes, which the student learns; None if they are not known.
            student: Number of the student's classes.
            teacher: Number of the classes of the teacher's head.
        """
        return ClassMap()

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """A copy that shares the memory of the weights: an EMA copy of the student needs no other ones.

        Moving or converting one of the two makes new tensors for that one only. What else is copied, such as a head
        adapter's reference to the teacher's head, refers to the copy.
        """
        self._share_memory(memo)
        twin = copy.copy(self)
        memo[id(self)] = twin
        for name, value in vars(self).items():
            if name != '_copies':
                twin.__dict__[name] = copy.deepcopy(value, memo)
        self._copies.add(twin)
        return twin

    def _share_memory(self, memo: dict[int, Any]) -> None:
        """Make a copy in progress refer to this network's memory."""
        for parameter in self.model.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=False)
        memo.update((id(buffer), buffer) for buffer in self.model.buffers())

    def _memory(self) -> int:
        """Address of the first weight."""
        return next(self.model.parameters()).data_ptr()


@dataclass
class LivePass(TeacherPass):
    """A live teacher on the batch of a step.

    Attributes:
        teacher: The teacher.
        inputs: (B, 3, H, W) the student's normalised input.
        data_samples: The batch's data samples.
        classes: Maps the logits of the teacher's head to the student's classes.
    """

    teacher: Teacher
    inputs: Tensor
    data_samples: Sequence[Any]
    classes: ClassMap
    _records: Mapping[str, list[Any]] = field(default_factory=dict, init=False)

    @cached_property
    @override
    def features(self) -> tuple[Tensor, ...]:
        with self.teacher.taps.recording() as self._records:
            return self.teacher.features(self.inputs, self.data_samples)

    @override
    def features_at(self, path: str) -> list[Tensor]:
        if self.teacher.ends_at_taps:
            self._records = self._records or self.teacher.tapped(self.inputs, self.data_samples)
            return flat(self._records[path])
        features = self.features
        if path == NECK:
            return flat(features)
        if not self._records[path]:
            with self.teacher.taps.recording() as records:
                self.run(lambda model: run_to(model, path, features))
            self._records = {
                name: self._records[name] or recorded for name, recorded in records.items()
            }
        return flat(self._records[path])

    @override
    def run(self, function: Callable[[Any], Result], *, gradient: bool = False) -> Result:
        enabled = gradient and torch.is_grad_enabled()
        with torch.set_grad_enabled(enabled), self.teacher.precision():
            return function(self.teacher.model)


def _as_the_student(device: torch.device) -> AbstractContextManager[Any]:
    """No context of its own: autocast or not, as in the student's step."""
    return nullcontext()


def _rename_classes(sample: Any, classes: ClassMap) -> None:
    """Convert the predictions of one image to the student's classes."""
    if classes.columns is None:
        return
    numbers = torch.full((classes.num_teacher,), -1)
    numbers[list(classes.columns)] = torch.arange(len(classes.columns))
    if 'pred_instances' in sample:
        found = sample.pred_instances
        found.labels = numbers.to(found.labels.device)[found.labels]
        sample.pred_instances = found[found.labels >= 0]
    elif 'pred_score' in sample:
        sample.set_pred_score(sample.pred_score[list(classes.columns)])
        sample.set_pred_label(sample.pred_score.argmax(dim=0, keepdim=True))
