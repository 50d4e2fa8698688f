"""To everyone else the distiller is the student; one step adds the distillation losses and nothing more."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmdet.models import RetinaHead, RetinaNet
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope
from tiny import (
    CKD,
    NUM_CLASSES,
    TINY_RETINANET,
    TeacherCalls,
    fresh_hub,
    same,
    student_model,
    teacher_model,
    teacher_options,
    weights,
)
from torch import Tensor, nn
from zoo import batch, distiller, gradient, mmdet_scope, one_step

from mmkd.distillers import Distiller
from mmkd.losses import CKDLoss, LogitLoss
from mmkd.registry import LOSSES
from mmkd.structures import LogitPairs, Step


@LOSSES.register_module()
class ScaledMSE(LogitLoss):
    """Trains a scale and has a convolution that the student's init_cfg would like to reach."""

    def __init__(self, weight: Any = 1.0) -> None:
        super().__init__(weight)
        self.scale = nn.Parameter(torch.rand(()))
        self.unused_by_default = nn.Conv2d(1, 1, 1)

    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs) -> Tensor:
        return ((student * self.scale - teacher) ** 2).mean()


def make(losses: Any = None, student: Any = None, teacher: Any = None) -> Distiller:
    losses = dict(ckd=CKD) if losses is None else losses
    return distiller(student or student_model(), teacher or teacher_model(), losses)


def plain(student: Any = None) -> nn.Module:
    torch.manual_seed(0)
    with mmdet_scope():
        model = MODELS.build(student or student_model())
        model.init_weights()
    return model.train()


def small_batch(**options: Any) -> dict[str, Any]:
    return batch(**(dict(size=64, num_classes=NUM_CLASSES) | options))


# ---- names (contract 2)


def test_every_name_is_the_students_own() -> None:
    ours, theirs = make(), plain()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]
    extra = {n for n, _ in ours.named_modules()} - {n for n, _ in theirs.named_modules()}
    assert extra == {'distill', 'distill.ckd'}


def test_trainable_extras_are_under_distill() -> None:
    ours, theirs = make(dict(ckd=CKD, mse=dict(type='ScaledMSE'))), plain()
    assert ours.state_dict().keys() - theirs.state_dict().keys() == {
        'distill.mse.scale',
        'distill.mse.unused_by_default.weight',
        'distill.mse.unused_by_default.bias',
    }


def test_the_state_loads_strictly_in_the_plain_student_and_back() -> None:
    ours, theirs = make(), plain()
    nn.init.normal_(ours.backbone.conv1.weight)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert same(ours.state_dict(), theirs.state_dict())
    nn.init.normal_(theirs.neck.lateral_convs[0].conv.weight)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert same(ours.state_dict(), theirs.state_dict())


def test_a_student_that_renames_its_keys_does_so_in_the_distiller_too() -> None:
    """As MMPretrain's wrappers of timm's and Hugging Face's models do."""

    class Renaming(RetinaNet):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._register_state_dict_hook(self._rename)

        def _rename(self, module: Any, state: Any, prefix: str, metadata: Any) -> None:
            for key in list(state):
                state[key.replace('neck.', 'trunk.')] = state.pop(key)

        def _load_from_state_dict(self, state: Any, *args: Any) -> None:
            for key in list(state):
                state[key.replace('trunk.', 'neck.')] = state.pop(key)
            super()._load_from_state_dict(state, *args)

    ours = make(student=student_model(type=Renaming))
    theirs = plain(student_model(type=Renaming))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert any(key.startswith('trunk.') for key in ours.state_dict())


