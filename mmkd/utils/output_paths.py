"""What a config writes, it writes into its work folder."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmengine.config import Config

from mmkd.utils.settings import settings

_SECTIONS = ('default_hooks', 'custom_hooks', 'visualizer', 'val_evaluator', 'test_evaluator')
# Paths of MMEngine's, MMDetection's and MMPretrain's hooks, visualisers and metrics that are written to.
_KEYS = ('out_dir', 'save_dir', 'outfile_prefix', 'out_file_path', 'json_trace_path')
# The same, but taken to lie in the work folder: they lead out of it with ``..`` or as absolute paths.
_KEYS_IN_WORK_DIR = ('filename_tmpl', 'test_out_dir')


def paths_outside(cfg: Config, chosen: dict[str, Any]) -> list[str]:
    """Find settings that would write outside of the work folder.

    Args:
        cfg: The run's config, with ``work_dir`` set.
        chosen: Settings of the command line by dotted key: what a user asks for there is left alone.

    Returns:
        One text for each, with the setting and what to do.
    """
    work_dir = osp.realpath(cfg.work_dir)
    problems = []
    for section in _SECTIONS:
        for key, value in settings(cfg.get(section), section):
            name = key.rpartition('.')[2]
            if not isinstance(value, str):
                continue
            if name in _KEYS_IN_WORK_DIR:
                path = osp.realpath(osp.join(work_dir, value))
            elif name in _KEYS and '://' not in value:
                path = osp.realpath(value)
            else:
                continue
            if key not in chosen and osp.commonpath([work_dir, path]) != work_dir:
                problems.append(
                    f'{key}: the config would write to {path}, outside of the work folder {work_dir}: if you '
                    f'want that, say so with --cfg-options {key}={value}; else name a path in the work folder'
                )
    return problems
