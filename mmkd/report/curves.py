"""A metric against the epoch, from the logs that MMEngine's LocalVisBackend keeps."""

from __future__ import annotations

import json
from pathlib import Path


def read_curve(work_dir: str | Path, metric: str) -> dict[int, float]:
    """Read the values of a validation metric from ``WORK_DIR/TIMESTAMP/vis_data/scalars.json``.

    A training that was resumed has one such file per call; where an epoch is in several, the last
    call's value counts, for that is the training that went on.

    Args:
        work_dir: folder of a training, with epochs counted by MMEngine.
        metric: name of the metric, such as ``coco/bbox_mAP``.

    Returns:
        Value by epoch, in order of epochs; empty if nothing has been validated.

    Raises:
        ValueError: a line that is not the last of its file is no JSON.
    """
    curve: dict[int, float] = {}
    # MMEngine's timestamps (20261121_032716) sort by time.
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        lines = path.read_text(encoding='utf-8').splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if number == len(lines):
                    break  # A kill cut this line short.
                raise ValueError(f'{path}, line {number}: {error}') from error
            # Training records name their epoch and count steps in iterations.
            if metric in record and 'epoch' not in record:
                curve[int(record['step'])] = float(record[metric])
    return dict(sorted(curve.items()))
