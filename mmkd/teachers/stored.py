"""A frozen teacher whose outputs were computed and stored beforehand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor
from typing_extensions import override

from mmkd.registry import TEACHERS
from mmkd.structures import ClassMap, Features, Holding, Request, Sources, StoredRows

from .base import LivePass
from .frozen import FrozenTeacher
from .store import Store, StoreError
from .store_key import class_key, probe, teacher_key

Result = TypeVar('Result')

_MOST_GREY_LEVELS = 1.0
"""Largest difference allowed between pixels of the run and of the store; float16 rounds by 0.06."""


@TEACHERS.register_module()
class StoredTeacher(FrozenTeacher):
    """A frozen teacher whose outputs ``tools/cache_teacher.py`` wrote to a folder, so that it need not run in training.

    The teacher is loaded once, to check that the store was made with it; then its weights are freed. Everything that
    the stored rows depend on is compared with the run, see :mod:`mmkd.teachers.store_key`. In every step, some pixels
    of each image are compared with those that the teacher saw.

    Args:
        config: See :class:`FrozenTeacher`.
        checkpoint: See :class:`FrozenTeacher`.
        store: The store's folder.
        store_miss: What happens if a loss asks for more than the store holds: ``'error'``, or ``'live'`` to run the
            teacher for it in every step.
        student: The student.
        **options: See :class:`FrozenTeacher`.

    Raises:
        StoreError: The folder has no complete store, or it was made for something else; the message names the field.
        ValueError: ``store_miss`` is unknown; or see :class:`FrozenTeacher`.
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | Config,
        checkpoint: str | Path | None = None,
        *,
        store: str | Path,
        store_miss: Literal['error', 'live'] = 'error',
        student: Any,
        **options: Any,
    ) -> None:
        if store_miss not in ('error', 'live'):
            raise ValueError(
                f"model.teacher.store_miss: {store_miss!r} is neither 'error' nor 'live'"
            )
        self.store = Store(store)
        # Weights that will not run need no folding.
        options = {'fuse': store_miss == 'live'} | options
        super().__init__(config, checkpoint, student=student, **options)
        self.store.check(teacher_key(self, config, student))
        self.student_pixels = student.data_preprocessor
        self.store_miss = store_miss
        self.runs = False
        self.head_runs = False
        self._data_checked = False
        self._pending = _Pending()

    def check_requests(
        self, requests: Mapping[str, Sequence[Request[Any]]], sources: Sources
    ) -> None:
        """Check that the store can answer all requests; if so, free the weights.

        Raises:
            ValueError: It cannot; the message names the loss.
        """
        held = self.store.manifest.holding
        for loss, asked in requests.items():
            for request in asked:
                try:
                    needed = sources.of(request).to_store(request)
                    if held | needed != held:
                        raise ValueError(
                            f'it asks for {needed}, and the store holds {held}: make a larger one with '
                            'tools/cache_teacher.py'
                        )
                except ValueError as error:
                    if self.store_miss == 'error':
                        raise ValueError(
                            f'model.losses.{loss}: model.teacher.store: {self.store.folder} cannot answer it: {error}; '
                            "or set model.teacher.store_miss='live' to run the teacher for it"
                        ) from None
                    print_log(
                        f'loss {loss}: the teacher runs for it in every step: {error}', 'current'
                    )
                    self.runs = True
                    self.head_runs |= not isinstance(request, Features)
        if not self.runs:
            for parameter in self.model.parameters():
                parameter.data = parameter.data.new_empty(0)

    def check_data(self, key: Mapping[str, Any]) -> None:
        """Check that the store was made from the training data of this run, see :func:`data_key`.

        Raises:
            StoreError: It was not.
        """
        self.store.check(key)
        self._data_checked = True

    @override
    def match_classes(self, names: Sequence[str] | None, student: int, teacher: int) -> ClassMap:
        """Match the classes, and check that the store has the same ones.

        Raises:
            StoreError: The store was made for other classes.
        """
        classes = super().match_classes(names, student, teacher)
        self.store.check(class_key(classes, student, names))
        return classes

    @override
    def on(self, inputs: Tensor, data_samples: Sequence[Any], classes: ClassMap) -> StoredPass:
        if not self._data_checked:
            print_log(
                f'model.teacher.store: {self.store.folder} was not compared with the training data, as tools/train.py '
                "does: set custom_hooks=[dict(type='mmkd.TeacherStoreHook')]. Pixels are compared in every step",
                'current',
                logging.WARNING,
            )
            self._data_checked = True
        return StoredPass(self, inputs, data_samples, classes)

    def read(self, inputs: Tensor, data_samples: Sequence[Any]) -> list[StoredRows]:
        """Read the rows of the images of a batch.

        Raises:
            StoreError: A data sample has no index, or its pixels are not those that the teacher saw.
        """
        found = []
        for sample in data_samples:
            if 'sample_index' not in sample.metainfo:
                manifest = self.store.manifest
                raise StoreError(
                    'train_dataloader.dataset: data samples do not say which sample and view they are: wrap the data '
                    f"set, dict(type='mmkd.SeededViews', views={manifest.views}, seed={manifest.key['seed']}, "
                    'dataset=dict(...))'
                )
            found.append(self.store.read(sample.metainfo['sample_index'], sample.metainfo['view']))
        expected = torch.stack([single['probe'] for _, single in found]).float()
        expected = expected.to(inputs.device, non_blocking=True)
        seen = probe(inputs, data_samples, self.student_pixels)
        self._check_pixels((seen - expected).abs().amax(dim=1), data_samples)
        return [rows for rows, _ in found]

    @property
    @override
    def can_predict(self) -> bool:
        """Only where it runs for other losses."""
        return self.runs and super().can_predict

    @override
    def predict(self, data: Any, classes: ClassMap) -> list[Any]:
        """Predict, if the weights are still there.

        Raises:
            RuntimeError: The weights are freed.
        """
        if not self.runs:
            raise RuntimeError(
                'a stored teacher has no weights to predict with: take the hook that asks it out of custom_hooks, or '
                'train without model.teacher.store'
            )
        return super().predict(data, classes)

    def _check_pixels(self, differences: Tensor, data_samples: Sequence[Any]) -> None:
        """Check how much the pixels of each image differ; on a GPU a step later, once the numbers are on the host."""
        names = [
            f'view {sample.metainfo["view"]} of sample {sample.metainfo["sample_index"]} '
            f'({sample.metainfo.get("img_path", "?")})'
            for sample in data_samples
        ]
        event = None
        if differences.is_cuda:
            number = torch.empty_like(differences, device='cpu', pin_memory=True)
            number.copy_(differences, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            differences = number
        self._pending.append((event, differences, names))
        self.look_at_pixels()

    def look_at_pixels(self, wait: bool = False) -> None:
        """Look at the differences of the steps so far, as far as they have arrived.

        Args:
            wait: For those that are on their way from a GPU, too.

        Raises:
            StoreError: Pixels are not those that the teacher saw.
        """
        while self._pending:
            event, number, names = self._pending[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._pending.pop(0)
            for name, difference in zip(names, number.tolist(), strict=True):
                if not difference <= _MOST_GREY_LEVELS:
                    raise StoreError(
                        f'model.teacher.store: {self.store.folder}: the pixels of {name} are not those that the '
                        f'teacher saw, by {difference:.0f} grey levels: pipeline, seed, images or their order have '
                        'changed since; undo that, or make the store again with tools/cache_teacher.py'
                    )


class _Pending(list[tuple[torch.cuda.Event | None, Tensor, list[str]]]):
    """Differences of pixels that are being copied to the host: an event, the numbers, and the images' names."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pending:
        """Empty: each difference is checked once."""
        return _Pending()


def wanted(
    requests: Mapping[str, Sequence[Request[Any]]], sources: Sources
) -> tuple[Holding | None, dict[str, str]]:
    """How much a store has to hold for the losses' requests.

    Returns:
        The holding for all requests that a store can answer, None if there are none; and, for losses that it cannot
        answer, name to reason.
    """
    holding: Holding | None = None
    problems: dict[str, str] = {}
    for loss, asked in requests.items():
        for request in asked:
            try:
                needed = sources.of(request).to_store(request)
            except ValueError as error:
                problems[f'model.losses.{loss}'] = str(error)
            else:
                holding = needed if holding is None else holding | needed
    return holding, problems


@dataclass
class StoredPass(LivePass):
    """A stored teacher on the batch of a step."""

    teacher: StoredTeacher

    @override
    def outputs(
        self,
        compute: Callable[[Any, tuple[Tensor, ...]], Result],
        restore: Callable[[list[StoredRows]], Result],
    ) -> Result:
        if self.teacher.head_runs:
            return super().outputs(compute, restore)
        return restore(self.teacher.read(self.inputs, self.data_samples))
