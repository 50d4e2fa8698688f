"""Evaluates the teacher before training."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkd.distillers import Distiller
from mmkd.registry import HOOKS
from mmkd.teachers.isolation import isolated_rng
from mmkd.utils.quiet import quiet_evaluation

from ._distiller import distiller_of


@HOOKS.register_module()
class TeacherCheckHook(Hook):
    """Evaluates the teacher once, before training, on the run's validation set, and logs its score.

    A teacher with wrong weights, classes or preprocessing causes no error, only a bad student. Here it predicts with
    its own normalisation and test settings, and its classes are mapped to those of the data set. The hook warns if the
    score is not above the student's at that moment, or far below the expected one.

    The evaluation has its own data loader and evaluator, and changes neither random numbers nor message hub nor
    validation: the hook does not change the result of training. A resumed run skips it.

    It costs one pass of the teacher, and one of the student, over the validation set.

    Args:
        num_batches: Number of batches per process; None for all. Metrics that read an annotation file then count only
            the images of these batches.
        metric: Name of the score; higher is better. Default: the first one of the evaluator, such as
            ``coco/bbox_mAP`` or ``accuracy/top1``.
        expected: The teacher's known score, in the evaluator's unit (COCO's mAP is at most 1, accuracies at most 100).
        tolerance: Warn of a score below ``expected * (1 - tolerance)``.
        compare_student: Also evaluate the student before training.

    Attributes:
        scores: ``'teacher'`` and ``'student'`` to all scores of the evaluator; empty before training.

    Raises:
        ValueError: The run has no validation set, or its evaluator has no such metric.
        ValueError: The run has no distiller.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        num_batches: int | None = None,
        metric: str | None = None,
        expected: float | None = None,
        tolerance: float = 0.1,
        compare_student: bool = True,
    ) -> None:
        if num_batches is not None and num_batches < 1:
            raise ValueError(f'TeacherCheckHook.num_batches is {num_batches}: at least 1, or None')
        self.num_batches = num_batches
        self.metric = metric
        self.expected = expected
        self.tolerance = tolerance
        self.compare_student = compare_student
        self.scores: dict[str, dict[str, float]] = {}

    def before_train(self, runner: Runner) -> None:
        """Evaluate, log, warn."""
        distiller_of(runner, self)
        if runner.iter > 0:
            print_log('teacher check: skipped, as the run is resumed', 'current')
            return
        if runner.val_loop is None:
            raise ValueError(
                'TeacherCheckHook has no validation set to evaluate the teacher on: set val_dataloader, val_cfg and '
                'val_evaluator, or take the hook out of custom_hooks'
            )
        text, warnings = self.check(runner)
        print_log(f'teacher check: {text}', 'current')
        for warning in warnings:
            print_log(f'teacher check: {warning}', 'current', logging.WARNING)

    def check(self, runner: Runner) -> tuple[str, list[str]]:
        """Evaluate the teacher, and the student if wanted, on the run's validation set.

        Returns:
            A sentence with the scores, and warnings.
        """
        model = distiller_of(runner, self)
        model.match_classes()
        with (
            isolated_rng(),
            quiet_evaluation(),
        ):  # the evaluator's tables would not say which network they are of
            self.scores['teacher'] = self._evaluate(runner, model.predict_teacher)
            if self.compare_student:
                self.scores['student'] = self._evaluate(runner, _predict_in_eval(model))
        first = next(iter(model.teachers))
        who = 'the teacher' if len(model.teachers) == 1 else f'the first teacher, {first!r},'
        return self._report(len(runner.val_dataloader), who)

    def _evaluate(self, runner: Runner, predict: Callable[[Any], list[Any]]) -> dict[str, float]:
        loader = _own_loader(runner.val_dataloader)
        evaluator = _own_evaluator(runner)
        images: list[Any] = []
        for batch in itertools.islice(loader, self.num_batches):
            with torch.no_grad(), torch.autocast(_device(runner), enabled=runner.val_loop.fp16):
                samples = predict(batch)
            images += [sample.get('img_id') for sample in samples]
            evaluator.process(data_samples=samples, data_batch=batch)
        number = len(loader.dataset)  # type: ignore[arg-type]
        if self.num_batches is not None:
            images = [image for part in all_gather_object(images) for image in part]
            number = min(number, len(images))
            for metric in evaluator.metrics:
                if getattr(metric, 'img_ids', ...) is None:
                    metric.img_ids = images
        return evaluator.evaluate(number)

    def _report(self, batches: int, who: str = 'the teacher') -> tuple[str, list[str]]:
        metric = self.metric or next((name for names in self.scores.values() for name in names), '')
        given = {name for scores in self.scores.values() for name in scores}
        if given and metric not in given:
            raise ValueError(
                f'TeacherCheckHook.metric: the evaluator gives no {metric!r}; it gives {", ".join(sorted(given))}'
            )
        # COCO's evaluator gives no score at all to a detector that finds nothing.
        score = float(self.scores['teacher'].get(metric, 0.0))
        seen = 'the validation set'
        if self.num_batches is not None and self.num_batches < batches:
            seen = f'{self.num_batches} of {batches} batches of {seen}'
        metric = metric or 'score'
        text = f'{metric} of {who} on {seen} is {score:.4g}'
        if score < 0:  # COCO's evaluator again
            return f'{text}: there are no objects in it', []
        warnings = []
        if self.compare_student:
            start = float(self.scores['student'].get(metric, 0.0))
            text += f', of the student before training {start:.4g}'
            if not score > start:
                warnings.append(
                    f'{who} ({metric} {score:.4g}) is not better than the student is before training '
                    f'({start:.4g}): it can teach nothing. Are model.teacher.checkpoint and model.teacher.config '
                    'those of one training, and the classes in the same order?'
                )
        if self.expected is not None and not score >= self.expected * (1 - self.tolerance):
            warnings.append(
                f"the teacher's {metric} is {score:.4g}, far below the expected {self.expected:.4g}: check "
                "model.teacher.checkpoint, the size of the validation images, and the teacher's data_preprocessor "
                '(mean, std, bgr_to_rgb)'
            )
        return text, warnings


def _own_loader(loader: DataLoader) -> DataLoader:
    """A second loader over the same data, so that workers of the run's own draw no random numbers for this."""
    return DataLoader(
        loader.dataset,
        batch_sampler=loader.batch_sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _own_evaluator(runner: Runner) -> Evaluator:
    """A second evaluator from the run's config, so that the one for validation is not changed."""
    config = runner._val_evaluator
    if isinstance(config, Evaluator):
        raise ValueError(
            'TeacherCheckHook needs val_evaluator as a config, to build another one: the Runner was given an Evaluator'
        )
    evaluator = runner.build_evaluator(config)
    evaluator.dataset_meta = runner.val_evaluator.dataset_meta
    return evaluator


def _predict_in_eval(model: Distiller) -> Callable[[Any], list[Any]]:
    def predict(batch: Any) -> list[Any]:
        training = model.training
        model.eval()
        try:
            return model.val_step(batch)
        finally:
            model.train(training)

    return predict


def _device(runner: Runner) -> str:
    return next(runner.model.parameters()).device.type
