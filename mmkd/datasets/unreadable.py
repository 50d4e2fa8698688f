"""Replaces training images that are missing or cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import cv2
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmkd.registry import TRANSFORMS


@TRANSFORMS.register_module()
class SkipUnreadable:
    """Loads an image. If it is missing or unreadable, names and counts it, and lets the data set replace it.

    MMEngine's data sets draw another image at random if the pipeline returns None. Without this transform, such an
    image ends the run with an error that names it.

    Args:
        loader: Config of the loading transform, such as ``dict(type='LoadImageFromFile')``.
    """

    def __init__(self, loader: Mapping[str, Any]) -> None:
        self.loader = TRANSFORMS.build(dict(loader))
        self._replaced = torch.zeros((), dtype=torch.int64).share_memory_()  # by all workers
        self._named: set[str] = set()

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load the image of ``results``, or return None."""
        try:
            return self.loader(results)
        except (OSError, AssertionError, ValueError, cv2.error) as error:
            self._replaced += 1
            path = str(results.get('img_path'))
            if path not in self._named:
                self._named.add(path)
                print_log(
                    f'image {path} cannot be read ({type(error).__name__}: {error}): another one is taken '
                    f'({int(self._replaced)} replaced so far)',
                    'current',
                    logging.WARNING,
                )
            return None

    def __repr__(self) -> str:
        return f'{type(self).__name__}(loader={self.loader!r})'


def skip_unreadable(cfg: Config) -> int:
    """Make the training data of ``cfg`` replace images that cannot be read; changes ``cfg``.

    Validation is not changed: a metric over fewer images could not be compared.

    Returns:
        Number of loading transforms that were found.
    """
    return _wrap(cfg.train_dataloader.dataset)


def _wrap(dataset: Any) -> int:
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    found = sum(_wrap(item) for item in inner if isinstance(item, dict))
    pipeline = dataset.get('pipeline') or []
    for index, transform in enumerate(pipeline):
        if str(transform.get('type')).split('.')[-1] == 'LoadImageFromFile':
            pipeline[index] = ConfigDict(type='mmkd.SkipUnreadable', loader=transform)
            found += 1
    return found
