"""The teacher sees what its own data preprocessor would have made of the raw images."""

from __future__ import annotations

import copy
from typing import Any

import asks
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from tiny import CKD, NUM_CLASSES, student_model, teacher_model
from torch import Tensor
from zoo import batch, distiller, one_step, record_steps

from mmkd.teachers.pixels import PixelConverter

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
SIZES = [(40, 50), (64, 30), (33, 33)]


def preprocess(preprocessor: Any, sample_type: type) -> tuple[Tensor, list[Any]]:
    """Raw BGR images of different sizes through a data preprocessor."""
    noise = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, *size), generator=noise, dtype=torch.uint8) for size in SIZES
    ]
    samples = [sample_type(metainfo=dict(img_shape=size)) for size in SIZES]
    data = preprocessor(dict(inputs=images, data_samples=samples), training=True)
    return data['inputs'], data['data_samples']


@pytest.mark.parametrize('student', [IMAGENET, CAFFE], ids=['imagenet', 'caffe'])
@pytest.mark.parametrize(
    'teacher',
    [
        IMAGENET,
        CAFFE,
        IMAGENET | dict(bgr_to_rgb=False),
        IMAGENET | dict(mean=[0.0] * 3, std=[255.0] * 3),
        IMAGENET | dict(pad_value=114.0),
        CAFFE | dict(pad_value=7.0),
        {},
    ],
    ids=['imagenet', 'caffe', 'bgr', 'unit', 'pad_value', 'caffe_pad_value', 'raw'],
)
def test_detectors_of_other_normalisation(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    ours = DetDataPreprocessor(**student, pad_size_divisor=32)
    theirs = DetDataPreprocessor(**teacher, pad_size_divisor=32)
    inputs, samples = preprocess(ours, DetDataSample)
    before = inputs.clone()
    converted = PixelConverter(ours, theirs)(inputs, samples)
    expected, _ = preprocess(theirs, DetDataSample)
    assert torch.equal(inputs, before), "the student's own input was changed"
    torch.testing.assert_close(converted, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(('ours', 'theirs'), [(1, 32), (16, 32), (32, 48)])
def test_a_teacher_of_a_larger_pad_divisor(ours: int, theirs: int) -> None:
    student = DetDataPreprocessor(**IMAGENET, pad_size_divisor=ours)
    teacher = DetDataPreprocessor(**CAFFE, pad_size_divisor=theirs, pad_value=3.0)
    inputs, samples = preprocess(student, DetDataSample)
    converted = PixelConverter(student, teacher)(inputs, samples)
    expected, _ = preprocess(teacher, DetDataSample)
    torch.testing.assert_close(converted, expected, rtol=1e-5, atol=1e-4)


def test_a_teacher_of_a_smaller_pad_divisor_sees_the_same_image_with_more_padding() -> None:
    student = DetDataPreprocessor(**IMAGENET, pad_size_divisor=64)
    teacher = DetDataPreprocessor(**CAFFE, pad_size_divisor=1, pad_value=3.0)
    inputs, samples = preprocess(student, DetDataSample)
    converted = PixelConverter(student, teacher)(inputs, samples)
    expected, _ = preprocess(teacher, DetDataSample)
    assert converted.shape == inputs.shape
    height, width = expected.shape[-2:]
    torch.testing.assert_close(converted[..., :height, :width], expected, rtol=1e-5, atol=1e-4)
    assert (converted[..., height:, :] == 3).all()
    assert (converted[..., width:] == 3).all()


def test_classifiers_of_other_normalisation() -> None:
    student = ClsDataPreprocessor(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=False)
    teacher = ClsDataPreprocessor(
        mean=IMAGENET['mean'], std=IMAGENET['std'], to_rgb=True, pad_size_divisor=16, pad_value=2
    )
    inputs, samples = preprocess(student, DataSample)
    converted = PixelConverter(student, teacher)(inputs, samples)
    expected, _ = preprocess(teacher, DataSample)
    torch.testing.assert_close(converted, expected, rtol=1e-5, atol=1e-4)


def test_the_same_tensor_when_both_agree() -> None:
    student = DetDataPreprocessor(**IMAGENET, pad_size_divisor=32)
    teacher = DetDataPreprocessor(**IMAGENET, pad_size_divisor=16)
    inputs, samples = preprocess(student, DetDataSample)
    assert PixelConverter(student, teacher)(inputs, samples) is inputs


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_the_inputs(dtype: torch.dtype) -> None:
    student, teacher = DetDataPreprocessor(**IMAGENET), DetDataPreprocessor(**CAFFE)
    inputs, samples = preprocess(student, DetDataSample)
    assert PixelConverter(student, teacher)(inputs.to(dtype), samples).dtype == dtype


def test_without_data_samples_nothing_counts_as_padding() -> None:
    student, teacher = DetDataPreprocessor(**IMAGENET), DetDataPreprocessor(**CAFFE)
    inputs = torch.zeros(1, 3, 4, 4)
    mean = torch.tensor(IMAGENET['mean']).flip(0) - torch.tensor(CAFFE['mean'])
    converted = PixelConverter(student, teacher)(inputs, [])
    torch.testing.assert_close(converted, mean.view(1, 3, 1, 1).expand(1, 3, 4, 4))


CAFFE_TEACHER = {f'data_preprocessor__{key}': value for key, value in CAFFE.items()}


@pytest.mark.parametrize(
    'teacher',
    [
        dict(pad_size_divisor=32, pad_value=3.0),
        dict(pad_size_divisor=16),
        dict(pad_size_divisor=128, pad_value=3.0),
    ],
    ids=['same_divisor', 'smaller_divisor', 'larger_divisor'],
)
def test_a_real_teacher_of_other_normalisation_sees_what_it_was_trained_on(
    teacher: dict[str, Any],
) -> None:
    """RGB, ImageNet's std and divisor 32 against BGR, std 1 and others, from raw images to features and logits."""
    losses = dict(ckd=CKD, pkd=dict(type='mmkd.PKDLoss'))
    options = {f'data_preprocessor__{key}': value for key, value in teacher.items()}
    model = distiller(
        student_model(),
        teacher_model(**CAFFE_TEACHER, **options),
        losses,
    )
    noise = torch.Generator().manual_seed(0)
    sizes = [(64, 50), (41, 96)]  # together 64 x 96, a multiple of 16 and 32
    raw = [torch.randint(0, 256, (3, *size), generator=noise, dtype=torch.uint8) for size in sizes]
    samples = batch(num_classes=NUM_CLASSES, size=40)['data_samples']
    for sample, size in zip(samples, sizes, strict=True):
        sample.set_metainfo(dict(img_shape=size, ori_shape=size))
    network = model.teacher.model
    own = network.data_preprocessor(dict(inputs=raw, data_samples=copy.deepcopy(samples)), True)
    with torch.no_grad():
        expected = network.extract_feat(own['inputs'])
        class_maps = network.bbox_head(expected)[0]

    data = model.data_preprocessor(dict(inputs=raw, data_samples=samples), True)
    steps = record_steps(model)
    values = one_step(model, data)

    assert all(values[f'loss_{name}'] > 0 for name in losses)
    for ours, theirs in zip(steps[0].teachers['teacher'].features, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    (table,) = asks.tables(steps[0])
    cells = [
        level.shape[-2:] for level in table.student.class_maps
    ]  # a teacher that pads more has more
    rows = [
        level[..., :height, :width].permute(0, 2, 3, 1).flatten(1, 2)
        for level, (height, width) in zip(class_maps, cells, strict=True)
    ]
    logits = table.teacher_logits(torch.arange(len(table)))
    torch.testing.assert_close(logits, torch.cat(rows, dim=1).flatten(0, 1), rtol=1e-4, atol=1e-4)
