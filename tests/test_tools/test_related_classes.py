from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config

from mmkd.distillers import Distiller


@pytest.fixture(scope='module')
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool('related_classes')


def checkpoint(*losses: str, classes: Any = ('ant', 'bee', 'cat'), logits: int = 3) -> dict:
    """Of layers in which b is related to c, and a opposed to b."""
    offset = torch.zeros(logits, logits)
    offset[1, 2], offset[2, 1], offset[0, 1] = 0.5, 0.25, -1.0
    offset[0, 0] = 9.0  # a class with itself is no pair
    state = {f'distill.{loss}.serial_layer.offset': offset for loss in losses}
    return dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes)))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_pairs_are_ranked_by_the_mean_of_both_directions(tool: ModuleType) -> None:
    lines = tool.related(checkpoint('aekt'), None, 2).splitlines()[2:]
    assert [cells(line) for line in lines] == [
        ['bee, cat', '+0.3750', '+0.5000', '+0.2500'],
        ['ant, cat', '+0.0000', '+0.0000', '+0.0000'],
    ]


def test_the_background_and_classes_without_names_are_named(tool: ModuleType) -> None:
    assert 'cat, background' in tool.related(checkpoint('aekt', logits=4), None, 99)
    assert 'class 1, class 2' in tool.related(checkpoint('aekt', classes=None), None, 1)


@pytest.mark.parametrize('serial', ['task_then_distill', 'distill_then_task'])
def test_reads_the_state_of_a_real_distiller(
    tool: ModuleType, tiny_config: Config, tmp_path: Path, capsys: Any, serial: str
) -> None:
    register_all_modules()
    model = tiny_config.model
    distiller = Distiller(
        student=model,
        teacher=dict(config=dict(model=model), checkpoint='random_init'),
        losses=dict(adaptive=dict(type='mmkd.AEKTLoss', serial=serial)),
    )
    (layer,) = distiller.distill['adaptive'].children()
    torch.nn.init.ones_(layer.offset)
    names = tiny_config.train_dataloader.dataset.metainfo.classes
    meta = dict(dataset_meta=dict(classes=tuple(names)))
    torch.save(dict(state_dict=distiller.state_dict(), meta=meta), tmp_path / 'epoch_1.pth')
    tool.main([str(tmp_path / 'epoch_1.pth'), '--top', '1'])
    first = capsys.readouterr().out.splitlines()[-1]
    assert cells(first) == [f'{names[0]}, {names[1]}', '+1.0000', '+1.0000', '+1.0000']


@pytest.mark.parametrize(
    ('losses', 'loss', 'message'),
    [
        ((), None, 'the AEKT layers of: no loss'),
        (('a', 'b'), None, 'the AEKT layers of: a, b'),
        (('aekt',), 'ckd', '--loss ckd: the checkpoint has the AEKT layers of: aekt'),
    ],
)
def test_a_layer_that_is_not_there_is_named(
    tool: ModuleType, losses: tuple[str, ...], loss: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tool.related(checkpoint(*losses), loss, 1)


def test_an_untrained_layer_says_nothing(tool: ModuleType) -> None:
    untrained = checkpoint('aekt')
    untrained['state_dict']['distill.aekt.serial_layer.offset'].zero_()
    with pytest.raises(ValueError, match='identity still'):
        tool.related(untrained, None, 1)


def test_a_missing_file_is_one_line(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r'related_classes: .*nowhere\.pth'):
        tool.main([str(tmp_path / 'nowhere.pth')])
