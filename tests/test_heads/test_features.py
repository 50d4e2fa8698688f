"""Necks are paired by the strides of their levels."""

from __future__ import annotations

from typing import Any

import asks
import dense_runs
import pytest
import torch
import zoo
from mmengine.registry import MODELS, DefaultScope
from tiny import NUM_CLASSES, fresh_hub, student_model, teacher_model
from torch import nn
from zoo import batch, distiller, one_step, record_steps

from mmkd.heads import FeatureSource, features
from mmkd.structures import Features

PKD = dict(pkd=dict(type='mmkd.PKDLoss'))


@pytest.fixture(autouse=True)
def no_run_in_progress() -> None:
    fresh_hub()


def adapt(teacher: Any, student: Any = None) -> FeatureSource:
    model = distiller(student or student_model(), teacher, {})
    return FeatureSource(model.student, model.teacher.model, Features())


def test_pairs_are_what_both_necks_put_out() -> None:
    model = distiller(student_model(), teacher_model(), PKD)
    steps = record_steps(model)
    data = batch(size=64, num_classes=NUM_CLASSES)
    one_step(model, data)
    pairs = asks.feature_pairs(steps[0])
    expected = model.teacher.features(data['inputs'], data['data_samples'])
    assert [pair.level for pair in pairs] == [0, 1, 2, 3, 4]
    for pair, theirs in zip(pairs, expected, strict=True):
        assert torch.equal(pair.teacher, theirs)
        assert not pair.teacher.requires_grad
        assert pair.student.requires_grad
        assert pair.student.shape == theirs.shape
    assert torch.equal(pairs[2].student, steps[0].record('at neck')[0][2])


def test_channels_of_both_are_known_before_the_first_step() -> None:
    wide = teacher_model(
        neck__out_channels=24, bbox_head__in_channels=24, bbox_head__feat_channels=24
    )
    assert adapt(wide).channels == [(16, 24)] * 5


def test_a_network_that_needs_larger_images_is_looked_at_with_these() -> None:
    student, teacher = dense_runs.pair('SSD')
    adapter = adapt(teacher, student)
    assert adapter.channels == [(16, 32), (32, 64)] + [(32, 32)] + [(16, 16)] * 3
    assert adapter.strides == sorted(adapter.strides)


def test_levels_that_a_neck_lists_from_deep_to_shallow_come_shallow_first() -> None:
    student, teacher = zoo.pair('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py')
    model = distiller(student, teacher, PKD)
    assert model._tapped.sources.of(Features()).strides == [8, 16, 32]
    steps = record_steps(model)
    data = batch(size=64)
    one_step(model, data)
    ours, theirs = steps[0].record('at neck')[0], model.teacher.features(**data)
    assert [level.shape[-1] for level in ours] == [2, 4, 8]
    for feature_pair, student_map, teacher_map in zip(
        asks.feature_pairs(steps[0]), ours[::-1], theirs[::-1], strict=True
    ):
        assert torch.equal(feature_pair.student, student_map)
        assert torch.equal(feature_pair.teacher, teacher_map)


def test_a_network_that_takes_no_blank_image_is_named(monkeypatch) -> None:
    student, teacher = dense_runs.pair('SSD')
    monkeypatch.setattr(features, 'PROBE_SIZES', (32, 64))
    with pytest.raises(ValueError, match='SingleStageDetector takes no blank image of 32, 64 px'):
        adapt(teacher, student)


def test_only_the_outputs_for_the_image_that_a_network_took_are_looked_at() -> None:
    """SSD's backbone outputs its maps for the first image too, before the neck refuses that one's."""
    student, teacher = dense_runs.pair('SSD')
    model = distiller(student, teacher, {})
    source = FeatureSource(model.student, model.teacher.model, Features(at='backbone'))
    assert source.strides == [8, 16]


MIXER = dict(
    type='ImageClassifier',
    backbone=dict(
        type='MlpMixer',
        arch=dict(embed_dims=32, num_layers=1, tokens_mlp_dims=16, channels_mlp_dims=16),
    ),
    neck=dict(type='GlobalAveragePooling', dim=1),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=32),
)
"""It takes images of 224 px only, and checks that by an assertion."""
EFFICIENT_FORMER = dict(
    type='ImageClassifier',
    backbone=dict(
        type='EfficientFormer',
        arch=dict(
            layers=[1, 1, 1, 2], embed_dims=[8, 8, 16, 16], downsamples=[0, 1, 1, 1], vit_num=1
        ),
    ),
    neck=dict(type='GlobalAveragePooling', dim=1),
    head=dict(type='EfficientFormerClsHead', num_classes=4, in_channels=16, distillation=False),
)
"""It also prepares its attention when it is set to eval mode."""


@pytest.mark.parametrize(
    ('network', 'width'), [(MIXER, 32), (EFFICIENT_FORMER, 16)], ids=['mixer', 'efficientformer']
)
def test_classifiers_that_take_one_size_of_image_have_pooled_features(
    network: dict[str, Any], width: int
) -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(network)
    modes = {name: module.training for name, module in model.named_modules()}
    source = FeatureSource(model, model, Features(at='pre_logits'))
    assert (source.channels, source.strides) == ([(width, width)], [None])
    assert modes == {name: module.training for name, module in model.named_modules()}


