"""Pictures of a distillation: what teacher and student find, and how their samples match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import matplotlib
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
_GAP = 4


@HOOKS.register_module()
class DistillVisualizationHook(Hook):
    """Draws ground truth, teacher and student side by side, and the similarity matrix of teacher and student.

    In every ``interval``-th validation, of the first images of the validation set: the annotated boxes, the teacher's
    detections and the student's; for classifiers the image with its class and the two predictions. Of the training
    step before it, for each loss on logits: CKD's matrix of cosines, a teacher's row against every student's row; a
    student that has learned its teacher's samples has a bright diagonal.

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
        few = {key: value[:wanted] for key, value in data_batch.items()}
        columns: dict[str, Sequence[Any]] = {'ground truth': few['data_samples']}
        if model.teacher.released:
            self._say_released()
        else:
            with isolated_rng():
                columns['teacher'] = model.predict_teacher(few)
        columns['student'] = outputs[:wanted]
        names, colours = _classes(runner.val_dataloader.dataset)
        for number, inputs in enumerate(few['inputs']):
            samples = {title: column[number] for title, column in columns.items()}
            image = draw_columns(
                _read_image(samples['student'], inputs), samples, names, colours, self.score_thr
            )
            runner.visualizer.add_image(f'distill_val_{self._drawn}', image, runner.iter)
            self._drawn += 1

    def _say_released(self) -> None:
        if not self._said_released:
            print_log(
                'DistillVisualizationHook: the teacher is released, so that only ground truth and student are drawn',
                'current',
            )
        self._said_released = True


def draw_columns(
    image: np.ndarray,
    samples: Mapping[str, Any],
    names: Sequence[str],
    colours: Sequence[Sequence[int]],
    score_thr: float,
) -> np.ndarray:
    """One image several times side by side, each with what one data sample says of it.

    Args:
        image: (H, W, 3) RGB; small ones are enlarged.
        samples: Title to data sample. ``'ground truth'`` is read for its annotation, others for their prediction.
        names: Names of the classes.
        colours: RGB of each class.
        score_thr: Detections below are left out.

    Returns:
        (H', W', 3) RGB.
    """
    scale = max(1.0, _SMALLEST_SIDE / min(image.shape[:2]))
    method = cv2.INTER_NEAREST if scale > 2 else cv2.INTER_LINEAR
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)
    columns = []
    for title, sample in samples.items():
        panel = np.ascontiguousarray(image)
        if title == 'ground truth':
            found = sample.get('gt_instances')
            text = _annotated_classes(sample, names)
        else:
            found = sample.get('pred_instances')
            text = _predicted_class(sample, names)
        if found is not None:
            panel = panel.copy()
            drawn = _draw_instances(panel, found, scale, names, colours, score_thr)
            text = f'{drawn} object' + 's' * (drawn != 1)
        heading = np.full((_HEADING, panel.shape[1], 3), 255, dtype=np.uint8)
        _write(heading, f'{title}: {text}' if text else title, (4, _HEADING - 7), (0, 0, 0))
        columns.append(np.concatenate([heading, panel]))
        columns.append(np.full((len(columns[-1]), _GAP, 3), 255, dtype=np.uint8))
    return np.concatenate(columns[:-1], axis=1)


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


def _draw_instances(
    panel: np.ndarray,
    found: Any,
    scale: float,
    names: Sequence[str],
    colours: Sequence[Sequence[int]],
    score_thr: float,
) -> int:
    """Draw boxes, the most certain last; returns how many."""
    scores = found.scores if 'scores' in found else None
    order = range(len(found)) if scores is None else scores.argsort().tolist()
    boxes = getattr(found.bboxes, 'tensor', found.bboxes)
    drawn = 0
    for index in order:
        if scores is not None and scores[index] < score_thr:
            continue
        drawn += 1
        label = int(found.labels[index])
        left, top, right, bottom = (round(float(side) * scale) for side in boxes[index])
        colour = tuple(int(value) for value in colours[label])
        cv2.rectangle(panel, (left, top), (right, bottom), (32, 32, 32), 3)
        cv2.rectangle(panel, (left, top), (right, bottom), colour, 2)
        text = names[label] + ('' if scores is None else f' {scores[index]:.2f}')
        _write(panel, text, (max(left, 0) + 2, max(top, 0) + 12), (255, 255, 255))
    return drawn


def _annotated_classes(sample: Any, names: Sequence[str]) -> str:
    if 'gt_label' not in sample:
        return ''
    return ', '.join(names[label] for label in sample.gt_label.tolist())


def _predicted_class(sample: Any, names: Sequence[str]) -> str:
    if 'pred_label' not in sample:
        return ''
    scores = sample.get('pred_score')
    return ', '.join(
        names[label] + ('' if scores is None else f' {float(scores[label]):.2f}')
        for label in sample.pred_label.tolist()
    )


def _write(image: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, ...]) -> None:
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    if colour == (255, 255, 255):  # readable on any image
        cv2.putText(image, text, place, font, size, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, text, place, font, size, colour, 1, cv2.LINE_AA)


def _read_image(sample: Any, inputs: Tensor) -> np.ndarray:
    """(H, W, 3) RGB: the file, at the size that boxes refer to, or what the data set gave where it has no files."""
    path = sample.metainfo.get('img_path') if hasattr(sample, 'metainfo') else None
    if path is not None:
        return mmcv.imread(path, channel_order='rgb')
    return np.ascontiguousarray(inputs.permute(1, 2, 0).cpu().numpy().astype(np.uint8))


def _classes(dataset: Any) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """Names and RGB colours of the data set's classes; hues around the circle where it has no palette."""
    meta = getattr(dataset, 'metainfo', {})
    names = meta.get('classes') or [str(number) for number in range(1000)]
    palette = meta.get('palette')
    if isinstance(palette, str) or not isinstance(palette, Sequence) or len(palette) < len(names):
        hues = matplotlib.colormaps['hsv'](np.arange(len(names)) / len(names))
        palette = (255 * hues[:, :3]).round().astype(int).tolist()
    return names, palette


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
