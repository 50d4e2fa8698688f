from __future__ import annotations

import contextlib
import errno
import hashlib
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader

from mmkd import checkpoints
from mmkd.checkpoints import (
    CorruptCheckpointError,
    UnsafeCheckpointError,
    WholeFileBackend,
    check_whole,
    download,
    load_checkpoint,
    load_safely,
)

WEIGHTS = dict(weight=torch.arange(3.0))


class Malicious:
    """Executes a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.trace}',)


class ReachingOut:
    """Would get hold of any attribute through the one exception that MMEngine's logs need."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (HistoryBuffer, '__init__')


class Objects:
    """The type of an array of objects, without the state that PyTorch would stumble over."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ('O',)


class Addresses:
    """An array of objects that lie wherever the file says."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((1,), Objects(), bytes(8))


@pytest.fixture
def schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))


@pytest.fixture
def malicious(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and the file that appears when it is unpickled."""
    path, trace = tmp_path / 'malicious.pth', tmp_path / 'executed'
    torch.save(dict(state_dict=WEIGHTS, meta=Malicious(trace)), path)
    return path, trace


def test_what_mmengine_saves_is_loaded_without_unpickling(tmp_path: Path) -> None:
    hub = MessageHub('checkpoints')
    hub.update_scalar('loss', 2.0)
    hub.update_info('best_score', np.float32(0.5))
    torch.save(dict(state_dict=WEIGHTS, message_hub=hub.state_dict()), tmp_path / 'a.pth')

    loaded = load_checkpoint(tmp_path / 'a.pth')

    assert torch.equal(loaded['state_dict']['weight'], WEIGHTS['weight'])
    assert loaded['message_hub']['log_scalars']['loss'].current() == 2
    assert loaded['message_hub']['runtime_info']['best_score'] == np.float32(0.5)


@pytest.mark.parametrize('save', ['zip', 'legacy', 'pickle'])
def test_nothing_in_a_checkpoint_is_executed(save: str, tmp_path: Path) -> None:
    path, trace = tmp_path / 'a.pth', tmp_path / 'executed'
    content = dict(state_dict=WEIGHTS, meta=Malicious(trace))
    if save == 'pickle':
        path.write_bytes(pickle.dumps(Malicious(trace)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == 'zip')

    with pytest.raises(
        UnsafeCheckpointError, match=r'a\.pth holds more .*set teacher\.allow_pickle'
    ):
        load_checkpoint(path, option='teacher.allow_pickle=True')
    assert not trace.exists()


@pytest.mark.parametrize('key', ['model', 'module', 'model_state_dict'])
def test_weights_under_other_names_are_found(key: str, tmp_path: Path) -> None:
    torch.save({key: WEIGHTS, 'epoch': 3}, tmp_path / 'a.pth')
    loaded = load_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(loaded['state_dict']['weight'], WEIGHTS['weight'])
    assert loaded['epoch'] == 3


def test_weights_under_their_own_name_come_first(tmp_path: Path) -> None:
    torch.save(dict(state_dict=WEIGHTS, model=dict(weight=None)), tmp_path / 'a.pth')
    assert torch.equal(
        load_checkpoint(tmp_path / 'a.pth')['state_dict']['weight'], WEIGHTS['weight']
    )


@pytest.mark.parametrize('metadata', range(0, 600, 60))
def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path, metadata: int) -> None:
    path = (
        tmp_path / 'a.pth'
    )  # of metadata of other lengths the first byte is that of a zip archive or a pickle, too
    safetensors.torch.save_file(WEIGHTS, path, metadata=dict(note='x' * metadata))
    assert torch.equal(load_checkpoint(path)['weight'], WEIGHTS['weight'])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptCheckpointError, match=r'a\.pth is truncated'):
        load_checkpoint(path)


def test_attributes_are_out_of_reach(tmp_path: Path) -> None:
    torch.save(dict(meta=ReachingOut()), tmp_path / 'a.pth')
    with pytest.raises(UnsafeCheckpointError, match='getattr'):
        load_checkpoint(tmp_path / 'a.pth')


def test_addresses_are_not_taken_from_a_file(tmp_path: Path) -> None:
    torch.save(dict(meta=Addresses()), tmp_path / 'a.pth')
    with pytest.raises(UnsafeCheckpointError, match=r'numpy\.dtype'):
        load_checkpoint(tmp_path / 'a.pth')


def test_unpickling_has_to_be_asked_for(malicious: tuple[Path, Path]) -> None:
    path, trace = malicious
    assert torch.equal(
        load_checkpoint(path, allow_pickle=True)['state_dict']['weight'], WEIGHTS['weight']
    )
    assert trace.exists()


@pytest.mark.usefixtures('schemes')
def test_mmengine_loads_safely_too(malicious: tuple[Path, Path]) -> None:
    path, trace = malicious
    load_safely(option='--allow-pickle')
    with pytest.raises(UnsafeCheckpointError, match='set --allow-pickle'):
        CheckpointLoader.load_checkpoint(str(path))
    assert not trace.exists()
    loaders = {
        CheckpointLoader._get_checkpoint_loader(name)
        for name in ('a.pth', 'https://a/b.pth', 'torchvision://resnet18', 'mmcls://a', 's3://a/b')
    }
    assert len(loaders) == 1


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip_a_weight(content: bytes) -> bytes:
    position = content.index(WEIGHTS['weight'].numpy().tobytes())
    return content[: position + 5] + b'\x01' + content[position + 6 :]


@pytest.mark.parametrize(
    ('damage', 'message', 'loadable'),
    [
        (_cut, 'truncated', False),
        (_flip_a_weight, 'checksum of its .*data/0 is wrong', True),
        (lambda content: b'', 'empty', False),
        (lambda content: b'<html>gone</html>', 'no checkpoint', False),
        (lambda content: b'Page not found', 'no checkpoint', False),
    ],
)
def test_damage_is_named(
    damage: Callable[[bytes], bytes], message: str, loadable: bool, tmp_path: Path
) -> None:
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=WEIGHTS), path)
    check_whole(path)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(CorruptCheckpointError, match=rf'a\.pth is .*{message}'):
        check_whole(path)
    refused = (
        contextlib.nullcontext()
        if loadable
        else pytest.raises(CorruptCheckpointError, match=r'a\.pth')
    )
    with refused:
        load_checkpoint(path)


def test_the_hash_in_a_name_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    source = tmp_path / 'source.pth'
    torch.save(WEIGHTS, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(
        'mmkd.checkpoints.urllib.request.urlopen', lambda url, timeout: _Served(source)
    )

    good = load_checkpoint(f'http://example.org/teacher-{digest[:8]}.pth')
    with pytest.raises(
        CorruptCheckpointError, match=f'begins with {digest[:8]}, not with the 0123abcd'
    ):
        download('http://example.org/teacher-0123abcd.pth')

    assert torch.equal(good['weight'], WEIGHTS['weight'])
    cached = sorted(path.name for path in (tmp_path / 'torch').rglob('*') if path.is_file())
    assert cached == [f'teacher-{digest[:8]}.pth']


class _Served:
    def __init__(self, path: Path) -> None:
        self.headers = {'Content-Length': str(path.stat().st_size)}
        self.file = path.open('rb')
        self.read = self.file.read

    def __enter__(self) -> _Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def load_in_group(rank: int, folder: Path, name: str) -> None:
    """One of two processes on one machine; its exit code says how loading ended."""
    os.environ.update(LOCAL_RANK=str(rank))
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store_{name}', rank=rank, world_size=2
    )

    def serve(url: str, timeout: float) -> _Served:
        (folder / f'{name}.served_to_{rank}').touch()
        return _Served(folder / 'source.pth')

    checkpoints.urllib.request.urlopen = serve  # type: ignore[assignment]
    try:
        loaded = load_checkpoint(f'http://example.org/{name}.pth')
        os._exit(0 if torch.equal(loaded['weight'], WEIGHTS['weight']) else 1)
    except CorruptCheckpointError:
        os._exit(2)
    except FileNotFoundError:
        os._exit(3)


@pytest.mark.parametrize(('name', 'ended'), [('teacher', [0, 0]), ('teacher-0123abcd', [2, 3])])
def test_the_first_process_of_a_machine_downloads(
    name: str, ended: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    torch.save(WEIGHTS, tmp_path / 'source.pth')
    processes = [
        multiprocessing.get_context('fork').Process(
            target=load_in_group, args=(rank, tmp_path, name)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == ended
    assert [path.name for path in tmp_path.glob('*.served_to_*')] == [f'{name}.served_to_0']


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, backend = tmp_path / 'a.pth', WholeFileBackend()
    (tmp_path / 'a.pth.tmp').write_bytes(b'what a kill left')
    backend.put(b'old', path)
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth']

    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('mmkd.checkpoints.os.fsync', disk_full)
    with pytest.raises(OSError, match=r'cannot save .*a\.pth .*No space left.*--resume') as caught:
        backend.put(b'new', path)

    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b'old'
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth']


def test_removals_wait_for_what_replaces_the_file(tmp_path: Path) -> None:
    path, backend = tmp_path / 'a.pth', WholeFileBackend()
    backend.put(b'old', path)
    with contextlib.suppress(OSError), backend.removing_last():
        backend.remove(path)
        raise OSError
    assert path.exists()
    with backend.removing_last():
        backend.remove(path)
        backend.put(b'new', path)
    assert path.read_bytes() == b'new'
    with backend.removing_last():
        with backend.removing_last():  # one save within another, as for the best checkpoint
            backend.remove(path)
        assert path.exists()
    assert not path.exists()