def test_logits_of_a_backbone_are_not_taken_for_what_the_class_layer_reads() -> None:
    """MMPretrain's VGG and AlexNet classify in the backbone; their head has a loss only."""
    network = MIXER | dict(head=dict(type='ClsHead'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(network)
    with pytest.raises(ValueError, match=r"'pre_logits': the student's ClsHead has no class layer"):
        FeatureSource(model, model, Features(at='pre_logits'))


@pytest.mark.parametrize(
    ('detector', 'at', 'message'),
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'roi_head.bbox_head', 'rpn_results_list'),
        ('detr/detr_r50_8xb2-150e_coco', 'decoder.layers.0', 'from more than its neck gives'),
        ('detr/detr_r50_8xb2-150e_coco', 'bbox_head.fc_cls', 'from more than its neck gives'),
    ],
)
def test_what_a_blank_image_does_not_reach_is_named(detector: str, at: str, message: str) -> None:
    losses = dict(cwd=dict(type='mmkd.CWDLoss', at=at))
    with pytest.raises(ValueError, match=rf"model\.losses\.cwd: features at '{at}': .*{message}"):
        distiller(*zoo.pair(f'mmdet::{detector}.py'), losses)


def test_a_region_proposal_networks_features_are_read_like_a_dense_heads() -> None:
    pair = zoo.pair('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    model = distiller(*pair, dict(cwd=dict(type='mmkd.CWDLoss', at='rpn_head.rpn_conv')))
    steps = record_steps(model)
    data = batch()
    assert one_step(model, data)['loss_cwd'] > 0
    teacher = model.teacher.model
    (pairs,) = steps[0].answers.values()
    assert [pair.stride for pair in pairs] == [4, 8, 16, 32, 64]
    for pair, maps in zip(pairs, teacher.extract_feat(data['inputs']), strict=True):
        assert torch.equal(pair.teacher, teacher.rpn_head.rpn_conv(maps))


def test_an_output_that_is_no_list_of_features_is_named() -> None:
    class Named(nn.Module):
        def forward(self, maps: Any) -> dict[str, Any]:
            return dict(maps=maps)

    model = distiller(student_model(), teacher_model(), {}).student
    model.backbone.named = Named()
    model.backbone.register_forward_hook(lambda backbone, _, maps: backbone.named(maps) and None)
    with pytest.raises(ValueError, match=r"'backbone.named': the student .* outputs dict there"):
        FeatureSource(model, model, Features(at='backbone.named'))


def test_looking_at_the_channels_changes_neither_modes_nor_statistics() -> None:
    model = distiller(student_model(), teacher_model(), {})
    model.backbone.layer1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    FeatureSource(model.student, model.teacher.model, Features())
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def shallow(levels: int = 5, **other: Any) -> Any:
    """A teacher whose levels have strides 4, 8, ...: one more than the student's at the shallow end."""
    strides = [4 << level for level in range(levels)]
    return teacher_model(
        neck__start_level=0,
        neck__num_outs=levels,
        bbox_head__anchor_generator__strides=strides,
        **other,
    )


@pytest.mark.parametrize(
    ('teacher', 'strides'),
    [
        (teacher_model(), [8, 16, 32, 64, 128]),
        (teacher_model(neck__num_outs=4), [8, 16, 32, 64]),
        (shallow(), [8, 16, 32, 64]),
    ],
    ids=['same', 'fewer', 'shifted'],
)
def test_levels_are_those_of_equal_stride(teacher: Any, strides: list[int]) -> None:
    teacher.bbox_head.anchor_generator.strides = student_model().bbox_head.anchor_generator.strides
    model = distiller(student_model(), teacher, PKD)
    assert model._tapped.sources.of(Features()).strides == strides
    steps = record_steps(model)
    data = batch(size=64, num_classes=NUM_CLASSES)
    assert one_step(model, data)['loss_pkd'] > 0
    pairs = asks.feature_pairs(steps[0])
    ours, theirs = steps[0].record('at neck')[0], model.teacher.features(**data)
    assert [64 // pair.student.shape[-1] for pair in pairs[:4]] == strides[:4]
    for pair in pairs:
        assert any(
            pair.student.shape == maps.shape and torch.equal(pair.student, maps) for maps in ours
        )
        assert any(
            pair.teacher.shape == maps.shape and torch.equal(pair.teacher, maps) for maps in theirs
        )


def test_no_common_level_is_an_error_with_both_strides() -> None:
    teacher = teacher_model(neck__num_outs=1, neck__start_level=0, neck__end_level=0)
    with pytest.raises(
        ValueError,
        match=r"student's levels have strides \[8, 16, 32, 64, 128\], the teacher's \[4\]",
    ):
        adapt(teacher)


def test_maps_of_a_teacher_that_pads_more_are_cut_to_the_students() -> None:
    model = distiller(student_model(), teacher_model(data_preprocessor__pad_size_divisor=128), PKD)
    steps = record_steps(model)
    data = batch(size=96, num_classes=NUM_CLASSES)
    assert one_step(model, data)['loss_pkd'] > 0
    whole = model.teacher.features(**data)
    assert whole[0].shape[-1] == 16
    assert [pair.teacher.shape[-1] for pair in asks.feature_pairs(steps[0])] == [12, 6, 3, 2, 1]
    for pair, maps in zip(asks.feature_pairs(steps[0]), whole, strict=True):
        size = pair.student.shape[-1]
        assert torch.equal(pair.teacher, maps[..., :size, :size])


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_model_without_neck_is_named_with_the_loss(role: str) -> None:
    class NoNeck(nn.Module):
        pass

    model = distiller(student_model(), teacher_model(), {})
    pair = dict(student=model.student, teacher=model.teacher.model) | {role: NoNeck()}
    with pytest.raises(ValueError, match=rf"'neck': the {role} \(NoNeck\) has no neck"):
        FeatureSource(**pair, request=Features())
