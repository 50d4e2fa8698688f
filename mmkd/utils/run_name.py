"""How the runs of a config are called, so that no two recipes share a folder or an exported file's name."""

from __future__ import annotations

import os.path as osp
from pathlib import Path

from mmengine.config import Config

from mmkd.utils.student_config import is_distiller


def run_name(cfg: Config, path: str | Path, schedule: str | None = None) -> str:
    """``ckd/retinanet_r101_r50`` for the recipe of this folder and name.

    Recipes of one pair have one name in folders called after the methods, or the other way round: either part is
    needed. A loss that neither mentions is added, as of a recipe of one's own or of ``--losses``: ``mine/recipe_ckd``;
    and another schedule.

    Args:
        cfg: The config.
        path: Its file.
        schedule: The file given by ``--schedule``.

    Returns:
        A relative path.
    """
    path = Path(osp.abspath(path))
    folder = '' if path.parent.name == path.stem else path.parent.name  # a copy in its work folder
    losses = (cfg.model.get('losses') or {}) if is_distiller(cfg.get('model')) else {}
    said = f'_{folder}_{path.stem}_'
    parts = [path.stem, *(x for x in losses if f'_{x}_' not in said)]
    return osp.join(folder, '_'.join([*parts, *([Path(schedule).stem] if schedule else [])]))
