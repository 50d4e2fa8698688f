"""A distilled step makes the host wait for the device no more often than the plain student's does (contract 11).

What would wait on a GPU is seen on a CPU, too: operations whose result, or its size, the host has to know.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import dense_runs
import pytest
import torch
import zoo
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from tiny import NUM_CLASSES, TINY_RETINANET, fresh_hub, student_model, teacher_model
from torch.utils._python_dispatch import TorchDispatchMode

from mmkd.distillers import Distiller, watch
from mmkd.functional._common import check_labels

WAITING = {
    '_local_scalar_dense',
    'bincount',
    'equal',
    'masked_select',
    'nonzero',
    'repeat_interleave',
    'unique_consecutive',
    'unique_dim',
    '_unique2',
}
INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_'}
"""They wait if the index is a mask."""
EXCEPTIONS = {
    check_labels.__code__,  # which looks at labels in CPU memory only
    SingleRoIExtractor.forward.__code__,  # MMDetection's; the teacher's waits per level as the student's does
}

TOP_K = dict(samples=dict(type='mmkd.TeacherTopK', k=8))
CKD = dict(type='mmkd.CKDLoss', **TOP_K)
DENSE = dict(
    ckd=CKD,
    clkd=dict(type='mmkd.CLKDLoss', **TOP_K),
    qfl=dict(type='mmkd.QFLKDLoss'),
    aekt=dict(type='mmkd.AEKTLoss', serial='distill_then_task'),
    pkd=dict(type='mmkd.PKDLoss', weight=dict(type='mmkd.GradientShare', share=0.2)),
    cwd=dict(type='mmkd.CWDLoss'),
    class_maps=dict(type='mmkd.CWDLoss', at='class_maps'),
    ickd=dict(type='mmkd.ICKDLoss'),
    at=dict(type='mmkd.ATLoss'),
    nst=dict(type='mmkd.NSTLoss'),
    fitnet=dict(type='mmkd.FitNetLoss'),
    vid=dict(type='mmkd.VIDLoss'),
    ofd=dict(type='mmkd.OFDLoss', at='backbone.layer2.before_relu'),
    review=dict(type='mmkd.ReviewKDLoss'),
    fgd=dict(type='mmkd.FGDLoss'),
    mgd=dict(type='mmkd.MGDLoss'),
    fgfi=dict(type='mmkd.FGFILoss'),
    defeat=dict(type='mmkd.DeFeatLoss'),
    cross=dict(type='mmkd.CrossKDLoss', layer=1),
    bckd=dict(type='mmkd.BCKDLoss'),
    giou=dict(type='mmkd.BoxGIoULoss'),
    l1=dict(type='mmkd.BoxL1Loss'),
)
POSITIVES = dict(ckd=CKD, positives=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.Positives')))
CLASSIFIER = {
    name: dict(type=f'mmkd.{name}Loss')
    for name in (
        'KD',
        'DKD',
        'NKD',
        'DIST',
        'AEKT',
        'CKD',
        'RKD',
        'CLKD',
        'QuadraticKD',
        'SP',
        'PKT',
        'CC',
    )
}


class Waits(TorchDispatchMode):
    """Counts the operations, by name, that make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        waits = name in WAITING or (
            name in INDEXING
            and any(index is not None and index.dtype == torch.bool for index in args[1])
        )
        if waits and not EXCEPTIONS & _callers():
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def _callers() -> set[Any]:
    codes, frame = set(), sys._getframe(1)
    while frame is not None:
        codes.add(frame.f_code)
        frame = frame.f_back
    return codes


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a loss has not arrived on the host when its step ends."""
    fresh_hub(epoch=0)
    monkeypatch.setattr(watch, '_to_host', lambda value: (value, lambda: False))


def waits(loss: Callable[..., Any], data: dict[str, Any]) -> Counter[str]:
    torch.manual_seed(0)
    data = copy.deepcopy(data)
    with zoo.mmdet_scope(), Waits() as counter:
        loss(data['inputs'], data['data_samples'])
    return counter.found


def added(model: Distiller, data: dict[str, Any]) -> Counter[str]:
    """What waits in a distilled step beyond those of the student's own."""
    distilled, plain = waits(model.loss, data), waits(model.student.loss, data)
    return distilled - plain


