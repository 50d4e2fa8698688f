from __future__ import annotations

import pytest
import torch
from mmdet.utils import register_all_modules

from mmkd.distillers import Distiller
from mmkd.losses.aekt import SerialLayer


@pytest.fixture
def tool(load_tool):
    return load_tool('related_classes')


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of three classes in which b is related to c, and a opposed to b."""

    def save(
        classes=('ant', 'bee', 'cat'),
        losses=('aekt',),
        trained=True,
        extra_logit=False,
        kind='serial_layer',
    ):
        layer = SerialLayer(3 + extra_logit)
        if trained:
            with torch.no_grad():
                layer.offset[1, 2] = 0.5
                layer.offset[2, 1] = 0.25
                layer.offset[0, 1] = -1.0
                layer.offset[0, 0] = 9.0  # a class with itself is no pair
        state = {'bbox_head.weight': torch.ones(1)}
        for loss in losses:
            for key, value in layer.state_dict().items():
                state[f'distill.{loss}.{kind}.{key}'] = value
        meta = dict(dataset_meta=dict(classes=classes)) if classes else {}
        path = tmp_path / 'epoch_1.pth'
        torch.save(dict(state_dict=state, meta=meta), path)
        return str(path)

    return save


@pytest.mark.parametrize('kind', ['serial_layer', 'task_layer'])
def test_prints_pairs_by_the_mean_of_both_directions(tool, checkpoint, capsys, kind):
    tool.main([checkpoint(kind=kind)])

    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ['bee', 'cat', '+0.3750', '+0.5000', '+0.2500'],
        ['ant', 'cat', '+0.0000', '+0.0000', '+0.0000'],
        ['ant', 'bee', '-0.5000', '-1.0000', '+0.0000'],
    ]


def test_prints_no_more_than_asked_for(tool, checkpoint, capsys):
    tool.main([checkpoint(), '--top', '1'])

    assert len(capsys.readouterr().out.splitlines()) == 2


def test_names_background_and_nameless_classes(tool):
    meta = dict(dataset_meta=dict(classes=('ant', 'bee')))

    assert tool.class_names(meta, 3) == ['ant', 'bee', 'background']
    assert tool.class_names(meta, 2) == ['ant', 'bee']
    assert tool.class_names({}, 2) == ['class 0', 'class 1']


@pytest.mark.parametrize('serial', ['task_then_distill', 'distill_then_task'])
def test_reads_the_state_of_a_real_distiller(tool, tiny_config, tmp_path, serial):
    register_all_modules()
    model = tiny_config.model
    distiller = Distiller(
        student=model,
        teacher=dict(config=dict(model=model), checkpoint='random_init'),
        losses=dict(adaptive=dict(type='mmkd.AEKTLoss', serial=serial)),
    )
    (layer,) = distiller.distill['adaptive'].children()
    torch.nn.init.ones_(layer.offset)
    path = tmp_path / 'epoch_1.pth'
    meta = dict(dataset_meta=dict(tiny_config.train_dataloader.dataset.metainfo))
    torch.save(dict(state_dict=distiller.state_dict(), meta=meta), path)
    names = tiny_config.train_dataloader.dataset.metainfo.classes

    first = tool.report(str(path), loss=None, top=1).splitlines()[1].split()

    assert first == [names[0], names[1], '+1.0000', '+1.0000', '+1.0000']


@pytest.mark.parametrize(
    ('saved', 'options', 'message'),
    [
        (dict(losses=()), [], 'has no AEKT layer: take a checkpoint of the training itself'),
        (dict(losses=('a', 'b')), [], r'several AEKT layers: choose --loss a\|b'),
        ({}, ['--loss', 'ckd'], '--loss ckd: the checkpoint has the layers of aekt'),
        (dict(trained=False), [], 'the layer is the identity still'),
        (dict(classes=('ant',)), [], 'names 1 classes, its layer has 3'),
    ],
)
def test_what_cannot_be_read_is_one_line(tool, checkpoint, saved, options, message):
    with pytest.raises(SystemExit, match=f'related_classes: .*{message}'):
        tool.main([checkpoint(**saved), *options])


def test_missing_file_is_one_line(tool, tmp_path):
    with pytest.raises(SystemExit, match=r'related_classes: .*nowhere\.pth can not be found'):
        tool.main([str(tmp_path / 'nowhere.pth')])
