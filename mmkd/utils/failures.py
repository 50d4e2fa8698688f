"""What a user can do about an error that MMEngine or PyTorch raises in the middle of a run."""

from __future__ import annotations

import torch
from mmengine.config import Config

from mmkd.utils.student_config import is_distiller


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
    if isinstance(error, RuntimeError) and 'DataLoader worker' in str(error):
        workers = (cfg.get('train_dataloader') or {}).get('num_workers')
        return (
            'A process that loads images was ended from outside, mostly by the system for lack of memory '
            f'(dmesg says so): take fewer than {workers} of them (--cfg-options train_dataloader.num_workers=N), '
            'or give the container more shared memory (--shm-size). Then go on from the last checkpoint with '
            '--resume.'
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