def test_a_retinanet_waits_no_more() -> None:
    model = zoo.distiller(student_model(), teacher_model(), DENSE)
    assert not added(model, zoo.batch(size=64, num_classes=NUM_CLASSES))


@pytest.mark.parametrize(
    'name',
    ['GFL', 'RTMDet', 'RepPoints', 'FCOS', 'FoveaBox', 'TOOD', 'PAA', 'YOLOX'],
)
def test_heads_whose_own_step_tells_the_number_of_positives_wait_no_more(name: str) -> None:
    model = zoo.distiller(*dense_runs.pair(name), losses=POSITIVES)
    assert not added(model, zoo.batch(num_images=2, boxes=(3, 0)))


@pytest.mark.parametrize('name', ['FSAF', 'FreeAnchor', 'CenterNet', 'CenterNet-update'])
def test_heads_whose_own_step_does_not_tell_it_wait_for_positives_only(name: str) -> None:
    model = zoo.distiller(*dense_runs.pair(name), losses=POSITIVES)
    assert added(model, zoo.batch(num_images=2, boxes=(3, 0))) == Counter(nonzero=1)


def test_a_faster_rcnn_waits_no_more() -> None:
    pair = zoo.pair('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    names = ('KD', 'CKD', 'DKD', 'DIST', 'AEKT')
    losses = {name.lower(): dict(type=f'mmkd.{name}Loss') for name in names} | POSITIVES
    losses |= dict(l1=dict(type='mmkd.BoxL1Loss'))
    assert not added(zoo.distiller(*pair, losses=losses), zoo.batch())


def test_a_classifier_waits_no_more() -> None:
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    config.model.head.num_classes = 5
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = Distiller(
            config.model,
            teacher=dict(config=config, checkpoint='random_init'),
            losses=CLASSIFIER,
            data_preprocessor=config.data_preprocessor,
        )
        model.init_weights()
    samples = [DataSample().set_gt_label(label) for label in range(4)]
    assert not added(model.train(), dict(inputs=torch.randn(4, 3, 32, 32), data_samples=samples))


def test_with_other_pixels_and_classes_and_several_teachers_it_waits_no_more() -> None:
    other = teacher_model(data_preprocessor__mean=[0.0, 0.0, 0.0])
    frozen = dict(config=dict(model=other, default_scope='mmdet'), checkpoint='random_init')
    peer = dict(type='mmkd.PeerTeacher', config=frozen['config'], losses=dict(ckd=CKD))
    teachers = dict(frozen=frozen, averaged=dict(type='mmkd.AveragedTeacher'), mate=peer)
    losses = {f'ckd_{name}': CKD | dict(teacher=name) for name in teachers}
    with zoo.mmdet_scope():
        model = Distiller(student_model(), teachers=teachers, losses=losses).train()
    data = zoo.batch(size=64, num_classes=NUM_CLASSES)
    distilled, plain = waits(model.loss, data), waits(model.student.loss, data)
    assert not distilled - plain - waits(model.teachers['mate'].model.loss, data)


def test_a_sampler_whose_number_of_samples_is_unknown_is_noticed() -> None:
    """How many of the teacher's samples are positive, too, follows from what the teacher outputs."""
    samples = dict(type='mmkd.PositivesAndTeacherTopK', k=8)
    losses = dict(ckd=dict(type='mmkd.CKDLoss', samples=samples))
    model = zoo.distiller(student_model(), teacher_model(), losses)
    found = added(model, zoo.batch(size=64, num_classes=NUM_CLASSES))
    assert found == Counter(nonzero=1)
