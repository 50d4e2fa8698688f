from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.registry import LOSSES, build

METHODS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'methods'
FILES = sorted(METHODS.glob('*.py'))


def test_methods_are_found():
    assert {'ckd_sigmoid.py', 'aekt_softmax.py', 'dkd_rcnn.py'} <= {file.name for file in FILES}


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_a_method_is_one_dict_of_losses_that_can_be_built(file):
    ((name, losses),) = Config.fromfile(file).to_dict().items()

    assert name == next(iter(losses))
    for loss, options in losses.items():
        build(LOSSES, options, where=f'{file.name}: {loss}')
