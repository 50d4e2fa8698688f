"""The pictures show what was annotated, predicted and compared, go to the run's visualiser, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from tiny import CKD, NUM_CLASSES, TINY_RETINANET, same, student_model, teacher_model, train
from zoo import batch, distiller, mmdet_scope

from mmkd.distillers.record import StepRecord
from mmkd.hooks import DistillVisualizationHook
from mmkd.hooks.visualization import draw_columns, draw_similarities
from mmkd.utils import override_data_root

PICTURES = dict(type='mmkd.DistillVisualizationHook', max_images=3, score_thr=0.0)
PANEL = 320
RED, GREEN = (250, 10, 20), (10, 240, 30)


def pictures(work_dir: Path) -> dict[str, np.ndarray]:
    (folder,) = work_dir.glob('*/vis_data/vis_image')
    return {path.stem: cv2.imread(str(path))[..., ::-1] for path in folder.iterdir()}


# ---- whole runs


@pytest.fixture(scope='module')
def drawn(run_with: Callable[..., Any]) -> Any:
    return run_with(PICTURES)


def test_every_validation_is_drawn_and_the_step_before_it(drawn: Any) -> None:
    """Three images of the four, one per batch; a loss on features has no matrix."""
    found = pictures(drawn.work_dir)
    assert found.keys() == {
        f'{name}_{iteration}'
        for iteration in (4, 8)
        for name in ('distill_val_0', 'distill_val_1', 'distill_val_2', 'distill_similarity_ckd')
    }
    panels = np.split(
        found['distill_val_0_8'][:, : PANEL * 3 + 8], [PANEL + 4, 2 * (PANEL + 4)], axis=1
    )
    assert found['distill_val_0_8'].shape[1] == 3 * PANEL + 8
    truth, teacher, student = (panel[22:, :PANEL] for panel in panels)
    assert not np.array_equal(truth, teacher)
    assert not np.array_equal(teacher, student)


def test_training_is_the_same_with_and_without_pictures(drawn: Any, without_hooks: Any) -> None:
    assert same(drawn.weights, without_hooks.weights)


def test_without_the_teacher_its_column_is_left_out(run_with: Callable[..., Any]) -> None:
    stop = dict(type='Stop', at=0.5)
    run = run_with(PICTURES, model__losses=dict(_delete_=True, ckd=CKD | dict(weight=stop)))
    found = pictures(run.work_dir)
    assert not any('similarity' in name for name in found)
    assert {image.shape[1] for image in found.values()} == {2 * PANEL + 4}
    assert run.log.count('only ground truth and student are drawn') == 1


def test_every_second_validation_of_an_iteration_based_run(run_with: Callable[..., Any]) -> None:
    run = run_with(
        PICTURES | dict(interval=2, max_images=1),
        train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=7, val_interval=2),
        log_processor__by_epoch=False,
        train_dataloader__sampler=dict(_delete_=True, type='InfiniteSampler'),
    )
    # Validations after iterations 2, 4, 6 and 7.
    assert pictures(run.work_dir).keys() == {
        f'{name}_{iteration}'
        for iteration in (4, 7)
        for name in ('distill_val_0', 'distill_similarity_ckd')
    }


def test_a_classifiers_images_and_matrix(tiny_imagenet: Path, tmp_path: Path) -> None:
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    override_data_root(config, str(tiny_imagenet))
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.collate_fn = dict(type='default_collate')
    config.default_hooks.checkpoint.interval = -1
    config.model = dict(
        type='mmkd.Distiller',
        student=config.model,
        teacher=dict(config=config.to_dict(), checkpoint='random_init'),
        losses=dict(ckd=dict(type='mmkd.CKDLoss')),
    )
    config.custom_hooks = [PICTURES]
    train(config, tmp_path)
    found = pictures(tmp_path)
    assert found.keys() == {
        'distill_val_0_4', 'distill_val_1_4', 'distill_val_2_4', 'distill_similarity_ckd_4'
    }  # fmt: skip
    truth, teacher, student = (
        found['distill_val_0_4'][22:, start : start + PANEL]
        for start in (0, PANEL + 4, 2 * PANEL + 8)
    )
    assert np.array_equal(truth, teacher)
    assert np.array_equal(truth, student)
    headings = [
        found['distill_val_0_4'][:22, start : start + PANEL]
        for start in (0, PANEL + 4, 2 * PANEL + 8)
    ]
    assert all((heading < 128).any() for heading in headings)
    assert not np.array_equal(headings[0], headings[1])


# ---- one picture


def sample(kind: str, boxes: Any, labels: Any, scores: Any = None) -> DetDataSample:
    found = InstanceData(bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.tensor(labels))
    if scores is not None:
        found.scores = torch.tensor(scores)
    return DetDataSample(**{kind: found})


def test_boxes_are_drawn_in_their_columns_colours_and_places() -> None:
    samples = {
        'ground truth': sample('gt_instances', [[10.0, 50.0, 60.0, 90.0]], [0]),
        'teacher': sample('pred_instances', [[20.0, 50.0, 90.0, 80.0]], [1], [0.9]),
        'student': sample(
            'pred_instances',
            [[10.0, 60.0, 50.0, 90.0], [0.0, 55.0, 99.0, 99.0]],
            [0, 1],
            [0.4, 0.2],
        ),
    }
    image = draw_columns(
        np.zeros((100, 100, 3), np.uint8), samples, ['ring', 'star'], [RED, GREEN], score_thr=0.3
    )
    scale = PANEL / 100
    assert image.shape == (22 + PANEL, 3 * PANEL + 8, 3)

    def at(column: int, x: float, y: float) -> tuple[int, ...]:
        return tuple(image[22 + round(y * scale), column * (PANEL + 4) + round(x * scale)].tolist())

    assert at(0, 60, 70) == RED
    assert at(1, 90, 65) == GREEN
    assert at(2, 50, 80) == RED
    assert at(2, 99, 75) == (0, 0, 0), 'below the threshold'
    assert at(1, 60, 70) == (0, 0, 0)


def test_classes_stand_in_the_headings() -> None:
    truth = DataSample().set_gt_label(1)
    right, wrong = (
        DataSample().set_pred_label(label).set_pred_score(torch.tensor([0.3, 0.7]))
        for label in (1, 0)
    )
    draw = partial(
        draw_columns,
        np.full((8, 8, 3), 77, np.uint8),
        names=['cat', 'dog'],
        colours=[RED, GREEN],
        score_thr=0.5,
    )
    image = draw(samples={'ground truth': truth, 'teacher': right, 'student': wrong})
    assert (image[22:, :PANEL] == 77).all()
    again = draw(samples={'ground truth': truth, 'teacher': wrong, 'student': wrong})
    assert not np.array_equal(image[:22, PANEL : 2 * PANEL], again[:22, PANEL : 2 * PANEL])
    assert np.array_equal(image[:22, :PANEL], again[:22, :PANEL])


def test_the_matrix_is_ckds() -> None:
    """Rows centred, as CKD does on a sigmoid head; evenly spaced where there are more samples than asked for."""
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD))
    hook = DistillVisualizationHook(max_samples=5)
    records: list[StepRecord] = []
    model.observe_next_step(records.append)
    model.observe_next_step(partial(hook._keep_similarities, model))
    with mmdet_scope():
        model(**batch(size=64, num_classes=NUM_CLASSES), mode='loss')
    ((pairs,),) = records[0].step.answers.values()
    similarities, same = hook._matrices['ckd']
    assert similarities.shape == (5, 5)
    places = [i * len(pairs) // 5 for i in range(5)]
    groups = pairs.object_groups[places].tolist()
    assert same.tolist() == [[one == other >= 0 for one in groups] for other in groups]
    for row, i in enumerate(places):
        for column, j in enumerate(places):
            teacher, student = pairs.teacher[i], pairs.student[j].detach()
            teacher, student = teacher - teacher.mean(), student - student.mean()
            cosine = torch.cosine_similarity(teacher.double(), student.double(), dim=0)
            assert similarities[row, column] == pytest.approx(float(cosine), abs=1e-5)


def test_the_matrix_is_a_picture_with_a_diagonal() -> None:
    learned, other = draw_similarities(torch.eye(6)), draw_similarities(torch.zeros(6, 6))
    assert learned.dtype == np.uint8
    assert learned.shape == other.shape
    deep_red = (learned[..., 0] > 90) & (learned[..., 1] < 20) & (learned[..., 2] < 60)
    assert deep_red[:, :350].any()
    assert not ((other[..., 0] > 90) & (other[..., 1] < 20) & (other[..., 2] < 60))[:, :350].any()
