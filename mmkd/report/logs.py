"""What MMEngine's LocalVisBackend wrote of a training."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from mmkd.report.metrics import main_column, points


def read_log(work_dir: str | Path) -> list[dict[str, Any]]:
    """All entries of ``WORK_DIR/TIMESTAMP/vis_data/scalars.json``, of which a resumed training has several."""
    entries = []
    # MMEngine's timestamps (20261121_032716) sort by time.
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # A kill cut this line short.
                entries.append(json.loads(line))
    return entries


def read_curve(work_dir: str | Path) -> dict[int, float]:
    """COCO AP or top-1 accuracy of the validations, in points, by epoch.

    Where an epoch is in several calls' logs, the last call's value counts, for that is the training that went on.
    """
    # Training records name their epoch and count steps in iterations.
    validated = [entry for entry in read_log(work_dir) if 'epoch' not in entry]
    curve = {entry['step']: points(entry)[main_column(entry)] for entry in validated}
    return {epoch: value for epoch, value in sorted(curve.items()) if value is not None}
