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
RED, GREEN = (250, 10, 20), (10, 240, 30)


def pictures(work_dir: Path) -> dict[str, np.ndarray]:
    (folder,) = work_dir.glob('*/vis_data/vis_image')
    return {path.stem: cv2.imread(str(path))[..., ::-1] for path in folder.iterdir()}


def panels(image: np.ndarray, number: int) -> list[np.ndarray]:
    """The columns of a picture without their headings."""
    return np.split(image[22:], number, axis=1)


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
    truth, teacher, student = panels(found['distill_val_0_8'], 3)
    assert not np.array_equal(truth, teacher)
    assert not np.array_equal(teacher, student)


def test_training_is_the_same_with_and_without_pictures(drawn: Any, without_hooks: Any) -> None:
    assert same(drawn.weights, without_hooks.weights)


def test_without_the_teacher_its_column_is_left_out(run_with: Callable[..., Any]) -> None:
    stop = dict(type='Stop', at=0.5)
    run = run_with(PICTURES, model__losses=dict(_delete_=True, ckd=CKD | dict(weight=stop)))
    found = pictures(run.work_dir)
    assert not any('similarity' in name for name in found)
    assert {image.shape[1] for image in found.values()} == {2 * 64}
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
    truth, teacher, _ = panels(found['distill_val_0_4'], 3)
    assert truth.shape == (320, 320, 3)
    assert not np.array_equal(truth, teacher)


# ---- one picture


def sample(kind: str, boxes: Any, labels: Any, scores: Any = None) -> DetDataSample:
    found = InstanceData(bboxes=torch.tensor(boxes).view(-1, 4), labels=torch.tensor(labels))
    if scores is not None:
        found.scores = torch.tensor(scores)
    return DetDataSample(**{kind: found})


def test_boxes_are_drawn_in_their_columns_colours_and_places() -> None:
    samples = {
        'ground truth': sample('gt_instances', [[40.0, 100.0, 140.0, 180.0]], [0]),
        'teacher': sample('pred_instances', [[40.0, 100.0, 180.0, 160.0]], [1], [0.9]),
        'student': sample(
            'pred_instances',
            [[40.0, 120.0, 100.0, 180.0], [20.0, 110.0, 190.0, 190.0]],
            [0, 1],
            [0.4, 0.2],
        ),
    }
    meta = dict(classes=('ring', 'star'), palette=[RED, GREEN])
    image = draw_columns(np.zeros((200, 200, 3), np.uint8), samples, meta, score_thr=0.3)
    truth, teacher, student = panels(image, 3)

    def colour(panel: np.ndarray, x: int, y: int) -> tuple[bool, bool]:
        """Whether there is red, and green, around a point."""
        around = panel[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        return bool((around[:, 0] > 100).any()), bool((around[:, 1] > 100).any())

    assert colour(truth, 140, 150) == (True, False)
    assert colour(teacher, 180, 140) == (False, True)
    assert colour(student, 100, 165) == (True, False)
    assert colour(student, 190, 150) == (False, False), 'below the threshold'
    assert colour(teacher, 140, 175) == (False, False)


def test_a_classifiers_panels_say_its_classes() -> None:
    truth = DataSample().set_gt_label(1)
    right, wrong = (
        DataSample().set_pred_label(label).set_pred_score(torch.tensor([0.3, 0.7]))
        for label in (1, 0)
    )
    draw = partial(
        draw_columns,
        np.full((8, 8, 3), 77, np.uint8),
        meta=dict(classes=('cat', 'dog')),
        score_thr=0.5,
    )
    image = draw(samples={'ground truth': truth, 'teacher': right, 'student': wrong})
    again = draw(samples={'ground truth': truth, 'teacher': wrong, 'student': wrong})
    same_panel = [
        np.array_equal(one, other)
        for one, other in zip(panels(image, 3), panels(again, 3), strict=True)
    ]
    assert same_panel == [True, False, True]


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