def test_loading_goes_through_the_students_own_conversion() -> None:
    """A two-stage detector takes a single-stage detector's head for its RPN's."""
    from zoo import pair

    student, teacher = pair('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    ours = make({}, student, teacher)
    state = {
        key.replace('rpn_head.', 'bbox_head.'): torch.full_like(value, 0.5)
        for key, value in ours.state_dict().items()
        if key.startswith('rpn_head.')
    }
    assert state
    ours.load_state_dict(state, strict=False)
    assert (ours.rpn_head.rpn_conv.weight == 0.5).all()


# ---- attributes (contract 10)


def test_attributes_and_methods_resolve_to_the_student() -> None:
    model = make()
    assert model.with_neck is True
    assert model.bbox_head is model.student.bbox_head
    assert model.extract_feat.__self__ is model.student
    with pytest.raises(AttributeError, match=r"'RetinaNet' object has no attribute 'nonsense'"):
        _ = model.nonsense


@pytest.mark.parametrize('part', ['neck', 'backbone'])
def test_assigning_a_child_reaches_the_student(part: str) -> None:
    model = make({})
    other = copy.deepcopy(getattr(model, part))
    setattr(model, part, other)
    assert getattr(model.student, part) is other
    features = model.student.extract_feat(torch.zeros(1, 3, 64, 64))
    other.register_forward_hook(lambda *_: pytest.fail('called'))
    with pytest.raises(pytest.fail.Exception, match='called'):
        model(torch.zeros(1, 3, 64, 64), mode='tensor')
    assert features


def test_converting_the_batch_norms_converts_the_students() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(make())
    assert isinstance(model.student.backbone.bn1, nn.SyncBatchNorm)


def test_a_parameter_that_is_replaced_is_replaced_in_both() -> None:
    model = make().half()
    assert {p.dtype for p in model.student.parameters()} == {torch.float16}


def test_train_and_eval_reach_the_student_and_the_losses() -> None:
    model = make()
    assert model.eval() is model
    assert {model.training, model.student.training, model.neck.training} == {False}
    assert not model.distill['ckd'].training
    model.train()
    assert model.training
    assert model.student.training
    assert model.distill['ckd'].training


def test_predictions_are_the_plain_students() -> None:
    ours, theirs = make().eval(), plain().eval()
    theirs.load_state_dict(ours.state_dict())
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    samples = small_batch()['data_samples']
    for sample in samples:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    for step in ('val_step', 'test_step'):
        with torch.no_grad():
            mine, other = (
                getattr(model, step)(dict(inputs=images, data_samples=copy.deepcopy(samples)))
                for model in (ours, theirs)
            )
        assert mine[0].pred_instances.scores.numel()
        for a, b in zip(mine, other, strict=True):
            assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
            assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


# ---- one step (contracts 1 and 6)


def test_a_step_has_the_students_losses_and_one_for_each_of_the_recipe() -> None:
    ours, theirs = make(dict(first=CKD, second=CKD | dict(weight=0.5))), plain()
    losses, own = one_step(ours, small_batch()), one_step(theirs, small_batch())
    assert losses.keys() - own.keys() == {'loss_first', 'loss_second'}
    for name, value in own.items():
        assert torch.equal(torch.stack(list(losses[name])), torch.stack(list(value)))
    assert torch.equal(losses['loss_second'], 0.5 * losses['loss_first'])
    assert losses['loss_first'] > 0


@pytest.mark.parametrize('losses', [{}, dict(ckd=CKD | dict(weight=0))], ids=['none', 'weight_0'])
def test_off_is_the_plain_students_step_without_the_teacher(losses: dict[str, Any]) -> None:
    ours, theirs = make(losses), plain()
    assert same(ours.state_dict(), theirs.state_dict())
    calls = TeacherCalls(ours)
    assert one_step(ours, small_batch()).keys() == one_step(theirs, small_batch()).keys()
    assert torch.equal(gradient(ours), gradient(theirs))
    assert same(ours.state_dict(), theirs.state_dict())
    assert (calls.backbone, calls.head) == (0, 0)


def test_extras_of_a_loss_that_is_off_stay_in_the_graph_without_a_gradient() -> None:
    """DistributedDataParallel waits for every parameter in every step."""
    model = make(dict(mse=dict(type='ScaledMSE', weight=0)))
    calls = TeacherCalls(model)
    assert one_step(model, small_batch())['loss_mse'] == 0
    assert all(parameter.grad is not None for parameter in model.distill.parameters())
    assert not any(parameter.grad.any() for parameter in model.distill.parameters())
    assert calls.backbone == 0


def test_the_teacher_runs_once_for_several_losses() -> None:
    samples = dict(samples=dict(type='mmkd.TeacherTopK', k=4))
    model = make(dict(a=CKD, b=CKD | samples, c=dict(type='mmkd.PKDLoss')))
    calls = TeacherCalls(model)
    one_step(model, small_batch())
    assert (calls.backbone, calls.head) == (1, 1)


def test_a_loss_on_features_alone_does_not_run_the_teachers_head() -> None:
    model = make(dict(pkd=dict(type='mmkd.PKDLoss')))
    calls = TeacherCalls(model)
    one_step(model, small_batch())
    assert (calls.backbone, calls.head) == (1, 0)


def test_the_gradient_of_a_loss_reaches_backbone_neck_and_class_branch_only() -> None:
    model = make()
    one_step(model, small_batch(), of='loss_ckd')
    assert gradient(model.backbone).any()
    assert gradient(model.neck).any()
    assert gradient(model.bbox_head.retina_cls).any()
    assert not gradient(model.bbox_head.retina_reg).any()


def test_a_schedule_follows_the_run_and_stops_the_teacher() -> None:
    model = make(dict(ckd=CKD | dict(weight=dict(type='Stop', at=1, value=3.0))))
    calls = TeacherCalls(model)
    run = dict(max_iters=4, max_epochs=2)
    fresh_hub(iter=1, epoch=0, **run)
    on = one_step(model, small_batch())['loss_ckd']
    fresh_hub(iter=2, epoch=1, **run)
    assert 'loss_ckd' not in one_step(model, small_batch())
    assert calls.backbone == 1
    assert torch.isclose(on, 3 * one_step(make(), small_batch())['loss_ckd'], rtol=1e-3)


def test_nothing_of_a_step_is_kept() -> None:
    model = make()
    one_step(model, small_batch())
    assert all(tap.recorded is None for tap in model._tapped._taps._taps.values())


def test_mode_predict_and_tensor_record_nothing_and_run_no_teacher() -> None:
    model = make().eval()
    calls = TeacherCalls(model)
    data = small_batch()
    with torch.no_grad(), mmdet_scope():
        model(**data, mode='predict')
        model(data['inputs'], mode='tensor')
    assert calls.backbone == 0


def test_a_loss_named_like_one_of_the_students_is_refused() -> None:
    """It would replace the student's classification loss."""
    model = make(dict(cls=CKD))
    with pytest.raises(
        ValueError, match=r'model\.losses\.cls: the student.* have a loss_cls already'
    ):
        one_step(model, small_batch())


@pytest.mark.parametrize('name', ['type', 'ckd.p2', '', 'keys', 3])
def test_a_name_that_no_module_can_have_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=rf'model\.losses: {name!r} cannot be .*dict\(ckd='):
        distiller(student_model(), teacher_model(), {name: CKD})


