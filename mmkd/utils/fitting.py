"""A checkpoint that is tested or resumed fits its model."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from mmkd.checkpoints import load_weights
from mmkd.heads import DISTILL_PREFIX, plain_weights
from mmkd.utils.preflight import PreflightError
from mmkd.utils.student_config import unwrapped_model


class FittingCheckpoint(Hook):
    """Refuses a checkpoint that does not fit the model; MMEngine would load what does and leave the rest random.

    What losses train (``distill.*``) may be missing: a run whose losses are over no longer has it.

    Args:
        setting: What the checkpoint was given by, for the error.
    """

    priority = 'VERY_HIGH'

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare names and shapes of the weights with the model's.

        Raises:
            PreflightError: They differ; the message lists them.
        """
        if isinstance(runner.model, FullyShardedDataParallel):  # its parameters are flat pieces
            return
        model = unwrapped_model(runner)
        weights = checkpoint.get('state_dict', checkpoint)
        ours = {
            key: value
            for key, value in model.state_dict().items()
            if key.startswith(DISTILL_PREFIX)
        }
        problems = load_weights(
            model, ours | plain_weights(model, weights), getattr(weights, '_metadata', {})
        )
        if problems:
            raise PreflightError(
                f'{self.setting}: {runner._load_from} does not fit the model of the config:\n  '
                + '\n  '.join(problems)
                + '\ngive the config that it was trained with (same architecture, same number of classes)'
            )
