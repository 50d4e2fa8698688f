"""What to do when a GPU's memory does not suffice."""

from __future__ import annotations

from mmengine.config import Config

from mmkd.utils.student_config import is_distiller


def memory_advice(cfg: Config, error: Exception) -> str:
    """Which settings of a run would save memory, those that save most first.

    Args:
        cfg: The run's config.
        error: PyTorch's error.

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
        f'Out of GPU memory: {error}\n\nWhat saves memory:\n{listed}\n'
        'Then go on from the last checkpoint with --resume.'
    )
