"""Measures the effect of each distillation loss, and how far the student agrees with its teacher."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmkd.distillers import Distiller
from mmkd.distillers.record import StepRecord
from mmkd.functional.agreement import cosine_similarities, matches, same_top1
from mmkd.losses import LogitLoss
from mmkd.losses.gradient_shares import gradient_of, keep_graphs, parameters_under, recomputing
from mmkd.registry import HOOKS
from mmkd.structures import Step

from ._distiller import checked_interval, distiller_of

PREFIX = 'train/distill/'
SHARED = ('backbone', 'neck')
"""The parts of a student that take part in every step of every process."""


@HOOKS.register_module()
class DistillMonitorHook(Hook):
    """Measures every distillation loss at intervals and writes the numbers to MMEngine's log and visualisers.

    In every ``interval``-th iteration, for each loss with a weight other than 0, on that iteration's batch:

    - ``distill/<loss>/value``: the loss without its weight;
    - ``distill/<loss>/grad_share``: the norm of its weighted gradient on the shared parameters, divided by the sum of
      the norms of the student's own loss and of all distillation losses; that of the student's own loss is
      ``distill/task_grad_share``, and all shares sum to 1;
    - ``distill/<loss>/task_cosine``: the cosine of its gradient with that of the student's own loss; below 0 the two
      work against each other;
    - ``distill/<loss>/top1_agreement``, for losses on logits: how often student and teacher have the same highest
      class, among the samples that the loss picks;
    - ``distill/<loss>/matching_accuracy``, for losses on logits: how often the teacher's row is closer to the student's
      row of the same sample than to that of any other sample (as in CKD, where samples of the same object are left
      out). With several processes, each compares its own samples.

    ``distill/<loss>/weight`` is also written for losses with weight 0. Numbers that the last measurement does not have
    are removed from the log. With several processes, all numbers are averaged over them.

    Training is not changed. A measured iteration costs one additional backward pass to the shared parameters for each
    loss, including the student's own; other iterations cost nothing.

    Args:
        interval: Number of iterations from one measurement to the next.
        parameters: Prefixes of the shared parameters' names in the student: ``'backbone'``, ``'backbone.layer4'``, or
            ``['backbone', 'neck']``. Frozen ones do not count.
        max_samples: Largest number of samples for the matching accuracy, evenly spaced among those that a loss picks.

    Raises:
        ValueError: ``interval`` is less than 1; no trainable parameter has such a name; or it is in a head and there
            are several processes.
        ValueError: The run has no distiller.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        interval: int = 50,
        parameters: str | Sequence[str] = 'backbone',
        max_samples: int = 1024,
    ) -> None:
        self.interval = checked_interval(interval, self)
        self.parameters = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        self.max_samples = max_samples
        self._measure_gradients = True

    def before_train(self, runner: Runner) -> None:
        """Check the options, and whether gradients can be measured."""
        model = distiller_of(runner, self)
        self._shared_parameters(model)
        elsewhere = [name for name in self.parameters if name.split('.')[0] not in SHARED]
        if elsewhere and get_world_size() > 1:
            raise ValueError(
                f'DistillMonitorHook.parameters: {", ".join(elsewhere)} may have no part in the step of one process (a '
                'stage that has run out of RoIs), and the others would wait for it: with several processes name parts '
                f'of {" or ".join(SHARED)}'
            )
        why = self.prepare(model)
        if isinstance(runner.model, FullyShardedDataParallel):
            why, self._measure_gradients = 'FSDP shards the parameters', False
        if why:
            print_log(
                f'DistillMonitorHook: {why}, which a second backward pass would disturb: gradients are not measured',
                'current',
                logging.WARNING,
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Request the record of the next step, in every ``interval``-th iteration."""
        if self.every_n_train_iters(runner, self.interval):
            model = distiller_of(runner, self)
            model.observe_next_step(partial(self._write, runner, model))

    def prepare(self, model: Distiller) -> str:
        """Get ready for the steps of a model; why its gradients are not measured, nothing where they are."""
        keep_graphs()
        part = recomputing(model.student, self.parameters)
        self._measure_gradients = part is None
        return f'{part} recomputes activations in its backward pass (with_cp, num_cp)' * bool(part)

    def measure(self, model: Distiller, record: StepRecord, scale: float = 1.0) -> dict[str, float]:
        """The numbers of one step by name, such as ``'ckd/grad_share'``, from its record.

        Args:
            model: The distiller.
            record: The step, see :meth:`Distiller.observe_next_step`.
            scale: Factor that a gradient scaler puts on the loss.
        """
        numbers = {f'{name}/weight': float(weight) for name, weight in record.weights.items()}
        for name, value in record.values.items():
            numbers[f'{name}/value'] = float(_mean(value.detach().float().clone()))
        if record.step is not None:
            numbers |= self._agreement(model, record, record.step)
        if record.values and self._measure_gradients:
            numbers |= self._gradients(model, record, scale)
        return numbers

    def _write(self, runner: Runner, model: Distiller, record: StepRecord) -> None:
        numbers = self.measure(model, record, _loss_scale(runner.optim_wrapper))
        hub = runner.message_hub
        for key in [key for key in hub.log_scalars if key.startswith(PREFIX)]:
            if key.removeprefix(PREFIX) not in numbers:
                hub.log_scalars.pop(key)
        for name, number in numbers.items():
            hub.update_scalar(PREFIX + name, number)

    def _agreement(self, model: Distiller, record: StepRecord, step: Step) -> dict[str, float]:
        numbers = {}
        for name in record.values:
            loss = model.distill_losses[name]
            if not isinstance(loss, LogitLoss):
                continue
            counts = torch.zeros(4, device=step.inputs.device)
            for student, teacher, pairs in loss.compared(step):
                picked = _evenly_spaced(len(pairs), self.max_samples, student.device)
                similarities = cosine_similarities(student[picked], teacher[picked])
                won = matches(similarities, loss.same_object(pairs, picked))
                agreed = same_top1(pairs.student.detach(), pairs.teacher)
                counts += counts.new_tensor([agreed.sum(), len(agreed), won.sum(), len(won)])
            all_reduce(counts)
            agreed, samples, won, contrasted = counts.tolist()
            if samples:
                numbers[f'{name}/top1_agreement'] = agreed / samples
                numbers[f'{name}/matching_accuracy'] = won / contrasted
        return numbers

    def _gradients(self, model: Distiller, record: StepRecord, scale: float) -> dict[str, float]:
        """Shares and cosines; empty if a gradient is not finite, as when a gradient scaler's factor is too large."""
        parameters = self._shared_parameters(model)
        task, _ = model.parse_losses(dict(record.task))
        task_gradient, _ = gradient_of(task, parameters, scale)
        norms = {'task': float(task_gradient.norm())}
        cosines = {}
        for name, value in record.values.items():
            gradient, _ = gradient_of(record.weights[name] * value, parameters, scale)
            norms[name] = float(gradient.norm())
            if norms['task'] > 0 and norms[name] > 0:
                dot = float(gradient @ task_gradient)
                cosines[f'{name}/task_cosine'] = dot / norms['task'] / norms[name]
        total = sum(norms.values())
        if not 0 < total < float('inf'):
            return {}
        shares = {f'{name}/grad_share': norms[name] / total for name in record.values}
        return shares | cosines | {'task_grad_share': norms['task'] / total}

    def _shared_parameters(self, model: Distiller) -> list[nn.Parameter]:
        where = 'DistillMonitorHook.parameters'
        return list(parameters_under(model.student, self.parameters, where).values())


def _mean(values: Tensor) -> Tensor:
    all_reduce(values, op='mean')
    return values


def _loss_scale(optim_wrapper: Any) -> float:
    """Factor that a gradient scaler puts on the loss, so that float16 gradients do not underflow."""
    scaler = getattr(optim_wrapper, 'loss_scaler', None)
    return scaler.get_scale() if scaler is not None and scaler.is_enabled() else 1.0


def _evenly_spaced(number: int, limit: int, device: torch.device) -> Tensor:
    """At most ``limit`` indices below ``number``, ascending."""
    count = min(number, limit)
    return torch.arange(count, device=device) * number // max(count, 1)
