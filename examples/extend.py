"""A method, a head and a teacher of one's own, in one training step: `python examples/extend.py`.

docs/extending.md explains the parts.
"""

import copy

import torch
import torch.nn.functional as F
from mmdet.models import RetinaHead
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from torch import nn

from mmkd.distillers import Distiller
from mmkd.heads.anchor import AnchorHeadAdapter
from mmkd.heads.base import register_head_adapter
from mmkd.losses import LogitLoss
from mmkd.registry import LOSSES, TEACHERS
from mmkd.teachers import Teacher


# ---- a method: a function of the logits, and a class that names it
def power_loss(student_logits, teacher_logits, power=2.0, weights=None):
    """Mean of |s - t|^power over samples, by their weights, and classes."""
    distances = (student_logits - teacher_logits).abs().pow(power).mean(dim=1)
    weights = torch.ones_like(distances) if weights is None else weights
    return (weights * distances).sum() / weights.sum().clamp(min=1e-6)


@LOSSES.register_module()
class PowerLoss(LogitLoss):
    """A power of the distance between the logits; the function's parameters are its options."""

    function = staticmethod(power_loss)


# ---- a head: RetinaNet's with a quality that scores are multiplied by, and its adapter
@MODELS.register_module()
class QualityRetinaHead(RetinaHead):
    """RetinaNet's head with a third branch: how sure the classes of each anchor are."""

    def _init_layers(self):
        super()._init_layers()
        self.quality = nn.Conv2d(self.feat_channels, self.num_base_priors, 1)

    def forward_single(self, x):
        """Classes, boxes and quality of a level."""
        return *super().forward_single(x), self.quality(x)

    def loss_by_feat(self, cls_scores, bbox_preds, qualities, *args, **kwargs):
        """RetinaNet's losses, and that of the quality."""
        losses = super().loss_by_feat(cls_scores, bbox_preds, *args, **kwargs)
        sure = [
            scores.detach().sigmoid().unflatten(1, (-1, self.cls_out_channels)).amax(dim=2)
            for scores in cls_scores
        ]
        return losses | dict(
            loss_quality=sum(map(F.binary_cross_entropy_with_logits, qualities, sure))
        )


@register_head_adapter('QualityRetinaHead')
class QualityRetinaAdapter(AnchorHeadAdapter):
    """Labels and objects are found as in every anchor head; the confidence is class times quality."""

    objectness_at = 2  # the quality's place among the head's outputs


# ---- a teacher: the student as it was some iterations ago
@TEACHERS.register_module()
class SnapshotTeacher(Teacher):
    """The student of the last iteration that `interval` divides; not saved: a resumed run starts with a new one."""

    def __init__(self, interval=100, *, student):
        super().__init__(copy.deepcopy(student), student)
        self.interval, self.student = interval, student

    def begin_step(self, progress):
        """Called before every step."""
        if progress.iteration % self.interval == 0:
            self.model.load_state_dict(self.student.state_dict(), strict=False)


# ---- a recipe with all three
def student_config():
    """The embedded RetinaNet with the new head."""
    model = get_config('mmkd::shapes/retinanet_student.py').model
    model.backbone.init_cfg = None
    model.bbox_head.type = 'QualityRetinaHead'
    return model


def distiller():
    """As `model = dict(type='mmkd.Distiller', ...)` of a recipe builds it."""
    return Distiller(
        student=student_config(),
        teacher=dict(type='mmkd.SnapshotTeacher', interval=10),
        losses=dict(
            power=dict(
                type='mmkd.PowerLoss', weight=0.1, samples=dict(type='mmkd.TeacherTopK', k=16)
            )
        ),
    )


def main():
    """Take a step; return its losses by name."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = distiller().train()
        batch = model.data_preprocessor(demo_mm_inputs(2, image_shapes=[(3, 64, 64)] * 2), True)
        losses = model(**batch, mode='loss')
    total, values = model.parse_losses(losses)
    total.backward()
    for name, value in values.items():
        print(f'{name}: {value:.4f}')
    return values


if __name__ == '__main__':
    main()
