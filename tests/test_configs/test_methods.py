from __future__ import annotations

import pytest

from mmkd.registry import LOSSES, build
from mmkd.utils.recipe import presets_of

HEADS = {
    'dense': ['dense', 'detector', 'sigmoid'],
    'rcnn': ['rcnn', 'detector', 'softmax'],
    'query': ['query', 'detector', 'sigmoid'],
    'classifier': ['classifier', 'softmax'],
}


@pytest.mark.parametrize('head', HEADS)
def test_every_preset_is_of_losses_that_can_be_built(head: str) -> None:
    presets = presets_of(HEADS[head])
    assert {'ckd', 'aekt'} <= presets.keys()
    for method, losses in presets.items():
        for loss, options in losses.items():
            if loss != 'task_weight':
                build(LOSSES, options, where=f'{method}: {loss}')


def test_what_means_nothing_on_a_head_has_no_preset_for_it() -> None:
    assert 'kd' in presets_of(HEADS['rcnn'])
    assert not {'kd', 'rkd', 'box_l1'} & presets_of(HEADS['dense']).keys()
    assert not {'pkd', 'ld'} & presets_of(HEADS['classifier']).keys()
