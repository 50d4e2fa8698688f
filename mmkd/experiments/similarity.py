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
    records: list[StepRecord] = []
    with torch.no_grad():
        for data in itertools.islice(loader, batches):
            distiller.observe_next_step(records.append)
            distiller.loss(**distiller.data_preprocessor(data, training=True))
    losses = distiller.distill_losses.values()
    loss = next(loss for loss in losses if isinstance(loss, LogitLoss))
    steps = [record.step for record in records if record.step is not None]
    kept = [pairs for step in steps for _, _, pairs in loss.compared(step)]
    classes = len(loader.dataset.metainfo['classes'])
    teacher, student = (
        correlations(torch.cat(rows)[:, :classes].double().numpy())
        for rows in ([pairs.teacher for pairs in kept], [pairs.student for pairs in kept])
    )
    return teacher, student


def correlations(logits: np.ndarray) -> np.ndarray:
    """(N, C) to (C, C): of the logits less each row's mean; a class whose logit never changes correlates with none."""
    with np.errstate(invalid='ignore'):
        return np.nan_to_num(np.corrcoef(logits - logits.mean(axis=1, keepdims=True), rowvar=False))
