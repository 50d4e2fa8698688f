"""Checkpoints: nothing in a file is executed, a hash in a name is checked, a file is written whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import logging
import os
import os.path as osp
import pickle
import re
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import numpy as np
import safetensors.torch
import torch
from mmengine.dist import get_dist_info
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from torch import Tensor, nn

NETWORK_TIMEOUT_SECONDS = 20
_OTHER_NAMES_OF_WEIGHTS = (
    'model',
    'module',
    'model_state_dict',
)  # DeiT and timm; DeepSpeed; PyTorch's tutorials
_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.')
_SCHEMES = (
    '',
    'http://',
    'https://',
    'torchvision://',
    'modelzoo://',
    'open-mmlab://',
    'openmmlab://',
    'mmcls://',
    r'(\S+\:)?s3://',
    r'(\S+\:)?petrel://',
)


class UnsafeCheckpointError(RuntimeError):
    """A checkpoint can only be read by executing what is in it."""


class CorruptCheckpointError(RuntimeError):
    """A checkpoint is truncated or damaged, or is none."""


# ---- reading ----


def load_checkpoint(
    name: str | Path,
    map_location: Any = 'cpu',
    *,
    allow_pickle: bool = False,
    option: str = 'allow_pickle=True',
) -> Any:
    """Load a checkpoint without executing anything in it.

    What PyTorch's ``weights_only`` reads is allowed, and what MMEngine's checkpoints hold: NumPy arrays and numbers,
    and the history of logged values. safetensors are read too.

    Args:
        name: A path, a URL or a model's name as MMEngine takes it (``torchvision://resnet50``). A URL is downloaded
            once, into the cache of ``torch.hub``; a hash that ends its name, ``-0123abcd.pth``, is compared.
        map_location: As for ``torch.load``.
        allow_pickle: Read files that need unpickling too. They can execute anything: for files you trust only.
        option: How the user sets ``allow_pickle``, for the error.

    Returns:
        What was saved; weights that other code saves under ``'model'`` or ``'module'`` are under ``'state_dict'`` too.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptCheckpointError: It is no whole checkpoint, or does not have the hash in its name.
        UnsafeCheckpointError: It needs unpickling, and ``allow_pickle`` is not set.
        OSError: The URL cannot be reached.
    """
    name = str(name)
    location = resolve_name(name)
    if location.startswith(('http://', 'https://')):
        checkpoint = _load_file(_cached(location), map_location, allow_pickle, option)
    elif '://' in location:
        content = get_file_backend(location, backend_args=dict(backend='petrel')).get(location)
        checkpoint = _load(io.BytesIO(content), location, map_location, allow_pickle, option)
    else:
        checkpoint = _load_file(osp.expanduser(location), map_location, allow_pickle, option)
    if name.startswith('mmcls://'):  # whole classifiers, of which a detector takes the backbone
        weights = checkpoint.get('state_dict', checkpoint)
        prefix = 'backbone.'
        checkpoint = dict(
            state_dict={
                key.removeprefix(prefix): value
                for key, value in weights.items()
                if key.startswith(prefix)
            }
        )
    if isinstance(checkpoint, dict) and 'state_dict' not in checkpoint:
        for key in _OTHER_NAMES_OF_WEIGHTS:
            if isinstance(checkpoint.get(key), dict):
                checkpoint['state_dict'] = checkpoint[key]
                break
    return checkpoint


def load_safely(*, allow_pickle: bool = False, option: str = 'allow_pickle=True') -> None:
    """Let all of MMEngine's loading in this process go through :func:`load_checkpoint`.

    That is ``resume``, ``load_from``, ``init_cfg=dict(type='Pretrained')``, and what else calls MMEngine's
    ``CheckpointLoader``. Its own loader falls back on unpickling.

    Args:
        allow_pickle: Read files that need unpickling too.
        option: How the user sets it.
    """

    def load_from_mmkd(filename: str, map_location: Any = None, **_: Any) -> Any:
        return load_checkpoint(filename, map_location, allow_pickle=allow_pickle, option=option)

    CheckpointLoader.register_scheme(_SCHEMES, load_from_mmkd, force=True)


def resolve_name(name: str) -> str:
    """The URL or path behind a checkpoint's name, as MMEngine resolves it.

    Raises:
        KeyError: The name belongs to a model zoo that has no such model.
    """
    scheme, separator, model = name.partition('://')
    if not separator:
        return name
    if scheme in ('torchvision', 'modelzoo'):
        return get_torchvision_models()[model]
    if scheme in ('open-mmlab', 'openmmlab'):
        return get_external_models()[get_deprecated_model_names().get(model, model)]
    if scheme == 'mmcls':
        return get_mmcls_models()[model]
    return name


def load_weights(
    model: nn.Module, weights: Mapping[str, Any], versions: Mapping[str, Any] | None = None
) -> list[str]:
    """Load what fits, and say all that does not.

    Module by module, as MMEngine loads: heads rename the keys of older checkpoints on the way, and PyTorch's
    ``load_state_dict`` reports either keys or shapes.

    Args:
        model: Whose weights they are to be.
        weights: Name to weight; names may begin with ``module.``.
        versions: ``_metadata`` of the state_dict they come from.

    Returns:
        A text for each kind of misfit, with the names of the weights; none if every weight is loaded.
    """
    given = {name.removeprefix('module.'): value for name, value in weights.items()}
    missing: list[str] = []
    unexpected: list[str] = []
    shapes: list[str] = []

    def load(module: nn.Module, prefix: str) -> None:
        version = (versions or {}).get(prefix[:-1], {})
        module._load_from_state_dict(given, prefix, version, True, missing, unexpected, shapes)
        for name, child in module._modules.items():  # a child of two names, twice
            if child is not None:
                load(child, f'{prefix}{name}.')

    load(model, '')
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    return [
        f'{what} ({len(keys)}):\n    ' + '\n    '.join(shorten(sorted(keys)))
        for what, keys in (
            ('keys of the config that are missing in the file', missing),
            ('keys of the file that are unknown to the config', unexpected),
            ('keys of other shapes', shapes),
        )
        if keys
    ]


def shorten(texts: Sequence[str], limit: int = 8) -> list[str]:
    """The first of a list, and how many more there are."""
    more = len(texts) - limit
    return [*texts[:limit], *([f'... and {more} more'] if more > 0 else [])]


def check_whole(path: str | Path) -> None:
    """Read a checkpoint of ``torch.save`` from end to end and compare its checksums.

    ``torch.load`` itself notices a missing end, but not a damaged byte.

    Raises:
        CorruptCheckpointError: The file is truncated, damaged or no checkpoint; the message says which.
    """
    if osp.getsize(path) == 0:
        raise CorruptCheckpointError(f'{path} is empty')
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise CorruptCheckpointError(
            f'{path} is truncated or no checkpoint ({osp.getsize(path)} bytes): {error}'
        ) from error
    if damaged is not None:
        raise CorruptCheckpointError(f'{path} is damaged: the checksum of its {damaged} is wrong')


def cache_path(url: str) -> str:
    """Where the file behind a URL is kept on this machine."""
    return osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(urlparse(url).path))


def download(url: str) -> str:
    """Fetch a checkpoint into PyTorch's cache, unless it is there; compare it with the hash in its name.

    Returns:
        Its path.

    Raises:
        OSError: The URL cannot be reached, or the connection broke off.
        CorruptCheckpointError: The hash is another; what was fetched is not kept.
    """
    path = cache_path(url)
    if osp.isfile(path):
        _check_hash(path, osp.basename(path))
        return path
    print_log(f'Downloading {url} to {path}', 'current')
    with (
        urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT_SECONDS) as response,
        written_whole(path) as file,
    ):
        size = response.headers.get('Content-Length')
        shutil.copyfileobj(response, file, 1 << 20)
        file.flush()
        # A connection that breaks off looks like the end of the file.
        if size is not None and file.tell() != int(size):
            raise OSError(f'only {file.tell()} of {size} bytes arrived')
        _check_hash(file.name, osp.basename(path))
    return path


def _check_hash(path: str, name: str) -> None:
    """Compare a file with the hash in its published name, ``name-0123abcd.pth``, if there is one."""
    found = _HASH_IN_NAME.search(name)
    if found is None:
        return
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if not digest.startswith(found[1]):
        raise CorruptCheckpointError(
            f'{name}: the SHA-256 of the file begins with {digest[: len(found[1])]}, not with the '
            f'{found[1]} of its name: the file is damaged, or is another one'
        )


def _cached(url: str) -> str:
    """The downloaded file; of the processes of one machine, the first downloads and checks."""
    _, processes = get_dist_info()
    # Of the environment: MMEngine knows the number on a machine only after `init_local_group`, which it never calls.
    first = processes == 1 or int(os.environ.get('LOCAL_RANK', 0)) == 0
    try:
        if first:
            download(url)
    finally:  # also after an error, for which the others must not wait
        if processes > 1:
            torch.distributed.barrier()
    return cache_path(url)


def _load_file(path: str, map_location: Any, allow_pickle: bool, option: str) -> Any:
    if not osp.isfile(path):
        raise FileNotFoundError(f'{path} can not be found.')
    return _load(path, path, map_location, allow_pickle, option)


def _load(file: Any, name: str, map_location: Any, allow_pickle: bool, option: str) -> Any:
    start = file.getvalue()[:9] if isinstance(file, io.BytesIO) else _first_bytes(file, 9)
    if start[8:] == b'{' and int.from_bytes(start[:8], 'little') < 1 << 32:  # the header's length
        return _load_safetensors(file, name)
    if not re.match(rb'PK\x03\x04|\x80[\x02-\x05]', start):  # a zip archive; a pickle
        raise CorruptCheckpointError(f'{name} is empty or no checkpoint')
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if hasattr(file, 'seek'):
            file.seek(0)
        if not allow_pickle:
            raise _refusal(name, option, str(error)) from None
        print_log(
            f'{name} is unpickled, which can execute anything in it ({option})',
            'current',
            logging.WARNING,
        )
    except (RuntimeError, EOFError) as error:
        raise CorruptCheckpointError(f'{name} is truncated or no checkpoint: {error}') from error
    return torch.load(file, map_location=map_location, weights_only=False)


def _load_safetensors(file: Any, name: str) -> dict[str, Tensor]:
    try:
        if isinstance(file, io.BytesIO):
            return safetensors.torch.load(file.getvalue())
        return safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise CorruptCheckpointError(f'{name} is truncated or no checkpoint: {error}') from error


def _first_bytes(path: str, count: int) -> bytes:
    with open(path, 'rb') as file:
        return file.read(count)


def _refusal(name: str, option: str, reason: str) -> UnsafeCheckpointError:
    found = re.search(r'(?:GLOBAL|class|function|getattr)[ (]`?<?(?:class )?\'?([\w.]+)', reason)
    return UnsafeCheckpointError(
        f'{name} holds more than weights ({found[1] if found else "unknown objects"}): it would have to be '
        'unpickled, which can execute anything in it. If you trust where it comes from, set '
        f'{option}'
    )


def _safe_globals() -> list[Any]:
    """What MMEngine's checkpoints hold beside weights; none of it executes what the file says."""
    # Both are private and have moved between NumPy's versions.
    array, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    numpy_types = {type(np.dtype(code)) for code in np.typecodes['All'] if code not in 'OVMm'}
    return [
        np.ndarray,
        (_dtype_of_numbers, 'numpy.dtype'),
        *numpy_types,
        slice,
        argparse.Namespace,  # in which CRD's code saves its command line
        HistoryBuffer,
        *((array, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        *((scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
        # How pickle writes the methods that a HistoryBuffer keeps.
        (_history_method, 'builtins.getattr'),
        (_history_method, '__builtin__.getattr'),
    ]


def _dtype_of_numbers(*args: Any) -> np.dtype:
    """Not of objects: an array of them can be made of bytes, which are then taken for addresses."""
    dtype = np.dtype(*args)
    if dtype.hasobject:
        raise pickle.UnpicklingError(f'Unsupported class numpy.dtype({dtype})')
    return dtype


def _history_method(owner: Any, name: str) -> Any:
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported function getattr({owner!r}, {name!r})')
    return getattr(owner, name)


# ---- writing ----


@contextlib.contextmanager
def written_whole(path: str | Path, aside: str | Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the block has ended and all of it is on the disk.

    If the block raises, nothing of it is left, and a file that has the name already stays as it was.

    Args:
        path: The file; its folder is made.
        aside: What it is called until then; by default a name of this process.
    """
    path = Path(path)
    aside = path.with_name(f'.{path.name}.{os.getpid()}') if aside is None else Path(aside)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@register_backend('mmkd_whole_files')
class WholeFileBackend(LocalBackend):
    """MMEngine's backend for local files; a file is whole or as it was before, also after a kill or on a full disk."""

    def __init__(self) -> None:
        super().__init__()
        self._postponed: list[tuple[str, int]] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write beside the file, then rename.

        Raises:
            OSError: The disk is full or the folder not writable; the message says that earlier files are as they were.
        """
        path = str(filepath)
        try:
            # One name aside, so that what a kill leaves is overwritten by the resumed run.
            with written_whole(path, aside=f'{path}.tmp') as file:
                file.write(obj)
        except OSError as error:
            raise OSError(
                error.errno,
                f'cannot save {path} ({len(obj) / 1e6:.1f} MB): {error.strerror}. The checkpoints saved before '
                'are as they were: free some space or choose another folder, then go on with --resume',
            ) from error

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, at the end of :meth:`removing_last` if inside of it."""
        if self._postponed is None:
            super().remove(filepath)
        else:
            self._postponed.append((str(filepath), os.stat(filepath).st_ino))

    @contextlib.contextmanager
    def removing_last(self) -> Iterator[None]:
        """Postpone removals to the end of the block, and leave them out if it raises.

        A block inside of another leaves its removals to the outer one.
        """
        if self._postponed is not None:
            yield
            return
        postponed: list[tuple[str, int]] = []
        self._postponed = postponed
        try:
            yield
        finally:
            self._postponed = None
        for path, inode in postponed:
            # The new file can have taken the old one's name.
            if osp.exists(path) and os.stat(path).st_ino == inode:
                super().remove(path)
