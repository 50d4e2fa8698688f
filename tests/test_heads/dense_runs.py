"""One training step of each dense head of MMDetection with a teacher, for the tests to look at."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import asks
import torch
import zoo
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import Tensor, nn

from mmkd.distillers import Distiller
from mmkd.heads.dense import DenseTable
from mmkd.structures import Step


@dataclass(frozen=True)
class Case:
    """A config of MMDetection and what its head needs to run small.

    Attributes:
        config: Path within ``mmdet::``, without ``.py``.
        adapter: Name of the adapter that has to serve the head.
        size: Pixels of the images; 128 where the head has no reason for more.
    """

    config: str
    adapter: str
    size: int = 128


# SSD's extra levels need its own 300 px. DDOD's deformable convolution refuses a 2x2 map as its P7 is at 256 px.
CASES = {
    'RetinaNet': Case('retinanet/retinanet_r50_fpn_1x_coco', 'AnchorHeadAdapter'),
    'GHM': Case('ghm/retinanet_r50_fpn_ghm-1x_coco', 'AnchorHeadAdapter'),
    'SSD': Case('ssd/ssd300_coco', 'AnchorHeadAdapter', size=300),
    'YOLOF': Case('yolof/yolof_r50-c5_8xb8-1x_coco', 'AnchorHeadAdapter'),
    'SABL': Case('sabl/sabl-retinanet_r50_fpn_1x_coco', 'SABLRetinaHeadAdapter'),
    'ATSS': Case('atss/atss_r50_fpn_1x_coco', 'ATSSHeadAdapter'),
    'DyHead': Case('dyhead/atss_r50_fpn_dyhead_1x_coco', 'ATSSHeadAdapter'),
    'GFL': Case('gfl/gfl_r50_fpn_1x_coco', 'GFLHeadAdapter'),
    'DDOD': Case('ddod/ddod_r50_fpn_1x_coco', 'ATSSHeadAdapter', size=384),
    'TOOD': Case('tood/tood_r50_fpn_1x_coco', 'TOODHeadAdapter'),
    'PAA': Case('paa/paa_r50_fpn_1x_coco', 'PAAHeadAdapter'),
    'FSAF': Case('fsaf/fsaf_r50_fpn_1x_coco', 'FSAFHeadAdapter'),
    'FreeAnchor': Case('free_anchor/freeanchor_r50_fpn_1x_coco', 'FreeAnchorHeadAdapter'),
    'FCOS': Case('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 'FCOSHeadAdapter'),
    'FCOS+': Case(
        'fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco',
        'FCOSHeadAdapter',
    ),
    'NAS-FCOS': Case(
        'nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco', 'FCOSHeadAdapter'
    ),
    'RepPoints': Case('reppoints/reppoints-moment_r50_fpn_1x_coco', 'RepPointsHeadAdapter'),
    'FoveaBox': Case('foveabox/fovea_r50_fpn_4xb4-1x_coco', 'FoveaHeadAdapter'),
    'VFNet': Case('vfnet/vfnet_r50_fpn_1x_coco', 'VFNetHeadAdapter'),
    'AutoAssign': Case('autoassign/autoassign_r50-caffe_fpn_1x_coco', 'AutoAssignHeadAdapter'),
    'YOLOX': Case('yolox/yolox_tiny_8xb8-300e_coco', 'YOLOXHeadAdapter'),
    'RTMDet': Case('rtmdet/rtmdet_tiny_8xb32-300e_coco', 'RTMDetHeadAdapter'),
    'CenterNet': Case('centernet/centernet_r18_8xb16-crop512-140e_coco', 'CenterNetHeadAdapter'),
    'CenterNet-update': Case(
        'centernet/centernet-update_r50-caffe_fpn_ms-1x_coco', 'CenterNetUpdateHeadAdapter'
    ),
}

_ANY = ('ComparativeKDLoss', 'CLKDLoss', 'CorrelationKDLoss', 'QuadraticKDLoss')
SIGMOID_LOSSES = dict(ckd=zoo.CKD) | {
    name.lower().removesuffix('loss'): dict(type=f'mmkd.{name}')
    for name in ('AEKTLoss', 'QFLKDLoss', *_ANY)
}
SOFTMAX_LOSSES = dict(ckd=zoo.CKD) | {
    name.lower().removesuffix('loss'): dict(type=f'mmkd.{name}', samples=zoo.CKD['samples'])
    for name in ('AEKTLoss', 'KDLoss', 'DKDLoss', 'NKDLoss', 'DISTLoss', *_ANY)
}


@dataclass
class Run:
    """What a training step left behind.

    Attributes:
        model: The distiller.
        data: The batch.
        step: The step as the losses saw it.
        losses: The losses by name.
        gradients: Gradient of each distillation loss alone, by its name, in the student's backbone.
        loss_inputs: (positional, keyword) arguments of each call of the head's own classification loss.
    """

    model: Distiller
    data: dict[str, Any]
    step: Step
    losses: dict[str, Any]
    gradients: dict[str, Tensor]
    loss_inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    @property
    def gradient(self) -> Tensor:
        """Gradient of CKD alone."""
        return self.gradients['ckd']

    @property
    def head(self) -> Any:
        """The student's head."""
        return self.model.student.bbox_head

    @property
    def table(self) -> DenseTable:
        """The table of all samples."""
        (table,) = asks.tables(self.step)
        assert isinstance(table, DenseTable)
        return table

    @property
    def sizes(self) -> list[int]:
        """Priors of one image on each level."""
        maps = self.table.student.class_maps
        return [level[0].numel() // self.table.channels for level in maps]

    @property
    def level_major(self) -> Tensor:
        """(N,) the samples' indices in the order level, image, prior."""
        indices = torch.arange(len(self.table)).view(len(self.table.samples_per_image), -1)
        return torch.cat([level.flatten() for level in indices.split(self.sizes, dim=1)])


def pair(name: str) -> tuple[Config, Config]:
    """Small configs of student and teacher of a case."""
    student, teacher = zoo.pair(f'mmdet::{CASES[name].config}.py')
    if name == 'SSD':  # VGG-16 knows no widths: a small ResNet gives maps of the same strides
        for model, depth, width in ((student, 18, 8), (teacher, 34, 16)):
            model.backbone = dict(
                type='ResNet',
                depth=depth,
                base_channels=width,
                stem_channels=width,
                out_indices=(1, 2),
            )
            channels = (2 * width, 4 * width, 32, 16, 16, 16)
            model.neck.update(in_channels=channels[:2], out_channels=channels)
            model.bbox_head.in_channels = channels
    return student, teacher


def take_step(model: Distiller, data: dict[str, Any], epoch: int = 0) -> Run:
    """One step of a distiller with a loss named ``ckd``."""
    MessageHub.get_current_instance().update_info('epoch', epoch)  # TOOD asks for it
    head = model.student.bbox_head
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    losses = [
        getattr(head, name)
        for name in ('loss_cls', 'initial_loss_cls', 'loss_center_heatmap')
        if isinstance(getattr(head, name, None), nn.Module)
    ]
    hooks = [
        loss.register_forward_pre_hook(
            lambda _, args, kwargs: inputs.append((args, kwargs)), with_kwargs=True
        )
        for loss in losses
    ]
    steps = zoo.record_steps(model)
    values, gradients = zoo.gradients_of_each_loss(model, data, model.backbone)
    for hook in hooks:
        hook.remove()
    return Run(model, data, steps[-1], values, gradients, inputs)


@functools.cache
def run(name: str) -> Run:
    """One step of a case on three images, the second of which holds no object; done once for all tests.

    With every loss that means something on the head.
    """
    data = zoo.batch(num_images=3, size=CASES[name].size, boxes=(3, 0, 2))
    losses = SOFTMAX_LOSSES if name == 'SSD' else SIGMOID_LOSSES
    losses = losses | dict(box_l1=dict(type='mmkd.BoxL1Loss'))
    model = zoo.distiller(*pair(name), losses=losses)
    if name == 'SSD':  # L2Norm's weight is unset memory until init_weights, which no teacher runs
        nn.init.constant_(model.teacher.model.neck.l2_norm.weight, 20)
    return take_step(model, data)
