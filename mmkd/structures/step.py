"""One training step as the losses see it: each answer is computed when first asked for, and only once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from mmengine.dist import get_rank
from torch import Tensor

from .classes import ClassMap
from .progress import Progress
from .requests import Answer, Request
from .stored import StoredRows

Result = TypeVar('Result')


class TeacherPass(Protocol):
    """A teacher on the batch of one step. Adapters use this interface, so any kind of teacher will do.

    Sample tables refer to it and not to the step, which refers to them: without a reference cycle, a step's graph is
    freed at its end.
    """

    classes: ClassMap
    """Maps the logits of the teacher's head to the student's classes."""
    inputs: Tensor
    """(B, 3, H, W) the student's normalised input."""

    @property
    def features(self) -> tuple[Tensor, ...]:
        """The output of the teacher's ``extract_feat``, which runs when this is first read, and only once."""
        ...

    def features_at(self, path: str) -> list[Tensor]:
        """The outputs of the teacher's module at ``path``, level by level."""
        ...

    def run(self, function: Callable[[Any], Result], *, gradient: bool = False) -> Result:
        """Call ``function`` on the teacher's network, in eval mode and in the teacher's dtype.

        Args:
            function: Takes the network and calls its parts, such as its head.
            gradient: Keep the graph, so that the gradient reaches the inputs that ``function`` passes to the network.
        """
        ...

    def outputs(
        self,
        compute: Callable[[Any, tuple[Tensor, ...]], Result],
        restore: Callable[[list[StoredRows]], Result],
    ) -> Result:
        """What the teacher's head outputs for the batch.

        Args:
            compute: Used with a live teacher: computes the outputs from the network and its :attr:`features`.
            restore: Used with a stored teacher: restores them from the rows of each image, which
                :meth:`mmkd.heads.HeadAdapter.teacher_rows` made.
        """
        features = self.features
        return self.run(lambda network: compute(network, features))


class Source(Protocol):
    """Answers requests from the student's tapped outputs and the teacher's outputs for the same batch."""

    taps: Mapping[str, str]
    """Tap name to the module or method of the student that it records, see :class:`mmkd.structures.taps.Taps`."""

    def answer(self, request: Any, step: Step) -> list[Any]:
        """The answers to one request."""
        ...


class Sources:
    """The sources of a student and its teachers, by what they answer.

    Args:
        sources: ``Request.source`` to the source that answers such requests.

    Attributes:
        undo: Removes the effect of an extra layer of the student's head from its (S, C) logits before the losses see
            them; None if there is no such layer.
    """

    undo: Callable[[Tensor], Tensor] | None = None

    def __init__(self, sources: Mapping[Hashable, Any]) -> None:
        self._sources = dict(sources)

    def of(self, request: Request[Any]) -> Any:
        """The source that answers a request: a head adapter or a feature source."""
        return self._sources[request.source]

    def get(self, source: Hashable) -> Any:
        """The source with this key, or None if no loss asks for it."""
        return self._sources.get(source)

    @property
    def taps(self) -> dict[str, str]:
        """All taps on the student; sources of one family share theirs."""
        return {
            name: path for source in self._sources.values() for name, path in source.taps.items()
        }


@dataclass
class Step:
    """What was recorded of the student on a batch, and access to the teachers.

    Attributes:
        inputs: (B, 3, H, W) the student's normalised input.
        data_samples: The batch's data samples, with their ground truth.
        records: Tap name to what it recorded, in the order of the calls.
        sources: The sources that answer the losses' requests.
        teachers: The teachers on this batch, by name.
        progress: How far training has come.
    """

    inputs: Tensor
    data_samples: Sequence[Any]
    records: dict[str, list[Any]]
    sources: Sources
    teachers: Mapping[str, TeacherPass] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    _made: dict[Any, Any] = field(default_factory=dict, init=False)

    def ask(self, request: Request[Answer]) -> list[Answer]:
        """The answers to a request, such as one :class:`LogitPairs` per stage; equal requests share them."""
        return self.once(request, lambda: self.sources.of(request).answer(request, self))

    def once(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result of ``make``, which is called when ``key`` is first asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @property
    def answers(self) -> dict[Request[Any], list[Any]]:
        """What the losses have asked for so far."""
        return {key: made for key, made in self._made.items() if isinstance(key, Request)}

    @cached_property
    def image_sizes(self) -> Tensor:
        """(B, 2) width and height of the images in pixels, without padding."""
        shapes = [sample.metainfo['img_shape'][:2] for sample in self.data_samples]
        sizes = torch.tensor(shapes, dtype=torch.float).view(-1, 2).flip(1)
        return sizes.to(self.inputs.device, non_blocking=True)

    @cached_property
    def objects(self) -> tuple[Tensor, Tensor]:
        """The ground truth of the batch: (G, 4) xyxy boxes in pixels of the input, and (G,) the image each is in.

        Raises:
            RuntimeError: The images have no boxes, as a classifier's.
        """
        try:
            boxes = [sample.gt_instances.bboxes for sample in self.data_samples]
        except AttributeError:
            raise RuntimeError(
                'the data samples have no gt_instances.bboxes: a loss that looks at objects means something on '
                'detectors only. On classifiers use mmkd.PKDLoss or another loss on whole maps'
            ) from None
        images = [each.new_full((len(each),), i, dtype=torch.long) for i, each in enumerate(boxes)]
        if not boxes:
            return self.inputs.new_zeros(0, 4), self.inputs.new_zeros(0, dtype=torch.long)
        return torch.cat(boxes), torch.cat(images)

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers of this step for the losses.

        They depend on PyTorch's seed and the iteration only. So the student's own random numbers stay as they were, and
        a resumed run draws the same ones.
        """
        return self._seeded(get_rank() + 1)

    @cached_property
    def shared_generator(self) -> torch.Generator:
        """Likewise, the same numbers on all processes: for losses that gather the batch of all."""
        return self._seeded(0)

    def _seeded(self, stream: int) -> torch.Generator:
        number = self.progress.iteration * 2**16 + stream
        seed = (torch.initial_seed() + 0x9E3779B9 * number) % 2**63
        return torch.Generator(self.inputs.device).manual_seed(seed)

    def record(self, tap: str) -> list[Any]:
        """What ``tap`` recorded in this step.

        Raises:
            RuntimeError: The tap never fired.
        """
        if not self.records.get(tap):
            raise RuntimeError(
                f'the tap on {tap!r} recorded nothing in this step: the student did not call it while '
                'computing its loss. A subclass that overrides this call needs a head adapter of its '
                'own (mmkd.heads.register_head_adapter)'
            )
        return self.records[tap]
