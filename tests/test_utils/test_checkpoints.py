from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub

from mmkd.utils.checkpoints import read_checkpoint


class Code:
    """Something that runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['MMKD_TEST_RAN'] = 'yes'",)


def test_a_checkpoint_of_mmengine_is_read_with_its_log(tmp_path: Path) -> None:
    hub = MessageHub.get_instance('test_checkpoints')
    for value in (1.0, 2.0):
        hub.update_scalar('train/loss', value)
    hub.update_info('epoch', 3)
    content = dict(
        state_dict=dict(w=torch.ones(2)),
        message_hub=hub.state_dict(),
        meta=dict(dataset_meta=ConfigDict(classes=('ant',))),
    )
    torch.save(content, tmp_path / 'epoch_1.pth')

    read = read_checkpoint(tmp_path / 'epoch_1.pth')
    assert torch.equal(read['state_dict']['w'], torch.ones(2))
    assert read['message_hub']['log_scalars']['train/loss'].mean() == 1.5
    assert read['message_hub']['runtime_info']['epoch'] == 3
    assert read['meta']['dataset_meta']['classes'] == ('ant',)


@pytest.mark.usefixtures('clean_environment')
def test_nothing_in_a_file_is_run_unless_it_is_trusted(tmp_path: Path) -> None:
    torch.save(dict(state_dict={}, bad=Code()), tmp_path / 'bad.pth')

    with pytest.raises(ValueError, match='holds more than weights and plain values'):
        read_checkpoint(tmp_path / 'bad.pth')
    assert 'MMKD_TEST_RAN' not in os.environ
    read_checkpoint(tmp_path / 'bad.pth', trust=True)
    assert os.environ['MMKD_TEST_RAN'] == 'yes'


def test_getattr_reaches_only_the_methods_of_the_log(tmp_path: Path) -> None:
    class Smuggled:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (torch.Tensor, '__init__')

    torch.save(dict(bad=Smuggled()), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='holds more than weights and plain values'):
        read_checkpoint(tmp_path / 'bad.pth')


@pytest.mark.parametrize('keep', [0, 10, 300])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=dict(w=torch.ones(1000))), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r'epoch_1\.pth (is damaged|holds more)'):
        read_checkpoint(path)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='holds a list, not a checkpoint'):
        read_checkpoint(tmp_path / 'list.pth')
    with pytest.raises(FileNotFoundError, match='there is no file'):
        read_checkpoint(tmp_path / 'none.pth')
