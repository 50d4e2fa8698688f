"""The design's contracts on whole runs: MMEngine's Runner trains a plain RetinaNet and a distilled one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from mmdet.engine.hooks import YOLOXModeSwitchHook
from mmdet.models import DetTTAModel, RetinaNet
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner, load_checkpoint
from tiny import (
    CKD,
    NUM_CLASSES,
    TINY_RETINANET,
    TeacherCalls,
    make_runner,
    recipe,
    same,
    student_model,
    teacher_model,
    train,
    weights,
)
from torch import Tensor, nn
from zoo import batch, distiller, mmdet_scope, pair

from mmkd.distillers import Distiller
from mmkd.utils import override_data_root

MAP = 'coco/bbox_mAP'
CUSTOM_KEYS = {'backbone': dict(lr_mult=0.1), 'bbox_head.retina_cls': dict(lr_mult=2.0)}


@MODELS.register_module()
class RetinaNetThatCountsEpochs(RetinaNet):
    """Wants to be told the epoch, as SetEpochInfoHook does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DecayByDepth(DefaultOptimWrapperConstructor):
    """Learning rates by the parameters' names and the model's parts, as MMDetection's layer decay reads them."""

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        assert type(module.backbone).__name__ == 'ResNet'
        for name, parameter in module.named_parameters():
            depth = int(name[14]) if name.startswith('backbone.layer') else 0
            params.append(dict(params=[parameter], name=name, lr=self.base_lr * 0.5 ** (4 - depth)))


@dataclass
class Run:
    """What is left of a run."""

    runner: Runner
    weights: dict[str, Tensor]
    work_dir: Path
    teacher_runs: int = 0
    teacher_before: dict[str, Tensor] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return self.runner.message_hub.get_scalar(f'val/{MAP}').current()


@pytest.fixture(scope='module')
def plain_config(tiny_coco: Path) -> Config:
    """The tiny RetinaNet, two epochs of four iterations, trained well enough that a box is found."""
    config = Config.fromfile(TINY_RETINANET)
    override_data_root(config, str(tiny_coco))
    config.merge_from_dict(
        {
            'train_cfg.max_epochs': 2,
            'train_cfg.val_interval': 2,
            'optim_wrapper.paramwise_cfg': dict(custom_keys=CUSTOM_KEYS),
            'custom_hooks': [dict(type='EMAHook', momentum=0.5)],
        }
    )
    return config


def run(config: Config, work_dir: Path) -> Run:
    runner = make_runner(config, work_dir)
    if not isinstance(runner.model, Distiller):
        runner.train()
        return Run(runner, weights(runner.model), work_dir)
    calls, teacher_before = TeacherCalls(runner.model), weights(runner.model.teacher.model)
    runner.train()
    return Run(runner, weights(runner.model), work_dir, calls.backbone, teacher_before)


