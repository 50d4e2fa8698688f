from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS
from zoo import distiller, mmdet_scope, pair

from mmkd.heads import NeckAdapter

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
PKD = dict(pkd=dict(type='mmkd.PKDLoss'))


@pytest.fixture(scope='module')
def small_pair():
    return pair(RETINANET)


def test_channels_of_every_level_are_known_before_the_first_step(small_pair):
    student, teacher = copy.deepcopy(small_pair)
    teacher.neck.out_channels = teacher.bbox_head.in_channels = 24

    assert distiller(student, teacher, PKD)._neck.channels == [(32, 24)] * 5


def test_looking_at_the_neck_leaves_the_student_as_it_was(small_pair):
    with mmdet_scope():
        student, teacher = (MODELS.build(model) for model in small_pair)
    student.train()
    student.backbone.layer1[
        0
    ].bn1.eval()  # a mode of its own, as norm_eval and frozen stages set it
    modes = [module.training for module in student.modules()]
    state = copy.deepcopy(student.state_dict())

    NeckAdapter(student, teacher, loss='pkd')

    assert [module.training for module in student.modules()] == modes
    for name, value in student.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_other_numbers_of_levels_are_an_error_before_training(small_pair):
    student, teacher = copy.deepcopy(small_pair)
    teacher.neck.num_outs = 4

    with pytest.raises(ValueError, match=r"neck gives 5 levels, the teacher's 4: set num_outs"):
        distiller(student, teacher, PKD)
