"""CKDLoss hands the picked rows, their objects and its options to the function, and trains detectors."""

from __future__ import annotations

from typing import Any

import asks
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny import TINY_RETINANET
from torchvision.ops import box_iou
from zoo import batch, one_step, record_steps

from mmkd.distillers import Distiller
from mmkd.functional import center_rows, ckd_loss, standardize_rows, unit_rows
from mmkd.losses import AllSamples, CKDLoss, TeacherTopK

CKD = dict(type='mmkd.CKDLoss')


@pytest.mark.parametrize('options', [
    dict(temperature=0.5),
    dict(negatives='student_student'),
    dict(symmetric=True),
    dict(chunk_size=5),
])  # fmt: skip
def test_options_reach_the_function(
    options: dict[str, Any], make_table: Any, attach: Any, step_of: Any
) -> None:
    table = make_table('softmax')
    value = attach(CKD | options, table)(step_of(table))
    torch.testing.assert_close(value, ckd_loss(table.student, table.teacher, **options))
    assert (
        not torch.isclose(value, ckd_loss(table.student, table.teacher)) or 'chunk_size' in options
    )


@pytest.mark.parametrize(
    ('activation', 'rows', 'expected'),
    [
        ('softmax', None, lambda rows: rows),
        ('sigmoid', None, center_rows),
        ('sigmoid', 'raw', lambda rows: rows),
        ('softmax', 'center', center_rows),
    ],
)
def test_sigmoid_rows_are_centred_unless_told_otherwise(
    activation: Any, rows: Any, expected: Any, make_table: Any, attach: Any, step_of: Any
) -> None:
    table = make_table(activation)
    value = attach(CKD | dict(rows=rows), table)(step_of(table))
    torch.testing.assert_close(value, ckd_loss(expected(table.student), expected(table.teacher)))


def test_samples_of_one_object_are_not_each_others_negatives(
    make_table: Any, attach: Any, step_of: Any
) -> None:
    objects = torch.tensor([0, 0, 1, 1, 1, -1, -1, -1, 2, 2, -1, -1])
    table = make_table('softmax', object_ids=objects)
    masked = attach(CKD, table)(step_of(table))
    kept = attach(CKD | dict(same_object='keep'), table)(step_of(table))
    torch.testing.assert_close(masked, ckd_loss(table.student, table.teacher, groups=objects))
    torch.testing.assert_close(kept, ckd_loss(table.student, table.teacher))
    assert masked < kept


def test_samples_whose_boxes_overlap_are_not_each_others_negatives(distil: Any) -> None:
    """The teacher's boxes, also of samples that the student assigned to no object; of a RetinaNet."""
    model = distil('retinanet', **CKD, mask_iou=0.5, same_object='keep', chunk_size=16)
    steps = record_steps(model)
    data = batch(num_classes=4)
    found = one_step(model, data)['loss_tested']
    (pairs,) = asks.logit_pairs(steps[0], TeacherTopK(k=64))
    (boxes,) = asks.box_pairs(steps[0], TeacherTopK(k=64))
    overlap = box_iou(boxes.teacher, boxes.teacher) > 0.5
    same = overlap & (pairs.image_ids[:, None] == pairs.image_ids)
    assert same[pairs.object_ids < 0].sum() > (pairs.object_ids < 0).sum()
    student, teacher = (unit_rows(center_rows(rows)) for rows in (pairs.student, pairs.teacher))
    logits = teacher @ student.T
    own = torch.eye(len(logits), dtype=torch.bool)
    masked = logits.masked_fill(same & ~own, -torch.inf)
    expected = (masked.logsumexp(1) - logits.diagonal()).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_overlap_needs_boxes() -> None:
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    teacher = dict(config=config, checkpoint='random_init')
    with (
        DefaultScope.overwrite_default_scope('mmpretrain'),
        pytest.raises(ValueError, match=r'CKDLoss\.mask_iou: .* or leave mask_iou out'),
    ):
        Distiller(config.model, teacher, losses=dict(ckd=CKD | dict(mask_iou=0.5)))


def test_a_wrong_same_object_is_refused(make_table: Any, attach: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.losses\.tested\.same_object: 'drop'"):
        attach(CKD | dict(same_object='drop'), make_table('softmax'))


@pytest.mark.parametrize(
    ('logits', 'rows', 'fix'),
    [
        (1, 'raw', r'1 logit.*QFLKDLoss'),
        (1, 'center', r'1 logit.*QFLKDLoss'),
        (2, 'raw', None),
        (2, 'center', r"2 logit.* rows='raw'"),
        (2, 'standardize', r"2 logit.* rows='raw'"),
        (3, 'center', None),
        (3, 'standardize', None),
    ],
)
def test_too_few_logits_for_a_direction_to_have_a_gradient_are_refused(
    logits: int, rows: str, fix: str | None, make_table: Any, attach: Any
) -> None:
    table = make_table('sigmoid')
    table.student = table.student.detach()[:, :logits].clone().requires_grad_()
    table.teacher = table.teacher[:, :logits]
    prepare = dict(raw=lambda z: z, center=center_rows, standardize=standardize_rows)[rows]
    ckd_loss(prepare(table.student), prepare(table.teacher)).backward()
    assert (table.student.grad.abs().max() > 1e-6) == (fix is None)
    config = CKD | dict(rows=rows)
    if fix is None:
        attach(config, table)
    else:
        with pytest.raises(ValueError, match=fix):
            attach(config, table)


def test_without_samples_the_loss_is_a_zero_of_the_graph(
    make_table: Any, attach: Any, step_of: Any
) -> None:
    table = make_table('sigmoid', labels=torch.full((12,), 4))
    value = attach(CKD | dict(samples=dict(type='mmkd.Positives')), table)(step_of(table))
    assert value == 0
    value.backward()
    assert not table.student.grad.any()


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_logits_up_to_100_stay_finite(
    dtype: torch.dtype, activation: Any, make_table: Any, attach: Any, step_of: Any
) -> None:
    """Contract 9."""
    table = make_table(activation)
    table.student = (table.student.detach().sign() * 100).to(dtype).requires_grad_()
    table.teacher = (table.teacher.sign() * 100).to(dtype)
    value = attach(CKD, table)(step_of(table))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(table.student.grad).all()


@pytest.mark.parametrize('detector', ['retinanet', 'faster_rcnn'])
def test_it_trains_the_backbone_of_a_detector(
    detector: str, distil: Any, gradient_of_step: Any
) -> None:
    value, gradient = gradient_of_step(distil(detector, **CKD))
    assert value > 0
    assert torch.isfinite(gradient).all()
    assert gradient.any()


def test_on_sigmoid_heads_the_teachers_best_samples_are_the_default(
    make_table: Any, attach: Any
) -> None:
    assert attach(CKD, make_table('sigmoid')).sampler == TeacherTopK(k=64)
    assert attach(CKD, make_table('softmax')).sampler == AllSamples()
    asked_for = CKD | dict(samples=dict(type='mmkd.AllSamples'))
    assert attach(asked_for, make_table('sigmoid')).sampler == AllSamples()


def test_more_samples_than_fit_into_memory_are_an_error_before_they_do_not(
    make_table: Any,
) -> None:
    pairs = make_table('softmax').pairs(AllSamples())
    rows = torch.empty(40_000, 2, device='meta')
    with pytest.raises(ValueError, match=r'40000 samples .* 6 GiB.*TeacherTopK.*chunk_size'):
        CKDLoss().compute(rows, rows, pairs, step=None)  # type: ignore[arg-type]
