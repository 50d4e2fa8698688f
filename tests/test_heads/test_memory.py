"""A training step leaves nothing behind."""

from __future__ import annotations

import gc
import weakref

import pytest
from zoo import batch, distiller, one_step, pair

from mmkd.structures import Step


@pytest.mark.parametrize(
    'config',
    ['retinanet/retinanet_r50_fpn_1x_coco.py', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'],
)
def test_a_step_is_freed_without_the_garbage_collector(config: str) -> None:
    model = distiller(*pair(f'mmdet::{config}'))
    steps: list[weakref.ref[Step]] = []
    model.distill_losses['ckd'].register_forward_hook(
        lambda loss, args, output: steps.append(weakref.ref(args[0]))
    )
    gc.collect()
    gc.disable()
    try:
        one_step(model, batch())
    finally:
        gc.enable()
    assert [step() for step in steps] == [None]
