"""What users get wrong is answered with an error that names the thing at fault and the fix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models import RetinaHead
from tiny import (
    CKD,
    NUM_CLASSES,
    fresh_hub,
    save,
    student_model,
    teacher_model,
    teacher_options,
)
from zoo import batch, distiller, gradient, mmdet_scope, one_step, pair

from mmkd.checkpoints import UnsafeCheckpointError
from mmkd.distillers import Distiller

PKD = dict(type='mmkd.PKDLoss')


@pytest.fixture(autouse=True)
def no_run_in_progress() -> None:
    fresh_hub()


def build(teacher: Any, checkpoint: Any = 'random_init', losses: Any = None) -> Distiller:
    with mmdet_scope():
        return Distiller(
            student_model(), teacher_options(teacher, checkpoint), losses or dict(ckd=CKD)
        )


def test_teacher_checkpoint_missing(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r'teacher\.checkpoint: .*no\.pth.*train the teacher'
    ):
        build(teacher_model(), tmp_path / 'no.pth')


def test_the_checkpoint_of_one_of_several_teachers_missing(tmp_path: Path) -> None:
    teachers = dict(big=teacher_options(teacher_model(), tmp_path / 'no.pth'))
    with (
        mmdet_scope(),
        pytest.raises(FileNotFoundError, match=r'model\.teachers\.big\.checkpoint: '),
    ):
        Distiller(student_model(), teachers=teachers)


class Executed:
    """Would execute a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.trace}',)


def test_teacher_checkpoint_that_has_to_be_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / 'trace'
    whole = dict(teacher_options(teacher_model()), fuse=False)
    with mmdet_scope():
        weights = Distiller(student_model(), whole, dict(ckd=CKD)).teacher.model.state_dict()
    torch.save(dict(state_dict=weights, meta=dict(x=Executed(trace))), tmp_path / 'a.pth')

    with pytest.raises(UnsafeCheckpointError, match=r'a\.pth.*teacher\.allow_pickle=True'):
        build(teacher_model(), tmp_path / 'a.pth')
    assert not trace.exists()

    trusted = dict(teacher_options(teacher_model(), tmp_path / 'a.pth'), allow_pickle=True)
    with mmdet_scope():
        Distiller(student_model(), trusted, dict(ckd=CKD))
    assert trace.exists()


def test_teacher_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    deep = build(teacher_model(backbone__depth=50, neck__in_channels=[64, 128, 256, 512]))
    path = save(deep.teacher.model, tmp_path / 'deep.pth')
    with pytest.raises(
        RuntimeError, match=r'deep\.pth does not fit model\.teacher\.config'
    ) as raised:
        build(teacher_model(), path)
    assert 'keys of the file that are unknown to the config' in str(raised.value)
    assert 'backbone.layer1.0.conv3.weight' in str(raised.value)


def test_teacher_checkpoint_of_another_class_count(tmp_path: Path) -> None:
    many = build(teacher_model(bbox_head__num_classes=80), losses=dict(pkd=PKD))
    path = save(many.teacher.model, tmp_path / 'coco.pth')
    with pytest.raises(
        RuntimeError, match=r'other shapes(.|\n)*retina_cls(.|\n)*number of classes'
    ):
        build(teacher_model(), path)


def test_teacher_config_of_another_class_count() -> None:
    with pytest.raises(ValueError, match=r'number of classes.*10.*80.*same classes'):
        build(teacher_model(bbox_head__num_classes=80))


def test_teacher_of_other_strides() -> None:
    strides = [4, 8, 16, 32, 64]
    with pytest.raises(ValueError, match=r'strides: the student.*\(8, 8\).*\(4, 4\).*same strides'):
        build(teacher_model(bbox_head__anchor_generator__strides=strides))


def test_teacher_of_other_anchors_per_location() -> None:
    with pytest.raises(ValueError, match=r'anchors per location.*same anchor generator'):
        build(teacher_model(bbox_head__anchor_generator__ratios=[0.5, 1.0]))


def test_teacher_of_other_anchor_sizes() -> None:
    with pytest.raises(ValueError, match=r'anchors of level 0 differ.*octave_base_scale'):
        build(teacher_model(bbox_head__anchor_generator__octave_base_scale=2))


def test_teacher_of_another_kind_of_head() -> None:
    _, sparse_rcnn = pair('mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py')
    with pytest.raises(
        ValueError, match=r'RetinaHead.*SparseRCNN.*same head family, or a two-stage'
    ):
        build(sparse_rcnn)