def test_so_is_the_name_of_a_teacher() -> None:
    teachers = {'large.one': teacher_options(teacher_model())}
    with pytest.raises(ValueError, match=r"model\.teachers: 'large\.one' cannot be a name"):
        Distiller(student_model(), teachers=teachers)


@pytest.mark.parametrize('losses', [CKD, [CKD]], ids=['unnamed', 'list'])
def test_losses_without_names_are_told_to_have_some(losses: Any) -> None:
    with pytest.raises(
        TypeError, match=r'model\.losses: expected a dict of names, such as dict\(ckd='
    ):
        distiller(student_model(), teacher_model(), losses)


def test_a_student_that_has_a_teacher_already_is_refused() -> None:
    config = get_config(
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    ).model
    config.detector = student_model()
    with pytest.raises(
        ValueError, match=r'model\.student: SoftTeacher has a part `student`.*plain'
    ):
        distiller(config, teacher_model())


def test_a_tap_that_never_fires_is_named() -> None:
    class OtherTargets(RetinaHead):
        def get_targets(self, *args: Any, **kwargs: Any) -> Any:
            self._get_targets_single, kept = super()._get_targets_single, self._get_targets_single
            try:
                return super().get_targets(*args, **kwargs)
            finally:
                self._get_targets_single = kept

    model = make(student=student_model(bbox_head__type=OtherTargets))
    with pytest.raises(RuntimeError, match=r"the tap on 'targets' recorded nothing.*head adapter"):
        one_step(model, small_batch())


# ---- initialisation (contracts 1 and 4)


def test_extras_and_init_cfg_leave_the_students_initial_weights_as_they_are() -> None:
    """An init_cfg of the whole detector reaches every Conv2d, but not those of the losses."""
    student = student_model(init_cfg=dict(type='Normal', layer='Conv2d', std=0.5))
    theirs = plain(student)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    with mmdet_scope():
        ours = Distiller(
            student, teacher_options(teacher_model()), dict(mse=dict(type='ScaledMSE'))
        )
        convolution = copy.deepcopy(ours.distill.mse.unused_by_default)
        ours.init_weights()
    assert torch.equal(drawn, torch.rand(3))
    state = {key: value for key, value in weights(ours).items() if 'distill' not in key}
    assert same(state, theirs.state_dict())
    assert same(convolution.state_dict(), ours.distill.mse.unused_by_default.state_dict())
    assert list(ours._modules)[-1] == 'distill'


def test_a_preprocessor_beside_the_model_becomes_the_students() -> None:
    """MMEngine's Runner merges it into the model's options; MMPretrain's configs count on that."""
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    teacher = dict(config=config, checkpoint='random_init')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(config.model, teacher, data_preprocessor=config.data_preprocessor)
    assert model.data_preprocessor is model.student.data_preprocessor
    assert model.data_preprocessor.mean.flatten().tolist() == [127.5] * 3
    inputs = torch.zeros(1, 3, 4, 4)
    assert model.teacher.convert_pixels(inputs, []) is inputs


# ---- precision (contract 9)


def test_under_bfloat16_autocast_the_loss_is_computed_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make()
    seen = []
    logits: list[Tensor] = []
    compute = CKDLoss.compute

    def watched(
        self: CKDLoss, student: Tensor, teacher: Tensor, pairs: LogitPairs, step: Step
    ) -> Tensor:
        seen.append((torch.is_autocast_enabled('cpu'), student.dtype, pairs.teacher.dtype))
        pairs.student.retain_grad()
        logits.append(pairs.student)
        return compute(self, student, teacher, pairs, step)

    monkeypatch.setattr(CKDLoss, 'compute', watched)
    with torch.autocast('cpu', dtype=torch.bfloat16), mmdet_scope():
        losses = model(**small_batch(), mode='loss')
    losses['loss_ckd'].backward()
    assert losses['loss_ckd'].dtype == torch.float32
    # The loss is out of autocast; the teacher before it runs as the student does and hands out float32.
    assert seen == [(False, torch.float32, torch.float32)]
    # What reaches the student's logits. Further down, PyTorch's CPU convolutions on 1x1 maps now and then leave NaN
    # in bfloat16 weight gradients, those of the student's own losses too.
    assert logits[0].grad is not None
    assert logits[0].grad.any()
    assert torch.isfinite(logits[0].grad).all()
    assert torch.isclose(losses['loss_ckd'], one_step(make(), small_batch())['loss_ckd'], rtol=0.05)