@pytest.fixture(scope='module')
def plain(plain_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Plain MMDetection."""
    return run(plain_config, tmp_path_factory.mktemp('plain'))


@pytest.fixture(scope='module')
def distilled(plain_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with CKD."""
    config = recipe(plain_config, dict(ckd=CKD))
    return run(config, tmp_path_factory.mktemp('distilled'))


# ---- 1. Off means off


@pytest.mark.parametrize(
    'losses',
    [
        {},
        dict(
            ckd=CKD | dict(weight=0),
            pkd=dict(type='mmkd.PKDLoss', weight=0.0),
            kd=CKD | dict(weight=dict(type='mmkd.GradientShare', share=0)),
        ),
        dict(ckd=CKD | dict(weight=dict(type='LinearWarmup', begin=2, end=3))),
    ],
    ids=['no_losses', 'weights_of_0', 'warm_up_that_never_begins'],
)
def test_1_off_means_off(
    plain: Run, plain_config: Config, losses: dict[str, Any], tmp_path: Path
) -> None:
    off = run(recipe(plain_config, losses), tmp_path)
    assert same(off.weights, plain.weights)
    assert off.score == plain.score
    assert off.teacher_runs == 0


def test_1_on_is_not_off(plain: Run, distilled: Run) -> None:
    """The test above compares runs that distillation would have changed."""
    assert distilled.weights.keys() == plain.weights.keys()
    assert not same(distilled.weights, plain.weights)
    assert distilled.teacher_runs == 8
    initial = [
        each.runner.message_hub.get_scalar('train/loss_cls').data[0][0]
        for each in (plain, distilled)
    ]
    assert initial[0] == initial[1], 'both start from the same weights and see the same images'


# ---- 2. The student's checkpoint is the student


def test_2_the_checkpoint_loads_strictly_in_plain_mmdetection(
    plain: Run, distilled: Run, plain_config: Config
) -> None:
    path = distilled.work_dir / 'epoch_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    reference = torch.load(plain.work_dir / 'epoch_2.pth', weights_only=False)
    assert list(checkpoint['state_dict']) == list(reference['state_dict'])
    assert checkpoint['ema_state_dict'].keys() == reference['ema_state_dict'].keys()
    with mmdet_scope():
        student = MODELS.build(plain_config.model).eval()
    load_checkpoint(student, str(path), strict=True)
    distiller_twin = distilled.runner.model
    distiller_twin.load_state_dict(checkpoint['state_dict'], strict=True)
    distiller_twin.eval()
    data = batch(size=64, num_classes=NUM_CLASSES)
    with torch.no_grad(), mmdet_scope():
        theirs = student(**data, mode='predict')
        data = batch(size=64, num_classes=NUM_CLASSES)
        ours = distiller_twin(**data, mode='predict')
    assert len(theirs[0].pred_instances) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.equal(one.pred_instances.scores, other.pred_instances.scores)


def test_2_parameter_groups_see_the_students_names(plain: Run, distilled: Run) -> None:
    ours, theirs = (each.runner.optim_wrapper.param_groups for each in (distilled, plain))
    shapes = [
        [[tuple(p.shape) for p in group['params']] for group in each] for each in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert [group['lr'] for group in ours] == [group['lr'] for group in theirs]
    assert len({group['lr'] for group in ours}) == 3


def test_2_a_constructor_that_reads_names_and_parts_works(
    plain_config: Config, tmp_path: Path
) -> None:
    groups = []
    for number, config in enumerate((plain_config, recipe(plain_config, dict(ckd=CKD)))):
        config = Config(config.to_dict())
        config.optim_wrapper.constructor = 'DecayByDepth'
        runner = make_runner(config, tmp_path / str(number))
        built = runner.build_optim_wrapper(config.optim_wrapper)
        groups.append([(group['name'], group['lr']) for group in built.optimizer.param_groups])
    assert groups[0] == groups[1]
    assert len({lr for _, lr in groups[0]}) == 5


# ---- 3. The teacher is a guest


def test_3_ema_averages_the_student_alone(plain: Run, distilled: Run) -> None:
    ours, theirs = (hook_of(each.runner, 'EMAHook').ema_model for each in (distilled, plain))
    assert [name for name, _ in ours.named_parameters()] == [
        n for n, _ in theirs.named_parameters()
    ]
    copied, original = (
        model.teacher.model.state_dict() for model in (ours.module, distilled.runner.model)
    )
    assert all(copied[key].data_ptr() == original[key].data_ptr() for key in original)  # no memory
    assert ours.module.student is not distilled.runner.model.student
    assert not same(dict(ours.module.state_dict()), distilled.weights)


def test_3_the_teacher_is_unchanged_after_training(distilled: Run) -> None:
    model, optimizer = distilled.runner.model, distilled.runner.optim_wrapper.optimizer
    assert same(distilled.teacher_before, model.teacher.model.state_dict())
    optimised = {id(p) for group in optimizer.param_groups for p in group['params']}
    assert optimised == {id(p) for p in model.parameters()}
    assert not optimised & {id(p) for p in model.teacher.model.parameters()}


# ---- 4. The teacher is really loaded


def test_4_the_plain_run_teaches_with_its_own_weights(
    plain: Run, plain_config: Config, tmp_path: Path
) -> None:
    """The teacher's checkpoint is a run's; it has the data set's classes, or training does not start."""
    config = recipe(plain_config, dict(ckd=CKD))
    config.model.teacher = dict(
        config=dict(model=plain_config.model, default_scope='mmdet'),
        checkpoint=str(plain.work_dir / 'epoch_2.pth'),
        fuse=False,  # which would give its weights other values and names
    )
    runner = make_runner(config, tmp_path / 'right')
    saved = torch.load(plain.work_dir / 'epoch_2.pth', weights_only=False)['state_dict']
    assert same(runner.model.teacher.model.state_dict(), saved)
    runner.call_hook('before_run')
    names = plain_config.metainfo['classes']
    config.merge_from_dict(
        {'train_dataloader.dataset.metainfo.classes': ['disc', *names[1:]], 'custom_hooks': []}
    )
    with pytest.raises(
        ValueError, match=r"trained on other classes: of the 10 .* lacks 1:\n  'disc'"
    ):
        train(config, tmp_path / 'wrong')
    config.merge_from_dict({'train_dataloader.dataset.metainfo.classes': names[::-1]})
    reordered = train(config, tmp_path / 'reordered').model
    # CocoDataset numbers labels in the order of the file, which is the teacher's, whatever metainfo's order is.
    assert reordered._classes['teacher'].columns is None


# ---- 7. Resume equals never stopped


def test_7_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(
    plain_config: Config, tmp_path: Path
) -> None:
    warmup = dict(type='LinearWarmup', end=2)
    share = dict(type='mmkd.GradientShare', share=0.2, interval=3)
    losses = dict(ckd=CKD | dict(weight=warmup), pkd=dict(type='mmkd.PKDLoss', weight=share))
    config = recipe(plain_config, losses)
    config.merge_from_dict({'custom_hooks': [], 'train_cfg.val_interval': 9})
    # MMEngine does not save the random generators: what resumes exactly is all but the augmentation.
    config.train_dataloader.dataset.pipeline[3].prob = 0.0
    whole = train(config, tmp_path / 'whole')
    resumed = Config(config.to_dict())
    resumed.merge_from_dict({'resume': True, 'load_from': str(tmp_path / 'whole' / 'epoch_1.pth')})
    again = train(resumed, tmp_path / 'resumed')
    assert again.iter == whole.iter == 8
    assert same(weights(again.model), weights(whole.model))
    assert (whole.model.state_dict()['distill.gradient_shares.counts'] > 0.2).all(), (
        'measured again'
    )


# ---- 10. Hooks written for the student work


def test_10_the_student_is_told_the_epoch(plain_config: Config, tmp_path: Path) -> None:
    config = recipe(plain_config, dict(ckd=CKD))
    config.merge_from_dict(
        {
            'model.student.type': 'RetinaNetThatCountsEpochs',
            'custom_hooks': [dict(type='SetEpochInfoHook'), dict(type='NumClassCheckHook')],
            'train_cfg.val_interval': 9,
        }
    )
    runner = train(config, tmp_path)
    assert runner.model.student.epochs == [0, 1]


def test_10_yolox_switches_its_mode() -> None:
    model = distiller(*pair('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'), losses={})
    hook = YOLOXModeSwitchHook(num_last_epochs=1)

    runner = MagicMock(epoch=0, max_epochs=1, model=model)
    assert model.student.bbox_head.use_l1 is False
    hook.before_train_epoch(runner)
    assert model.student.bbox_head.use_l1 is True


def test_10_test_time_augmentation_wraps_the_distiller() -> None:
    model = distiller(student_model(), teacher_model()).eval()
    views = [batch(num_images=1, size=64, num_classes=NUM_CLASSES) for _ in range(2)]
    data = dict(
        inputs=[[torch.full((3, 64, 64), 90, dtype=torch.uint8)] for _ in views],
        data_samples=[view['data_samples'] for view in views],
    )
    data['data_samples'][0][0].set_metainfo(dict(flip=False, flip_direction=None))
    data['data_samples'][1][0].set_metainfo(dict(flip=True, flip_direction='horizontal'))
    with torch.no_grad(), mmdet_scope():
        wrapped = DetTTAModel(
            module=model,
            tta_cfg=ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=20),
        )
        merged = wrapped.test_step(data)
    assert len(merged) == 1
    assert len(merged[0].pred_instances) > 0


def hook_of(runner: Runner, name: str) -> Any:
    return next(hook for hook in runner.hooks if type(hook).__name__ == name)
