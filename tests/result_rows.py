"""Rows of results as a comparison leaves them."""

from __future__ import annotations

from mmkd.report import Row


def row(
    method: str, seed: int, points: float, split: str = 'test', settings: str = 'a', date: str = '1'
) -> Row:
    """A row of RetinaNet with the same AP for all sizes but the large one, of which there is none."""
    sizes = {f'coco/bbox_mAP{size}': points / 100 for size in ('', '_50', '_75', '_s', '_m')}
    return Row(
        family='retinanet',
        method=method,
        seed=seed,
        split=split,
        metrics=sizes | {'coco/bbox_mAP_l': -1.0},
        seconds=60.0 * (seed + 1),
        settings=settings,
        commit='abc',
        date=date,
        commands=['python tools/train.py'],
    )