def test_student_without_a_neck_where_one_is_needed() -> None:
    config = Path(__file__).parent / 'data' / 'tiny_retinanet.py'
    student = student_model(
        neck=None,
        backbone__out_indices=[3],
        bbox_head__in_channels=64,
        bbox_head__anchor_generator__strides=[32],
    )
    teacher = dict(config=str(config), checkpoint='random_init')
    message = r'model\.losses\.pkd: .*student \(RetinaNet\) has no neck: give'
    with mmdet_scope(), pytest.raises(ValueError, match=message):
        Distiller(student, teacher, dict(pkd=PKD))


def test_teacher_without_a_neck_where_one_is_needed() -> None:
    teacher = teacher_model(
        neck=None,
        backbone__out_indices=[3],
        bbox_head__in_channels=128,
        bbox_head__anchor_generator__strides=[32],
    )
    with pytest.raises(ValueError, match=r'the teacher \(RetinaNet\) has no neck'):
        build(teacher, losses=dict(pkd=PKD))


def test_loss_that_is_not_registered() -> None:
    with pytest.raises(
        ValueError, match=r"model\.losses\.ckd: .*'mmkd\.CDKLoss'; did you mean.*CKDL"
    ):
        build(teacher_model(), losses=dict(ckd=dict(type='mmkd.CDKLoss')))


def test_option_that_a_loss_does_not_have() -> None:
    with pytest.raises(TypeError, match=r"model\.losses\.ckd: .*'temperatur'.*temperature"):
        build(teacher_model(), losses=dict(ckd=dict(type='mmkd.CKDLoss', temperatur=2)))


def test_schedule_with_its_end_before_its_begin() -> None:
    weight = dict(type='LinearWarmup', begin=3, end=1)
    with pytest.raises(ValueError, match=r'LinearWarmup: end=1 is before begin=3: swap them'):
        build(teacher_model(), losses=dict(ckd=CKD | dict(weight=weight)))


def test_head_that_no_adapter_serves() -> None:
    class RPNHeadOfMine(torch.nn.Module):
        pass

    with mmdet_scope():
        model = Distiller(student_model(), teacher_options(teacher_model()), {})
    from mmkd.heads import build_head_adapter

    model.student.bbox_head = RPNHeadOfMine()
    with pytest.raises(
        ValueError, match=r'no head adapter serves RPNHeadOfMine.*implement tables\(\)'
    ):
        build_head_adapter(model.student, model.teacher.model)


def test_head_of_a_known_family_needs_no_adapter_of_its_own() -> None:
    class RetinaHeadOfMine(RetinaHead):
        pass

    model = distiller(
        student_model(bbox_head__type=RetinaHeadOfMine), teacher_model(), dict(ckd=CKD)
    )
    assert one_step(model, batch(size=64, num_classes=NUM_CLASSES))['loss_ckd'] > 0


@pytest.mark.parametrize('loss', [CKD, PKD], ids=['logits', 'features'])
def test_nan_in_the_teacher(loss: Any) -> None:
    model = distiller(student_model(), teacher_model(), dict(loss=loss))
    model.teacher.model.neck.fpn_convs[0].conv.bias.fill_(torch.nan)
    message = r"outputs of 'teacher' .* hold NaN or Inf.*teacher\.checkpoint"
    with pytest.raises(FloatingPointError, match=message):
        one_step(model, batch(size=64, num_classes=NUM_CLASSES))


def test_nan_in_the_student() -> None:
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD))
    fresh_hub(iter=7, epoch=1, max_iters=8, max_epochs=2)
    with torch.no_grad():
        model.bbox_head.retina_cls.bias.fill_(torch.nan)
    with pytest.raises(
        FloatingPointError, match=r'loss_ckd is nan at iteration 7 \(epoch 1\): the student'
    ):
        one_step(model, batch(size=64, num_classes=NUM_CLASSES))


@pytest.mark.parametrize(
    'samples',
    [
        dict(type='mmkd.Positives'),
        dict(type='mmkd.TeacherTopK', k=8),
        dict(type='mmkd.PositivesAndTeacherTopK', k=8),
    ],
    ids=lambda samples: samples['type'],
)
def test_batch_without_any_ground_truth(samples: dict[str, Any]) -> None:
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD | dict(samples=samples)))
    losses = one_step(model, batch(size=64, num_classes=NUM_CLASSES, boxes=[0]))
    assert torch.isfinite(losses['loss_ckd'])
    assert (losses['loss_ckd'] == 0) == (samples['type'] == 'mmkd.Positives')
    assert torch.isfinite(gradient(model)).all()


def test_batch_in_which_one_image_has_no_ground_truth() -> None:
    model = distiller(student_model(), teacher_model(), dict(ckd=CKD))
    losses = one_step(model, batch(size=64, num_classes=NUM_CLASSES, boxes=[0, 2]), of='loss_ckd')
    assert losses['loss_ckd'] > 0
    assert gradient(model).any()
