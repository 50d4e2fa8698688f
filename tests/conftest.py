"""Fixtures that several test folders share."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import cv2
import mmengine.runner.runner
import numpy as np
import pytest
import yapf.yapflib.yapf_api
from mmengine.config import Config

# A shell has what it runs in the background ignore Ctrl-C, and the runs that tests stop with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Half of the time of a small run: MMEngine formats the config anew for each checkpoint, and asks compilers for their
# versions.
yapf.yapflib.yapf_api.FormatCode = lambda text, **_: (text, True)
mmengine.runner.runner.collect_env = dict

REPOSITORY = Path(__file__).resolve().parent.parent
TINY_RETINANET = REPOSITORY / 'tests' / 'data' / 'tiny_retinanet.py'


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` want a GPU, or to be told to do without."""
    if item.get_closest_marker('gpu') and os.environ.get('MMKD_TEST_DEVICE') != 'cpu':
        from torch import cuda

        if not cuda.is_available():
            pytest.skip('no CUDA device here; where there is one: bash tools/gpu_check.sh')


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of garbage collection: MMEngine asks for one with every data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and four validation images of 64 px in COCO's layout, with 10 classes."""
    from mmkd.datasets import make_shapes

    folder = tmp_path_factory.mktemp('data') / 'tiny_shapes'
    make_shapes(folder, train=8, val=4, size=64, seed=0)
    return folder


@pytest.fixture
def tiny_config(tiny_coco: Path) -> Config:
    """A plain RetinaNet of width 8 that reads ``tiny_coco``; a fresh copy for each test."""
    from mmkd.utils import override_data_root

    cfg = Config.fromfile(TINY_RETINANET)
    override_data_root(cfg, str(tiny_coco))
    return cfg


@pytest.fixture(scope='session')
def tiny_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of 32 px in each of two classes, as folder/train/CLASS/NUMBER.png."""
    folder = tmp_path_factory.mktemp('data') / 'colours'
    noise = np.random.default_rng(0)
    for channel, name in enumerate(('blue', 'green')):
        (folder / 'train' / name).mkdir(parents=True)
        for number in range(4):
            image = noise.integers(0, 128, (32, 32, 3), dtype=np.uint8)
            image[..., channel] += 127
            cv2.imwrite(str(folder / 'train' / name / f'{number}.png'), image)
    return folder


@pytest.fixture(scope='session')
def fresh_names() -> Callable[[], list[str]]:
    """Config options that keep a run in this process apart from the others.

    MMEngine keeps loggers and message hubs by the name of the run and visualisers by their own.
    """
    numbers = itertools.count()

    def options() -> list[str]:
        name = f'test_run_{next(numbers)}'
        return [f'experiment_name={name}', f'visualizer.name={name}']

    return options


@pytest.fixture(scope='session')
def load_tool() -> Callable[[str], ModuleType]:
    """Import a script of ``tools/`` by its name without ``.py``, to call its functions."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f'mmkd_tools_{name}', REPOSITORY / 'tools' / f'{name}.py'
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look up their annotations
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def clean_environment() -> Iterator[None]:
    """Undo what a run in this process does to the environment and the search path."""
    environment, path = dict(os.environ), list(sys.path)
    yield
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
