"""What the commands have to know of detection and of classification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmengine.config import Config

from mmkd.report import COCO_COLUMNS, TOP_K_COLUMNS, Columns


@dataclass(frozen=True)
class Task:
    """One of the two.

    Attributes:
        name: 'detection' or 'classification'.
        columns: the metrics of a table.
        annotations: patterns of a split's annotation files within the data's folder, with the split as ``{}``.
        preload: modules that trainings and evaluations import anyway, for :func:`mmkd.experiments.run_stages`.
    """

    name: str
    columns: Columns
    annotations: tuple[str, ...]
    preload: tuple[str, ...]

    def inputs(self, data_root: Path, split: Literal['train', 'val']) -> tuple[Path, ...]:
        """The files that say what a split of the data is.

        Raises:
            FileNotFoundError: there is none.
        """
        patterns = [pattern.format(split) for pattern in self.annotations]
        files = tuple(sorted(path for pattern in patterns for path in data_root.glob(pattern)))
        if not files:
            raise FileNotFoundError(f'{data_root}: there is no {" or ".join(patterns)}')
        return files


DETECTION = Task(
    'detection',
    COCO_COLUMNS,
    ('annotations/instances_{}2017.json',),
    ('mmdet.apis', 'mmdet.engine', 'mmkd.distillers', 'mmkd.hooks', 'mmkd.losses'),
)
CLASSIFICATION = Task(
    'classification',
    TOP_K_COLUMNS,
    ('meta/{}.txt', 'meta/{}.json'),
    ('mmpretrain.apis', 'mmkd.distillers', 'mmkd.hooks', 'mmkd.losses', 'mmkd.models'),
)


def task_of(cfg: Config) -> Task:
    """The task of a config, by the registry that its names are meant for."""
    return CLASSIFICATION if cfg.get('default_scope') == 'mmpretrain' else DETECTION
