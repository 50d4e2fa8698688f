"""Pictures of a distillation: what teacher and student find, and how their samples match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mmkd.distillers import Distiller
from mmkd.distillers.record import StepRecord
from mmkd.functional.agreement import cosine_similarities, matches
from mmkd.losses import LogitLoss
from mmkd.registry import HOOKS
from mmkd.teachers.isolation import isolated_rng

from ._distiller import checked_interval, distiller_of

_SMALLEST_SIDE = 320
_HEADING = 22
_COLUMNS = ('ground truth', 'teacher', 'student')


@HOOKS.register_module()
class DistillVisualizationHook(Hook):
    """Draws ground truth, teacher and student side by side, and the similarity matrix of teacher and student.

    In every ``interval``-th validation, of the first images of the validation set: the annotation, the teacher's
    prediction and the student's, each as MMDetection's or MMPretrain's visualiser draws it. Of the training step before
    it, for each loss on logits: CKD's matrix of cosines, a teacher's row against every student's row; a student that
    has learned its teacher's samples has a bright diagonal.

    The pictures go to the run's visualiser: to ``vis_data/vis_image`` in the run's folder, to TensorBoard, or wherever
    ``vis_backends`` says, under the names ``distill_val_<number>`` and ``distill_similarity_<loss>``, with the
    iteration as the step.

    Training is not changed. A drawn validation costs the teacher's predictions for the images drawn.

    Args:
        interval: Validations from one drawing to the next.
        max_images: Number of images.
        score_thr: Detections below this score are not drawn.
        max_samples: Rows and columns of the matrix, evenly spaced over the samples that a loss picks.

    Raises:
        ValueError: ``interval`` is less than 1.
        ValueError: The run has no distiller.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        interval: int = 1,
        max_images: int = 4,
        score_thr: float = 0.3,
        max_samples: int = 64,
    ) -> None:
        self.interval = checked_interval(interval, self)
        self.max_images = max_images
        self.score_thr = score_thr
        self.max_samples = max_samples
        self._validations = 0
        self._drawn = 0
        self._said_released = False
        self._matrices: dict[str, tuple[Tensor, Tensor | None]] = {}

    def before_train(self, runner: Runner) -> None:
        """Check that there is something to draw."""
        distiller_of(runner, self)

    # ---- the matrix ----

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Ask for the record of the last step before a validation that is drawn."""
        due = (self._validations + 1) % self.interval == 0
        if due and is_main_process() and _validation_follows(runner, batch_idx):
            model = distiller_of(runner, self)
            model.observe_next_step(partial(self._keep_similarities, model))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the matrices."""
        for name, (similarities, same) in self._matrices.items():
            image = draw_similarities(similarities, same)
            runner.visualizer.add_image(f'distill_similarity_{name}', image, runner.iter + 1)
        self._matrices.clear()

    def _keep_similarities(self, model: Distiller, record: StepRecord) -> None:
        for name in record.values:
            loss = model.distill_losses[name]
            if record.step is None or not isinstance(loss, LogitLoss):
                continue
            student, teacher, pairs = loss.compared(record.step)[-1]  # the last stage or layer
            count = min(len(pairs), self.max_samples)
            picked = torch.arange(count, device=student.device) * len(pairs) // max(count, 1)
            if count:
                similarities = cosine_similarities(student[picked], teacher[picked])
                self._matrices[name] = similarities.cpu(), loss.same_object(pairs, picked).cpu()

    # ---- images ----

    def before_val_epoch(self, runner: Runner) -> None:
        """Count the validation."""
        self._validations += 1
        self._drawn = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw the first images."""
        wanted = self.max_images - self._drawn
        if self._validations % self.interval or wanted <= 0 or not outputs or not is_main_process():
            return
        model = distiller_of(runner, self)
        columns: dict[str, Sequence[Any]] = {'ground truth': outputs, 'student': outputs}
        if model.teacher.released:
            self._say_released()
        else:
            few = {key: value[:wanted] for key, value in data_batch.items()}
            with isolated_rng():
                columns['teacher'] = model.predict_teacher(few)
        meta = getattr(runner.val_dataloader.dataset, 'metainfo', {})
        for number, sample in enumerate(outputs[:wanted]):
            samples = {title: columns[title][number] for title in _COLUMNS if title in columns}
            image = _read_image(sample, data_batch['inputs'][number])
            drawn = draw_columns(image, samples, meta, self.score_thr)
            runner.visualizer.add_image(f'distill_val_{self._drawn}', drawn, runner.iter)
            self._drawn += 1

    def _say_released(self) -> None:
        if not self._said_released:
            print_log(
                'DistillVisualizationHook: the teacher is released, so that only ground truth and student are drawn',
                'current',
            )
        self._said_released = True


def draw_columns(
    image: np.ndarray, samples: Mapping[str, Any], meta: Mapping[str, Any], score_thr: float
) -> np.ndarray:
    """One image several times side by side, each with what one data sample says of it.

    Args:
        image: (H, W, 3) RGB; a classifier's is enlarged if it is small.
        samples: Title to data sample. ``'ground truth'`` is read for its annotation, others for their prediction.
        meta: The data set's: names and colours of the classes.
        score_thr: Detections below are left out.

    Returns:
        (H', W', 3) RGB.
    """
    columns = []
    for title, sample in samples.items():
        which = dict(draw_gt=title == 'ground truth', draw_pred=title != 'ground truth')
        if 'gt_label' in sample or 'pred_label' in sample:
            from mmpretrain.visualization import UniversalVisualizer

            painter = UniversalVisualizer()
            classes, side = meta.get('classes'), max(_SMALLEST_SIDE, *image.shape[:2])
            panel = painter.visualize_cls(image, sample, classes, resize=side, **which)
        else:
            from mmdet.visualization import DetLocalVisualizer

            painter = DetLocalVisualizer()
            painter.dataset_meta = dict(meta)
            painter.add_datasample(title, image, sample, pred_score_thr=score_thr, **which)
            panel = painter.get_image()
        heading = np.full((_HEADING, panel.shape[1], 3), 255, dtype=np.uint8)
        cv2.putText(
            heading, title, (4, _HEADING - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), lineType=cv2.LINE_AA
        )  # fmt: skip
        columns.append(np.concatenate([heading, panel]))
    return np.concatenate(columns, axis=1)


def draw_similarities(similarities: Tensor, same: Tensor | None = None) -> np.ndarray:
    """The matrix of cosines as a picture, with how often the diagonal wins.

    Args:
        similarities: (S, S), see :func:`mmkd.functional.agreement.cosine_similarities`.
        same: (S, S), see :func:`mmkd.functional.agreement.matches`.

    Returns:
        (H, W, 3) RGB.
    """
    won = matches(similarities, same).float().mean()
    figure = Figure(figsize=(5.2, 4.6), dpi=100, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = axes.imshow(similarities.numpy(), vmin=-1, vmax=1, cmap='RdBu_r')
    axes.set_title(f'the diagonal wins in {won:.0%} of {len(similarities)} samples', fontsize=10)
    axes.set_xlabel("student's sample")
    axes.set_ylabel("teacher's sample")
    figure.colorbar(shown, label='cosine')
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _read_image(sample: Any, inputs: Tensor) -> np.ndarray:
    """(H, W, 3) RGB: the file, at the size that boxes refer to, or what the data set gave where it has no files."""
    path = sample.metainfo.get('img_path') if hasattr(sample, 'metainfo') else None
    if path is not None:
        return mmcv.imread(path, channel_order='rgb')
    return np.ascontiguousarray(inputs.permute(1, 2, 0).cpu().numpy().astype(np.uint8))


def _validation_follows(runner: Runner, batch_idx: int) -> bool:
    """Whether a validation comes after this iteration."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    done, end = runner.iter + 1, runner.max_iters
    if isinstance(loop, EpochBasedTrainLoop):
        if batch_idx + 1 < len(loop.dataloader):
            return False
        done, end = runner.epoch + 1, runner.max_epochs
    return done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
