"""The classifier adapter on MMPretrain's own classifiers, made small: real training steps and a real run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import asks
import numpy as np
import pytest
import torch
import zoo
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules
from tiny import fresh_hub
from torch import Tensor, nn

from mmkd.distillers import Distiller
from mmkd.functional import kd_loss
from mmkd.structures import Step
from mmkd.teachers.pixels import PixelConverter
from mmkd.utils.recipe import presets_of

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = 5
FEATURES = ('rkd', 'sp', 'pkt', 'cc', 'ickd', 'at', 'nst', 'fitnet', 'vid', 'ofd')
BATCH = 6
CKD = dict(type='mmkd.CKDLoss')
STUDENT_PIXELS = dict(mean=[127.5] * 3, std=[60.0] * 3, to_rgb=True, num_classes=CLASSES)
TEACHER_PIXELS = dict(mean=[100.0, 110.0, 120.0], std=[50.0, 55.0, 60.0], to_rgb=False)

register_all_modules(init_default_scope=False)


@pytest.fixture(autouse=True)
def no_run_in_progress() -> None:
    fresh_hub()


def head(kind: str, channels: int, classes: int = CLASSES, **options: Any) -> dict[str, Any]:
    return dict(type=kind, num_classes=classes, in_channels=channels, **options)


def resnet(width: int = 8, kind: str = 'LinearClsHead', **options: Any) -> dict[str, Any]:
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, base_channels=width),
        neck=dict(type='GlobalAveragePooling'),
        head=head(kind, 8 * width, **options),
    )


def transformer(backbone: str, kind: str, width: int = 32, **options: Any) -> dict[str, Any]:
    arch = dict(embed_dims=width, num_layers=2, num_heads=2, feedforward_channels=2 * width)
    return dict(
        type='ImageClassifier',
        backbone=dict(type=backbone, arch=arch, img_size=32, patch_size=8),
        head=head(kind, width, **options),
    )


def vit(width: int = 32, **options: Any) -> dict[str, Any]:
    return transformer('VisionTransformer', 'VisionTransformerClsHead', width, **options)


def deit(width: int = 32, **options: Any) -> dict[str, Any]:
    return transformer('DistilledVisionTransformer', 'DeiTClsHead', width, **options)


def timm_resnet(name: str, channels: int) -> dict[str, Any]:
    return dict(
        type='ImageClassifier',
        backbone=dict(type='TIMMBackbone', model_name=name),
        neck=dict(type='GlobalAveragePooling'),
        head=head('LinearClsHead', channels),
    )


def conformer(width: int = 32) -> dict[str, Any]:
    arch = dict(embed_dims=width, depths=6, num_heads=2, channel_ratio=1)
    return dict(
        type='ImageClassifier',
        backbone=dict(type='Conformer', arch=arch, base_channels=16),
        head=dict(type='ConformerHead', num_classes=CLASSES, in_channels=[64, width]),
    )


def lenet(classes: int = CLASSES) -> dict[str, Any]:
    return dict(
        type='ImageClassifier',
        backbone=dict(type='LeNet5', num_classes=classes),
        head=dict(type='ClsHead'),
        data_preprocessor=dict(type='ClsDataPreprocessor'),
    )


def csra(width: int = 8) -> dict[str, Any]:
    model = resnet(width, 'CSRAClsHead', num_heads=2, lam=0.1)
    return {key: value for key, value in model.items() if key != 'neck'}


STUDENTS = {
    'linear': resnet(),
    'stacked': resnet(kind='StackedLinearClsHead', mid_channels=[16], norm_cfg=dict(type='BN1d')),
    'label_smoothing': resnet(loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
    'vit': vit(),
    'vit_hidden': vit(hidden_dim=16),
    'deit': deit(),
    'conformer': conformer(),
    'arcface': resnet(kind='ArcFaceClsHead', scale=8.0),
}
TEACHERS = {
    'linear': resnet(16),
    'vit': vit(64),
    'deit': deit(64),
    'conformer': conformer(64),
    'arcface': resnet(16, kind='ArcFaceClsHead'),
    'levit': resnet(16, kind='LeViTClsHead', distillation=True),
    'efficientformer': resnet(16, kind='EfficientFormerClsHead', distillation=True),
}


def distiller(
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
    losses: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    pixels: Mapping[str, Any] = STUDENT_PIXELS,
    class_names: Sequence[str] | None = None,
) -> Distiller:
    """Random weights throughout, also where heads start at zero."""
    torch.manual_seed(0)
    student, teacher = copy.deepcopy(dict(student)), copy.deepcopy(dict(teacher))
    teacher.setdefault('data_preprocessor', dict(TEACHER_PIXELS))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(
            student=student,
            teacher=dict(
                config=dict(model=teacher, default_scope='mmpretrain'),
                checkpoint='random_init',
                class_names=class_names,
            ),
            losses=dict(ckd=CKD) if losses is None else losses,
            head=options,
            data_preprocessor=dict(pixels),
        )
    for part in (model.head, model.teacher.model.head):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.train()


def raw_batch(size: int = 32, images: int = BATCH) -> dict[str, Any]:
    noise = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, size, size), generator=noise, dtype=torch.uint8)
    samples = [DataSample().set_gt_label(image % CLASSES) for image in range(images)]
    return dict(inputs=pixels, data_samples=samples)


def take_step(model: Distiller, **raw: Any) -> tuple[dict[str, Any], Step]:
    """The losses of one training step, and the step as the distillation losses see it."""
    steps = zoo.record_steps(model)
    batch = model.data_preprocessor(raw_batch(**raw), training=True)
    losses = model.loss(**batch)
    return losses, steps[-1]


def logits_of(step: Step) -> tuple[Tensor, Tensor]:
    (table,) = asks.tables(step)
    everything = torch.arange(len(table))
    return table.student_logits(everything), table.teacher_logits(everything)


def assert_reaches_backbone(model: Distiller, loss: Tensor) -> None:
    model.zero_grad()
    loss.backward(retain_graph=True)
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


@pytest.mark.parametrize('name', STUDENTS)
def test_ckd_alone_teaches_the_backbone_of_every_student(name: str) -> None:
    model = distiller(STUDENTS[name], TEACHERS['linear'])
    losses, _ = take_step(model)
    assert losses.keys() == {'loss', 'loss_ckd'}
    assert_reaches_backbone(model, losses['loss_ckd'])


@pytest.mark.parametrize('name', sorted(STUDENTS.keys() - {'deit', 'arcface'}))
def test_student_rows_are_what_the_student_predicts_with(name: str) -> None:
    model = distiller(STUDENTS[name], TEACHERS['linear'])
    _, step = take_step(model)
    logits, _ = logits_of(step)
    features = model.student.extract_feat(step.inputs)
    probabilities = torch.stack(
        [sample.pred_score for sample in model.head.predict(features)]
    )  # in training mode still, as the step was
    torch.testing.assert_close(logits.softmax(dim=1), probabilities)


@pytest.mark.parametrize('name', TEACHERS)
def test_teacher_rows_are_what_the_teacher_predicts_on_the_same_images(name: str) -> None:
    model = distiller(STUDENTS['vit'], TEACHERS[name])
    _, step = take_step(model)
    _, logits = logits_of(step)
    teacher = model.teacher.model
    with torch.no_grad():
        predictions = teacher.predict(**teacher.data_preprocessor(raw_batch()))
    expected = torch.stack([sample.pred_score for sample in predictions])
    torch.testing.assert_close(logits.softmax(dim=1), expected, rtol=1e-4, atol=1e-5)
    assert not logits.requires_grad
    torch.testing.assert_close(
        asks.tables(step)[0].teacher_confidence(), expected.amax(dim=1), rtol=1e-4, atol=1e-5
    )


def test_each_preset_on_features_alone_reaches_the_backbone() -> None:
    presets = presets_of(['classifier', 'softmax'])
    losses = {name: presets[name][name] for name in FEATURES}
    model = distiller(STUDENTS['linear'], TEACHERS['linear'], losses)
    batch = model.data_preprocessor(raw_batch(), training=True)
    values, gradients = zoo.gradients_of_each_loss(model, batch, model.backbone)
    for name, gradient in gradients.items():
        assert values[f'loss_{name}'].isfinite(), name
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


def test_networks_of_timm_teach_and_learn() -> None:
    student, teacher = timm_resnet('resnet10t', 512), timm_resnet('resnet14t', 2048)
    model = distiller(student, teacher, dict(ckd=CKD, kd=dict(type='mmkd.KDLoss')))
    losses, step = take_step(model)
    for name in ('loss_ckd', 'loss_kd'):
        assert_reaches_backbone(model, losses[name])
    _, logits = logits_of(step)
    network = model.teacher.model
    with torch.no_grad():
        predictions = network.predict(**network.data_preprocessor(raw_batch()))
    expected = torch.stack([sample.pred_score for sample in predictions])
    torch.testing.assert_close(logits.softmax(dim=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('token', ['distillation', 'mean'])
def test_deit_is_taught_at_its_distillation_token(token: str) -> None:
    options = {} if token == 'distillation' else dict(token=token)
    model = distiller(STUDENTS['deit'], TEACHERS['deit'], options=options)
    losses, step = take_step(model)
    logits, _ = logits_of(step)
    losses['loss_ckd'].backward()
    layers = model.head.layers
    assert layers.head_dist.weight.grad.abs().sum() > 0
    taught = layers.head.weight.grad is not None
    assert taught == (token == 'mean')
    _, dist_token = model.student.extract_feat(step.inputs)[-1]
    equal = torch.allclose(logits, layers.head_dist(dist_token), atol=1e-6)
    assert equal == (token == 'distillation')


def test_arcface_is_taught_without_its_margin() -> None:
    model = distiller(STUDENTS['arcface'], TEACHERS['arcface'])
    _, step = take_step(model)
    logits, _ = logits_of(step)
    features = model.student.extract_feat(step.inputs)
    labels = torch.cat([sample.gt_label for sample in step.data_samples])
    torch.testing.assert_close(logits, model.head(features))
    assert (model.head(features, labels) - logits).abs().max() > 0.1


@pytest.mark.parametrize(
    'name',
    [
        'CKDLoss',
        'KDLoss',
        'DKDLoss',
        'NKDLoss',
        'DISTLoss',
        'AEKTLoss',
        'ComparativeKDLoss',
        'CLKDLoss',
        'CorrelationKDLoss',
        'QuadraticKDLoss',
        'OFALoss',
        'TTMLoss',
        'MLLDLoss',
        'CTKDLoss',
    ],
)
def test_every_loss_on_logits_teaches(name: str) -> None:
    model = distiller(
        STUDENTS['linear'], TEACHERS['linear'], dict(method=dict(type=f'mmkd.{name}'))
    )
    losses, step = take_step(model)
    assert losses['loss_method'] > 0
    assert_reaches_backbone(model, losses['loss_method'])
    if name == 'KDLoss':
        torch.testing.assert_close(losses['loss_method'], kd_loss(*logits_of(step), 4.0))


def test_a_sample_is_an_image_with_its_own_label() -> None:
    model = distiller(STUDENTS['label_smoothing'], TEACHERS['linear'])
    _, step = take_step(model)
    (table,) = asks.tables(step)
    assert table.samples_per_image == [1] * BATCH
    assert table.labels.tolist() == [image % CLASSES for image in range(BATCH)]
    assert table.weights.tolist() == [1] * BATCH
    assert table.object_ids.tolist() == [-1] * BATCH
    assert table.is_foreground().all()
    assert (table.activation, table.num_classes) == ('softmax', CLASSES)


def mixed(augment: str) -> Distiller:
    student = resnet() | dict(train_cfg=dict(augments=[dict(type=augment, alpha=1.0)]))
    losses = dict(ckd=CKD, dkd=dict(type='mmkd.DKDLoss'))
    return distiller(student, TEACHERS['linear'], losses)


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_mixed_images_have_the_label_of_their_largest_share(augment: str) -> None:
    model = mixed(augment)
    torch.manual_seed(3)
    np.random.seed(0)
    losses, step = take_step(model)
    shares = torch.stack([sample.gt_score for sample in step.data_samples])
    assert ((shares > 0).sum(dim=1) == 2).any()
    assert torch.equal(asks.tables(step)[0].labels, shares.max(dim=1).indices)
    assert losses['loss_dkd'].isfinite()
    assert_reaches_backbone(model, losses['loss_ckd'])


def test_the_teacher_sees_the_mixed_image() -> None:
    model = mixed('Mixup')
    np.random.seed(0)
    raw = raw_batch()
    batch = model.data_preprocessor(raw, training=True)
    colours = STUDENT_PIXELS['std'][0], STUDENT_PIXELS['mean'][0]
    mixed_pixels = (batch['inputs'] * colours[0] + colours[1]).flip(1)  # BGR, 0 to 255
    assert (mixed_pixels - raw['inputs']).abs().max() > 1
    expected = model.teacher.model.data_preprocessor(dict(inputs=mixed_pixels))['inputs']
    converted = model.teacher.convert_pixels(**batch)
    torch.testing.assert_close(converted, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        (resnet(kind='MultiLabelLinearClsHead'), resnet(16, kind='MultiLabelLinearClsHead')),
        (resnet(kind='MultiLabelLinearClsHead'), csra(16)),
    ],
    ids=['linear', 'csra'],
)
def test_several_labels_per_image(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    losses = dict(ckd=CKD, qfl=dict(type='mmkd.QFLKDLoss', average='samples'))
    model = distiller(student, teacher, losses)
    raw = raw_batch()
    for image, sample in enumerate(raw['data_samples']):
        sample.set_gt_label([image % CLASSES, (image + 1) % CLASSES])
    batch = model.data_preprocessor(raw, training=True)
    values = model.loss(**batch)
    for name in ('loss_ckd', 'loss_qfl'):
        assert_reaches_backbone(model, values[name])


def test_a_loss_that_needs_one_label_says_so_on_several() -> None:
    multi = resnet(kind='MultiLabelLinearClsHead')
    model = distiller(multi, multi, dict(aekt=dict(type='mmkd.AEKTLoss', target='assigned')))
    with pytest.raises(ValueError, match='AEKTLoss needs the class of every sample'):
        take_step(model)
    with pytest.raises(ValueError, match=r'KDLoss is for softmax heads.*use mmkd\.QFLKDLoss'):
        distiller(multi, multi, dict(kd=dict(type='mmkd.KDLoss')))


@pytest.mark.parametrize('name', ['linear', 'deit'])
def test_the_student_trains_as_without_a_teacher(name: str) -> None:
    plain = distiller(STUDENTS[name], TEACHERS['linear'], {}).student
    taught = distiller(STUDENTS[name], TEACHERS['linear'])
    off = distiller(STUDENTS[name], TEACHERS['linear'], dict(ckd=CKD | dict(weight=0.0)))

    def no_teacher(*_: Any) -> None:
        pytest.fail('the teacher ran with weight 0')

    off.teacher.model.backbone.register_forward_hook(no_teacher)
    assert plain.state_dict().keys() == taught.state_dict().keys() == off.state_dict().keys()
    values = []
    for model in (plain, taught, off):
        torch.manual_seed(0)
        batch = model.data_preprocessor(raw_batch(), training=True)
        values.append(model.loss(**batch))
    assert torch.equal(values[0]['loss'], values[1]['loss'])
    assert torch.equal(values[0]['loss'], values[2]['loss'])
    assert values[2].keys() == values[0].keys()


def test_a_single_image_has_nothing_to_be_contrasted_with() -> None:
    model = distiller(STUDENTS['vit'], TEACHERS['vit'], dict(ckd=CKD, kd=dict(type='mmkd.KDLoss')))
    losses, _ = take_step(model, images=1)
    assert losses['loss_ckd'] == 0
    assert losses['loss_kd'] > 0


def test_a_head_that_starts_at_zero_gets_no_gradient_of_ckd_and_no_nan() -> None:
    model = distiller(STUDENTS['vit'], TEACHERS['vit'])
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    losses, _ = take_step(model)
    losses['loss_ckd'].backward(retain_graph=True)
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    losses['loss'].backward()
    assert model.head.layers.head.weight.grad.any()


def test_half_precision() -> None:
    losses = dict(ckd=CKD, aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill'))
    model = distiller(STUDENTS['linear'], TEACHERS['linear'], losses)
    exact, step = take_step(model)
    with torch.autocast('cpu', torch.bfloat16):
        values = model.loss(step.inputs, step.data_samples)
    for name in ('loss_ckd', 'loss_aekt'):
        assert values[name].dtype == torch.float32
        torch.testing.assert_close(values[name], exact[name], rtol=0.05, atol=0.01)
        # Not down to the backbone: PyTorch's CPU convolutions on 1x1 maps now and then leave NaN in bfloat16.
        weight = torch.autograd.grad(values[name], model.head.fc.weight, retain_graph=True)[0]
        assert weight.any()
        assert torch.isfinite(weight).all()


def test_other_classes_are_matched_by_name() -> None:
    names = ('ant', 'bee', 'cat', 'dog', 'eel')
    theirs = ('bee', 'fox', 'eel', 'ant', 'dog', 'cat', 'gnu')
    fresh_hub(dataset_meta=dict(classes=names))
    model = distiller(resnet(), resnet(16, classes=7), class_names=theirs)
    losses, step = take_step(model)
    _, logits = logits_of(step)
    whole = model.teacher.model.head(step.teachers['teacher'].features)
    assert torch.equal(logits, whole[:, [theirs.index(name) for name in names]])
    assert_reaches_backbone(model, losses['loss_ckd'])


def test_classes_are_counted_where_the_backbone_classifies() -> None:
    def gray(classes: int) -> Distiller:
        return distiller(
            lenet(classes),
            lenet(),
            dict(aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill')),
            pixels={},
        )

    model = gray(CLASSES)
    assert model.distill.aekt.serial_layer.bias.shape == (CLASSES,)
    samples = raw_batch()['data_samples']
    losses = model.loss(torch.randn(BATCH, 1, 32, 32), samples)
    assert_reaches_backbone(model, losses['loss_aekt'])
    with pytest.raises(ValueError, match='the student has 3, the teacher 5'):
        gray(3)


@pytest.mark.parametrize(
    ('student', 'teacher', 'options', 'message'),
    [
        (resnet(classes=4), resnet(), {}, 'number of classes: the student has 4, the teacher 5'),
        (resnet(), resnet(kind='MultiLabelLinearClsHead'), {}, 'has softmax, .* sigmoid'),
        (csra(), resnet(), {}, 'CSRAClsHead has sigmoid, .* LinearClsHead softmax'),
        (resnet(kind='LeViTClsHead'), resnet(), {}, 'set distillation=False in model.student.head'),
        (resnet(kind='EfficientFormerClsHead'), resnet(), {}, 'set distillation=False'),
        (deit(), resnet(), dict(token='class'), "model.head.token: 'class' is neither"),
        (lenet(-1), resnet(), {}, 'nothing there classifies'),
        (
            dict(
                type='ImageClassifier',
                backbone=dict(type='ResNet', depth=18, base_channels=8),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearRegressionHead', in_channels=64, num_classes=5),
            ),
            resnet(),
            {},
            'LinearRegressionHead predicts numbers, not classes',
        ),
    ],
)
def test_pairs_that_cannot_be_aligned(
    student: dict[str, Any], teacher: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        distiller(student, teacher, options=options)


def test_shapes_from_before_torchvisions_transforms_are_not_believed() -> None:
    student, teacher = ClsDataPreprocessor(**STUDENT_PIXELS), ClsDataPreprocessor(**TEACHER_PIXELS)
    raw = raw_batch(images=2)
    for sample, shape in zip(raw['data_samples'], [(20, 32), (500, 375)], strict=True):
        sample.set_metainfo(dict(img_shape=shape))
    expected = teacher(copy.deepcopy(raw))['inputs']
    converted = PixelConverter(student, teacher)(**student(raw))
    torch.testing.assert_close(converted, expected, rtol=1e-4, atol=1e-4)


def test_images_of_one_channel_keep_it() -> None:
    student, teacher = ClsDataPreprocessor(), ClsDataPreprocessor(mean=[33.46], std=[78.87])
    images = torch.randint(0, 256, (2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    converted = PixelConverter(student, teacher)(images.float(), [])
    torch.testing.assert_close(converted, teacher(dict(inputs=images))['inputs'])


# ---- a whole run ----


@pytest.fixture(scope='module')
def plain_config() -> Path:
    return REPOSITORY / 'tests' / 'data' / 'tiny_classifier.py'


@pytest.fixture
def recipe(plain_config: Path, tmp_path: Path) -> Path:
    """The tiny classifier under a wider teacher whose checkpoint lies on the disk, with EMA and accumulation."""
    teacher = Config.fromfile(plain_config)
    teacher.model.backbone.base_channels = 16
    teacher.model.head.in_channels = 128
    teacher.dump(tmp_path / 'teacher.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(teacher.model)
    meta = dict(dataset_meta=dict(classes=['blue', 'green']))
    torch.save(dict(state_dict=network.state_dict(), meta=meta), tmp_path / 'teacher.pth')
    path = tmp_path / 'recipe.py'
    path.write_text(
        f"""_base_ = {str(plain_config)!r}
custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student={{{{_base_.model}}}},
    teacher=dict(config={str(tmp_path / 'teacher.py')!r}, checkpoint={str(tmp_path / 'teacher.pth')!r}),
    losses=dict(
        ckd=dict(type='mmkd.CKDLoss', weight=10.0),
        aekt=dict(type='mmkd.AEKTLoss', serial='task_then_distill'),
    ),
)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='RepeatAugSampler', num_repeats=2),
)
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
"""
    )
    return path


@pytest.mark.usefixtures('clean_environment')
def test_the_commands_train_a_student_and_test_it_with_its_plain_config(
    recipe: Path,
    plain_config: Path,
    tiny_imagenet: Path,
    fresh_names: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    def options() -> list[str]:
        return ['--cfg-options', f'data_root={tiny_imagenet}', *fresh_names()]

    work_dir = tmp_path / 'run'
    assert (
        import_module('mmkd.cli.train').main([str(recipe), '--work-dir', str(work_dir), *options()])
        == 0
    )

    (log,) = work_dir.glob('*/vis_data/scalars.json')
    *steps, validation = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(steps) > 1
    assert all(record['loss_ckd'] > 0 and record['loss_aekt'] > 0 for record in steps)

    checkpoint = torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student = MODELS.build(Config.fromfile(plain_config).model)
    extras = checkpoint['state_dict'].keys() - student.state_dict().keys()
    assert extras == {'distill.aekt.serial_layer.offset', 'distill.aekt.serial_layer.bias'}
    assert student.state_dict().keys() <= checkpoint['state_dict'].keys()
    averaged = {
        key.removeprefix('module.') for key in checkpoint['ema_state_dict'].keys() - {'steps'}
    }
    assert averaged == checkpoint['state_dict'].keys()

    for config in (plain_config, recipe):
        tested = tmp_path / f'test_{config.stem}'
        arguments = [str(config), str(work_dir / 'epoch_1.pth'), '--work-dir', str(tested)]
        assert import_module('mmkd.cli.test').main([*arguments, *options()]) == 0
        (metrics,) = tested.glob('*/*.json')
        assert json.loads(metrics.read_text())['accuracy/top1'] == validation['accuracy/top1']
