"""What a user can do about an error that ends a run."""

from __future__ import annotations

import os.path as osp
import traceback
from typing import Any

import mmengine.registry
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

import mmkd
from mmkd.utils.student_config import is_distiller

_MMKD = osp.dirname(mmkd.__file__ or '') + osp.sep
_REGISTRY = osp.dirname(mmengine.registry.__file__ or '') + osp.sep
_LOADING = osp.join('mmcv', 'transforms', 'loading.py')


class FirstStep(Hook):
    """Knows whether a run has made a step since it began or went on."""

    done = False

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """It has."""
        self.done = True


def setting_at_fault(error: BaseException) -> str | None:
    """What an error says of a setting, if it was raised to say that.

    Args:
        error: What ended a run before its first step.

    Returns:
        The message of an error that this package raises, or MMEngine where it builds what a config names; None of any
        other, for which one has to know the place in the code.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(
        error, (ValueError, TypeError, KeyError, RuntimeError, FileNotFoundError)
    ):
        return None
    file, line = osp.abspath(frames[-1].filename), frames[-1].line or ''
    # What Python raises within this package, without a `raise`, is a mistake of the package.
    if not (file.startswith(_REGISTRY) or (file.startswith(_MMKD) and line.startswith('raise '))):
        return None
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def advice_on(error: BaseException, cfg: Config) -> str | None:
    """What to do about an error, None where there is nothing to add to it.

    Args:
        error: What ended the run.
        cfg: The run's config.

    Returns:
        A text to stand below the error.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return memory_advice(cfg)
    if isinstance(error, RuntimeError) and 'DataLoader worker (pid' in str(error):
        workers = (cfg.get('train_dataloader') or {}).get('num_workers')
        return (
            'A process that loads images was ended from outside, mostly by the system for lack of memory '
            f'(dmesg says so): take fewer than {workers} of them (--cfg-options train_dataloader.num_workers=N), '
            'or give the container more shared memory (--shm-size). Then go on from the last checkpoint with '
            '--resume.'
        )
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    loading = [frame for frame in frames if frame.f_code.co_filename.endswith(_LOADING)]
    if loading or _LOADING in str(error):  # PyTorch puts a worker's traceback into the message
        name = loading[-1].f_locals.get('filename') if loading else None
        return (
            f'{f"The image {name}" if name else "An image"} cannot be read: mend or replace it; of the training data, '
            '--bad-images skip names and counts such images and takes others in their place.'
        )
    return None


def memory_advice(cfg: Config) -> str:
    """Which settings of a run would save memory, those that save most first.

    Args:
        cfg: The run's config.

    Returns:
        A text that names each setting with its value now.
    """
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size')
    optim_wrapper = cfg.get('optim_wrapper') or {}
    advice = []
    if optim_wrapper.get('type') != 'AmpOptimWrapper':
        advice.append('--amp: mixed precision halves what the activations take')
    if batch_size and batch_size > 1:
        advice.append(
            f'--cfg-options train_dataloader.batch_size={batch_size // 2} '
            f'optim_wrapper.accumulative_counts={2 * optim_wrapper.get("accumulative_counts", 1)}: '
            f'half of the {batch_size} images at a time, the same number per step'
        )
    if is_distiller(cfg.get('model')):
        for name, loss in (cfg.model.get('losses') or {}).items():
            kind = str(loss.get('type')).removeprefix('mmkd.')
            if kind == 'CKDLoss' and loss.get('chunk_size') is None:
                advice.append(
                    f'--cfg-options model.losses.{name}.chunk_size=1024: the similarities of CKD in parts'
                )
            samples = loss.get('samples') or {}
            if samples.get('k', 0) > 1:
                advice.append(
                    f'--cfg-options model.losses.{name}.samples.k={samples["k"] // 2}: fewer samples per '
                    f'image than {samples["k"]}'
                )
    advice.append(
        'smaller images (train_dataloader.dataset.pipeline), or a GPU that no other process uses'
    )
    listed = '\n'.join(f'  {text}' for text in advice)
    return (
        f'The GPU has too little memory for this run. What saves memory:\n{listed}\n'
        'Then go on from the last checkpoint with --resume.'
    )
