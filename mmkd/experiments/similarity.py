"""How alike teacher and student see the classes, on the samples that the distillation compares."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint

from mmkd.distillers.record import StepRecord
from mmkd.losses import LogitLoss
from mmkd.registry import MODELS


def class_similarities(
    recipe: Config, checkpoint: str | Path, batches: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's correlation of each two classes' logits, over the samples that a recipe's loss picks in test images.

    Args:
        recipe: A distillation with a loss on logits.
        checkpoint: The student's.
        batches: So many batches of the test set are looked at.

    Returns:
        (C, C) of the teacher and of the student.
    """
    recipe = copy.deepcopy(recipe)  # building takes parts out of it
    init_default_scope(recipe.get('default_scope', 'mmengine'))
    config = dict(recipe.model)
    if recipe.get('data_preprocessor') is not None:
        config.setdefault('data_preprocessor', recipe.data_preprocessor)
    loader = Runner.build_dataloader(recipe.test_dataloader, seed=0)
    MessageHub.get_current_instance().update_info('dataset_meta', loader.dataset.metainfo)
    distiller = MODELS.build(config)
    load_checkpoint(distiller.student, str(checkpoint), map_location='cpu', logger='silent')
    distiller.eval()
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(record: StepRecord) -> None:
        losses = [distiller.distill_losses[name] for name in record.values]
        loss = next(loss for loss in losses if isinstance(loss, LogitLoss))
        assert record.step is not None
        kept.extend((pairs.teacher, pairs.student) for _, _, pairs in loss.compared(record.step))

    with torch.no_grad():
        for data in itertools.islice(loader, batches):
            distiller.observe_next_step(keep)
            distiller.loss(**distiller.data_preprocessor(data, training=True))
    classes = len(loader.dataset.metainfo['classes'])
    teacher, student = (
        correlations(torch.cat(rows)[:, :classes].double().numpy())
        for rows in zip(*kept, strict=True)
    )
    return teacher, student


def correlations(logits: np.ndarray) -> np.ndarray:
    """(N, C) to (C, C): of the logits less each row's mean; a class whose logit never changes correlates with none."""
    rows = logits - logits.mean(axis=1, keepdims=True)
    centred = rows - rows.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12)
    return unit.T @ unit
