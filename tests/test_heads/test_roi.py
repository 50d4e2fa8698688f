"""RoI adapters on MMDetection's own two-stage detectors, one real training step each."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asks
import pytest
import torch
import zoo
from mmdet.models.layers import adaptive_avg_pool2d
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmkd.distillers import Distiller
from mmkd.heads import RoIHeadAdapter, roi_logits
from mmkd.heads.roi import RoITable, _log_odds
from mmkd.structures import ClassMap, Step

RCNN = dict(train_cfg__rcnn__sampler__num=32)
CASCADE = {f'train_cfg__rcnn__{stage}__sampler__num': 32 for stage in range(3)}
C4 = dict(
    backbone__base_channels=64,
    backbone__stem_channels=64,
    rpn_head__in_channels=256,
    rpn_head__feat_channels=32,
    roi_head__shared_head__depth=18,
    roi_head__bbox_roi_extractor__out_channels=256,
    roi_head__bbox_head__in_channels=512,
    train_cfg__rcnn__sampler__num=16,
)
SABL = dict(
    cls_in_channels=zoo.WIDTH,
    reg_in_channels=zoo.WIDTH,
    cls_out_channels=64,
    reg_offset_out_channels=zoo.WIDTH,
    reg_cls_out_channels=zoo.WIDTH,
)
DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    'faster': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', RCNN),
    'faster_ohem': ('faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py', RCNN),
    'faster_c4': ('faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py', C4),
    'mask': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', RCNN),
    'cascade': ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', CASCADE),
    'cascade_mask': ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', CASCADE),
    'htc': ('htc/htc_r50_fpn_1x_coco.py', CASCADE),
    'scnet': (
        'scnet/scnet_r50_fpn_1x_coco.py',
        CASCADE
        | dict(
            roi_head__feat_relay_head__in_channels=64,
            roi_head__feat_relay_head__out_conv_channels=zoo.WIDTH,
        ),
    ),
    'libra': ('libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py', RCNN),
    'double_head': (
        'double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
        RCNN | dict(roi_head__bbox_head__conv_out_channels=64),
    ),
    'dynamic': ('dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py', RCNN),
    'grid': (
        'grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py',
        RCNN | dict(roi_head__grid_head__num_convs=1, roi_head__grid_head__point_feat_channels=4),
    ),
    'sabl': (
        'sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py',
        RCNN | {f'roi_head__bbox_head__{key}': value for key, value in SABL.items()},
    ),
    'sabl_cascade': (
        'sabl/sabl-cascade-rcnn_r50_fpn_1x_coco.py',
        CASCADE
        | {
            f'roi_head__bbox_head__{stage}__{key}': value
            for stage in range(3)
            for key, value in SABL.items()
        },
    ),
    'mask_scoring': ('ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py', RCNN),
    'point_rend': ('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', RCNN),
    'groie': ('groie/faste-rcnn_r50_fpn_groie_1x_coco.py', RCNN),
    'guided_anchoring': ('guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco.py', RCNN),
    'cascade_rpn': ('cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py', RCNN),
    'pisa': ('pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py', RCNN),
}
STAGES = dict.fromkeys(('cascade', 'cascade_mask', 'htc', 'scnet', 'sabl_cascade'), 3)
ALL = dict(type='mmkd.CKDLoss')
AEKT = dict(type='mmkd.AEKTLoss', serial='task_then_distill')
every_detector = pytest.mark.parametrize('name', DETECTORS)


@dataclass
class Run:
    """One training step and what was seen of it past the taps."""

    model: Distiller
    data: Mapping[str, Any]
    losses: Mapping[str, Any]
    step: Step
    seen: list[dict[str, Tensor]]
    """Logits, labels and weights that each stage's own loss_cls got, and the RoIs its extractor got."""
    student_calls: list[int]
    """Forward passes of each stage's box head of the student."""
    plain_calls: list[int]
    """Likewise in the same step without a teacher."""
    teacher_rpn_calls: int
    gradients: Mapping[str, Mapping[str, Tensor]]
    """Of one loss alone, in the student's backbone and in each of its box heads."""

    @property
    def tables(self) -> list[RoITable]:
        return asks.tables(self.step)


def configs(name: str) -> tuple[Any, Any]:
    config, overrides = DETECTORS[name]
    common = dict(train_cfg__rpn_proposal__nms_pre=64, train_cfg__rpn_proposal__max_per_img=64)
    return zoo.pair(f'mmdet::{config}', **common, **overrides)


def full_batch() -> dict[str, Any]:
    """A batch with whatever the detector's losses need."""
    data = zoo.batch(masks=True)
    noise = torch.Generator().manual_seed(0)
    for sample in data['data_samples']:
        sample.gt_sem_seg = PixelData(
            sem_seg=torch.randint(183, (1, 128, 128), generator=noise, dtype=torch.uint8)
        )
    return data


def per_stage(modules: Any) -> list[nn.Module]:
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


@functools.cache
def run(name: str) -> Run:
    student, teacher = configs(name)
    if name == 'faster_c4':
        teacher.roi_head.shared_head.depth = 34
    if name == 'faster':  # the teacher's pyramid may be of another width
        teacher.neck.out_channels = teacher.rpn_head.in_channels = 48
        teacher.roi_head.bbox_roi_extractor.out_channels = 48
        teacher.roi_head.bbox_head.in_channels = 48
    model = zoo.distiller(student, teacher, losses=dict(ckd=ALL, aekt=AEKT))
    roi_head = model.student.roi_head
    heads, extractors = per_stage(roi_head.bbox_head), per_stage(roi_head.bbox_roi_extractor)
    seen: list[dict[str, Tensor]] = [{} for _ in heads]
    student_calls = [0] * len(heads)
    rpn_calls = [0]

    def watch(stage: int) -> None:
        def of_loss(module: nn.Module, args: tuple[Tensor, ...], options: dict[str, Any]) -> None:
            if options.get('reduction_override') is None and 'labels' not in seen[stage]:
                seen[stage].update(logits=args[0], labels=args[1], weights=args[2])

        def of_extractor(module: nn.Module, args: tuple[Any, Tensor]) -> None:
            if 'labels' not in seen[stage]:
                seen[stage]['rois'] = args[1]

        def of_head(module: nn.Module, args: Any, output: Any) -> None:
            student_calls[stage] += 1

        heads[stage].loss_cls.register_forward_pre_hook(of_loss, with_kwargs=True)
        extractors[stage].register_forward_pre_hook(of_extractor)
        heads[stage].register_forward_hook(of_head)

    for stage in range(len(heads)):
        watch(stage)

    def of_rpn(module: nn.Module, args: Any, output: Any) -> None:
        rpn_calls[0] += 1

    model.teacher.model.rpn_head.register_forward_hook(of_rpn)
    data = full_batch()
    steps = zoo.record_steps(model)
    torch.manual_seed(1)
    losses = zoo.one_step(model, data, of='loss_ckd')
    gradients = {'ckd': part_gradients(model)}
    distilled_calls = student_calls.copy()
    torch.manual_seed(1)
    with zoo.mmdet_scope():
        model.student(**copy.deepcopy(data), mode='loss')
    plain_calls = [
        after - before for after, before in zip(student_calls, distilled_calls, strict=True)
    ]
    zoo.one_step(model, data, of='loss_aekt')
    gradients['aekt'] = part_gradients(model)
    return Run(
        model=model,
        data=data,
        losses=losses,
        step=steps[0],
        seen=seen,
        student_calls=distilled_calls,
        plain_calls=plain_calls,
        teacher_rpn_calls=rpn_calls[0],
        gradients=gradients,
    )


def part_gradients(model: Distiller) -> dict[str, Tensor]:
    student = model.student
    heads = per_stage(student.roi_head.bbox_head)
    return {
        'backbone': zoo.gradient(student.backbone),
        **{f'box head {stage}': zoo.gradient(head) for stage, head in enumerate(heads)},
    }


@torch.no_grad()
def box_head_logits(teacher: nn.Module, inputs: Tensor, rois: Tensor, stage: int) -> Tensor:
    """Features, extractor, shared head, box head: written out, instead of the RoI head's own forward."""
    head = teacher.roi_head
    features = teacher.extract_feat(inputs)
    extractor = per_stage(head.bbox_roi_extractor)[stage]
    rows = extractor(features[: len(extractor.featmap_strides)], rois)
    if hasattr(head, 'semantic_head'):
        semantic = head.semantic_roi_extractor([head.semantic_head(features)[1]], rois)
        rows = rows + adaptive_avg_pool2d(semantic, rows.shape[-2:])
    if hasattr(head, 'glbctx_head'):
        rows = rows + head.glbctx_head(features)[1][rois[:, 0].long()]
    if head.with_shared_head:
        rows = head.shared_head(rows)
    box_head = per_stage(head.bbox_head)[stage]
    if type(box_head).__name__ == 'DoubleConvFCBBoxHead':
        return box_head(rows, rows)[0]  # its logits come from the first argument alone
    return box_head(rows)[0]


@every_detector
@pytest.mark.parametrize('method', ['ckd', 'aekt'])
def test_distillation_reaches_the_students_backbone_and_every_box_head(
    name: str, method: str
) -> None:
    result = run(name)
    assert isinstance(result.model._heads['teacher'], RoIHeadAdapter)
    values = [value for entry in result.losses.values() for value in _flat(entry)]
    assert all(torch.isfinite(value).all() for value in values)
    for part, gradient in result.gradients[method].items():
        assert torch.isfinite(gradient).all(), part
        assert gradient.abs().max() > 0, part
    assert all(parameter.grad is None for parameter in result.model.teacher.model.parameters())


@every_detector
def test_samples_are_those_of_the_students_own_loss_at_every_stage(name: str) -> None:
    result = run(name)
    assert len(result.tables) == len(result.seen) == STAGES.get(name, 1)
    for table, seen in zip(result.tables, result.seen, strict=True):
        every = torch.arange(len(table))
        assert torch.equal(table.student_logits(every), seen['logits'])
        assert torch.equal(table.labels, seen['labels'])
        assert torch.equal(table.weights, seen['weights'])
        assert torch.equal(table.boxes(every), seen['rois'][:, 1:])
        assert torch.equal(table.image_ids, seen['rois'][:, 0].long())


@every_detector
def test_foreground_has_its_objects_label_and_overlaps_it(name: str) -> None:
    result = run(name)
    truths = [sample.gt_instances for sample in result.data['data_samples']]
    for table in result.tables:
        foreground = table.is_foreground()
        assert torch.equal(foreground, table.object_ids >= 0)
        for image, truth in enumerate(truths):
            rows = (foreground & (table.image_ids == image)).nonzero().flatten()
            objects = table.object_ids[rows]
            assert len(rows)  # there are some, for ground truths are among the proposals
            assert torch.equal(table.labels[rows], truth.labels[objects])
            overlaps = bbox_overlaps(table.boxes(rows), truth.bboxes[objects], is_aligned=True)
            assert overlaps.min() >= 0.4  # Dynamic R-CNN starts at 0.4, the others at 0.5 and more


@every_detector
def test_the_teacher_scores_the_students_rois_in_its_own_way(name: str) -> None:
    result = run(name)
    for stage, table in enumerate(result.tables):
        teacher, inputs = result.model.teacher.model, result.data['inputs']
        expected = box_head_logits(teacher, inputs, table.rois, stage)
        every = torch.arange(len(table))
        torch.testing.assert_close(table.teacher_logits(every), expected, rtol=1e-4, atol=1e-5)
        assert not table.teacher_logits(every).requires_grad
        probability = expected.softmax(dim=1)[:, :80].amax(dim=1)
        torch.testing.assert_close(table.teacher_confidence(), probability, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def predicted_boxes(network: nn.Module, inputs: Tensor, rois: Tensor, stage: int) -> Tensor:
    """(S, classes * 4) or (S, 4) boxes by the box head's own prediction without NMS; clipped to x, y >= 0."""
    head = network.roi_head
    features = network.extract_feat(inputs)
    context = {}
    if hasattr(head, 'semantic_head'):
        context['semantic_feat'] = head.semantic_head(features)[1]
    if hasattr(head, 'glbctx_head'):
        context['glbctx_feat'] = head.glbctx_head(features)[1]
    stages = (stage,) if isinstance(head.bbox_head, nn.ModuleList) else ()
    results = head._bbox_forward(*stages, features, rois, **context)
    box_head = per_stage(head.bbox_head)[stage]
    return box_head._predict_by_feat_single(
        rois, results['cls_score'], results['bbox_pred'], dict(img_shape=(10**6, 10**6))
    ).bboxes


@pytest.mark.parametrize('name', ['faster', 'faster_c4', 'cascade', 'scnet', 'double_head', 'sabl'])
def test_boxes_are_those_of_each_heads_own_prediction(name: str) -> None:
    result = run(name)
    for stage, table in enumerate(result.tables):
        every = torch.arange(len(table))
        best = table.teacher_logits(every)[:, :80].argmax(dim=1)
        classes = torch.where(table.labels < 80, table.labels, best)
        for network, boxes in (
            (result.model.student, table.student_boxes(every).detach()),
            (result.model.teacher.model, table.teacher_boxes(every)),
        ):
            expected = predicted_boxes(network, result.data['inputs'], table.rois, stage)
            expected = expected.view(len(table), -1, 4)
            if expected.shape[1] > 1:
                other = expected[every, (classes + 1) % 80]
                expected = expected[every, classes]
                assert (expected - other).abs().mean() > 0.02  # more than what passes as equal
            torch.testing.assert_close(
                boxes.clamp(min=0), expected.reshape(-1, 4), rtol=1e-5, atol=1e-3
            )
        assert table.student_boxes(every).requires_grad


def test_the_teachers_box_of_a_class_is_that_of_its_own_number_of_the_class() -> None:
    result = run('faster')
    (table,) = result.tables
    inputs, samples = result.data['inputs'], result.data['data_samples']
    classes = ClassMap(tuple(reversed(range(80))), num_teacher=80)
    images = result.model.teacher.on(inputs, samples, classes)
    teacher = result.model._heads['teacher'].scores.on(images)
    wanted = torch.arange(len(table)) % 80
    code = teacher.outputs(table.rois, 0).code
    boxes = teacher.decode(table.rois, code, wanted, 0).clamp(min=0)
    expected = predicted_boxes(result.model.teacher.model, inputs, table.rois, 0)
    expected = expected.view(len(table), 80, 4)[torch.arange(len(table)), 79 - wanted]
    torch.testing.assert_close(boxes, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('name', ['faster', 'sabl', 'sabl_cascade'])
def test_losses_on_boxes_reach_the_backbone_and_every_box_head(name: str) -> None:
    losses = dict(giou=dict(type='mmkd.BoxGIoULoss'), l1=dict(type='mmkd.BoxL1Loss'))
    model = zoo.distiller(*configs(name), losses=losses)
    values = zoo.one_step(model, full_batch(), of=['loss_giou', 'loss_l1'])
    assert values['loss_giou'] > 0
    assert values['loss_l1'] > 0
    for part, gradient in part_gradients(model).items():
        assert gradient.isfinite().all(), part
        assert gradient.any(), part


@every_detector
def test_nothing_runs_twice_and_the_teachers_rpn_never(name: str) -> None:
    result = run(name)
    assert result.teacher_rpn_calls == 0
    assert result.student_calls == result.plain_calls
    if name not in ('faster_ohem', 'pisa'):  # whose samplers run the box head on candidates
        assert result.student_calls == [1] * STAGES.get(name, 1)


def test_a_later_stages_rois_are_refined_ones() -> None:
    first, second, third = (table.rois for table in run('cascade').tables)
    proposals = {tuple(roi) for roi in first.tolist()}
    truths = run('cascade').data['data_samples'][0].gt_instances.bboxes
    for rois in (second, third):
        known = [tuple(roi) in proposals for roi in rois.tolist()]
        assert sum(known) <= 2 * len(truths)  # only the ground truths come back unchanged


def test_only_the_rows_asked_for_are_scored() -> None:
    model = zoo.distiller(*configs('faster'))
    scored: list[int] = []
    model.teacher.model.roi_head.bbox_head.register_forward_hook(
        lambda module, args, output: scored.append(len(args[0]))
    )
    model.distill['ckd'].sampler = _Every(7)
    steps = zoo.record_steps(model)
    zoo.one_step(model, full_batch())
    table = asks.tables(steps[0])[0]
    assert scored == [len(range(0, len(table), 7))]
    index = torch.arange(0, len(table), 7)
    some = table.teacher_logits(index)
    table.teacher_confidence()
    known = len(scored)
    torch.testing.assert_close(table.teacher_logits(index), some, rtol=1e-4, atol=1e-5)
    assert len(scored) == known  # all are known by now


def test_images_without_objects_give_background_only() -> None:
    model = zoo.distiller(*configs('cascade'), losses=dict(ckd=ALL))
    steps = zoo.record_steps(model)
    losses = zoo.one_step(model, zoo.batch(boxes=(0,)), of='loss_ckd')
    assert torch.isfinite(losses['loss_ckd'])
    for table in asks.tables(steps[0]):
        assert (table.labels == 80).all()
        assert (table.object_ids == -1).all()
    positives = zoo.distiller(
        *configs('faster'), losses=dict(ckd=ALL | dict(samples=dict(type='mmkd.Positives')))
    )
    ran: list[Any] = []
    positives.teacher.model.backbone.register_forward_hook(lambda *seen: ran.append(seen))
    assert zoo.one_step(positives, zoo.batch(boxes=(0,)))['loss_ckd'] == 0
    assert not ran  # no sample, no teacher


def test_roi_logits_scores_any_boxes_with_the_mean_of_the_stages() -> None:
    rois = torch.tensor([[0, 10, 10, 60, 50], [1, 5, 30, 100, 120], [1, 0, 0, 20, 20]]).float()
    for name in ('htc', 'faster'):
        result = run(name)
        teacher = result.model.teacher.model
        calls: list[Any] = []
        hook = teacher.rpn_head.register_forward_hook(lambda *seen, to=calls: to.append(seen))
        features = teacher.extract_feat(result.data['inputs'])
        logits = roi_logits(teacher, features, rois)
        hook.remove()
        stages = [
            box_head_logits(teacher, result.data['inputs'], rois, stage)
            for stage in range(STAGES.get(name, 1))
        ]
        torch.testing.assert_close(logits, torch.stack(stages).mean(0), rtol=1e-4, atol=1e-5)
        assert not logits.requires_grad
        assert not calls


def test_a_sigmoid_head_has_a_logit_per_class_and_none_for_background() -> None:
    loss = dict(type='CrossEntropyCustomLoss', use_sigmoid=True, num_classes=80)
    pair = configs('faster')
    for model in pair:
        model.roi_head.bbox_head.loss_cls = loss
    model = zoo.distiller(*pair)
    assert (model._heads['teacher'].activation, model._heads['teacher'].num_logits) == (
        'sigmoid',
        80,
    )
    steps = zoo.record_steps(model)
    zoo.one_step(model, zoo.batch(), of='loss_ckd')
    table = asks.tables(steps[0])[0]
    every = torch.arange(len(table))
    assert table.activation == 'sigmoid'
    assert table.teacher_logits(every).shape == (len(table), 80)
    expected = table.teacher_logits(every).amax(dim=1).sigmoid()
    torch.testing.assert_close(table.teacher_confidence(), expected)
    assert zoo.gradient(model.student.backbone).abs().max() > 0


def test_softmax_head_counts_the_background() -> None:
    adapter = run('cascade').model._heads['teacher']
    assert (adapter.activation, adapter.num_logits) == ('softmax', 81)


def _set(key: str, value: Any, both: bool = False) -> Any:
    def change(student: Any, teacher: Any) -> None:
        for model in (student, teacher) if both else (teacher,):
            model.merge_from_dict({key: value})

    return change


SEESAW = dict(type='SeesawLoss', num_classes=80)
SIGMOID = dict(type='CrossEntropyCustomLoss', use_sigmoid=True, num_classes=80)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            _set('roi_head.bbox_head.num_classes', 20),
            'number of classes.* has 80.* 20.*same classes',
        ),
        (_set('roi_head.bbox_head.loss_cls', SIGMOID), 'activation: .*softmax.*sigmoid'),
        (
            _set('roi_head.bbox_head.loss_cls', SEESAW, both=True),
            "student's .* 82 logits for 80 classes .*SeesawLoss.*CrossEntropyLoss",
        ),
        (
            _set('roi_head.bbox_head.loss_cls.use_sigmoid', True, both=True),
            '81 logits for 80 classes',
        ),
    ],
)
def test_classifiers_that_do_not_match_are_an_error(change: Any, message: str) -> None:
    student, teacher = configs('faster')
    change(student, teacher)
    with pytest.raises(ValueError, match=f'(?s){message}'):
        zoo.distiller(student, teacher)


@pytest.mark.parametrize(('student', 'teacher'), [('faster', 'cascade'), ('cascade', 'faster')])
def test_a_teacher_with_other_stages_scores_every_stages_rois_with_their_mean(
    student: str, teacher: str
) -> None:
    model = zoo.distiller(configs(student)[0], configs(teacher)[1], losses=dict(ckd=ALL))
    steps = zoo.record_steps(model)
    data = full_batch()
    zoo.one_step(model, data, of='loss_ckd')
    tables = asks.tables(steps[0])
    assert len(tables) == STAGES.get(student, 1)
    for table in tables:
        stages = [
            box_head_logits(model.teacher.model, data['inputs'], table.rois, stage)
            for stage in range(STAGES.get(teacher, 1))
        ]
        rows = table.teacher_logits(torch.arange(len(table)))
        torch.testing.assert_close(rows, torch.stack(stages).mean(0), rtol=1e-4, atol=1e-5)
    assert zoo.gradient(model.student.backbone).abs().max() > 0


def test_a_softmax_teachers_scores_for_a_sigmoid_student_are_log_odds() -> None:
    student, teacher = configs('faster')
    student.roi_head.bbox_head.loss_cls = SIGMOID
    model = zoo.distiller(student, teacher, losses=dict(ckd=ALL))
    steps = zoo.record_steps(model)
    data = full_batch()
    losses = zoo.one_step(model, data, of='loss_ckd')
    (table,) = asks.tables(steps[0])
    rows = table.teacher_logits(torch.arange(len(table)))
    softmax = box_head_logits(model.teacher.model, data['inputs'], table.rois, 0).softmax(dim=1)
    torch.testing.assert_close(rows.sigmoid(), softmax[:, :80], rtol=1e-4, atol=1e-6)
    assert losses['loss_ckd'] > 0


def test_log_odds_are_exact_where_a_probability_rounds_to_one() -> None:
    logits = torch.tensor([[60.0, 1.0, -30.0, 2.0], [0.5, 0.5, 0.5, 0.5]])
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for row in range(2):
        for column in range(4):
            others = [z.exp() for at, z in enumerate(logits[row].double()) if at != column]
            expected[row, column] = logits[row, column].double() - sum(others).log()
    torch.testing.assert_close(_log_odds(logits), expected.float(), rtol=1e-6, atol=1e-6)
    assert _log_odds(logits.half()).dtype == torch.float32


@pytest.mark.parametrize('kind', ['MultiInstanceRoIHead', 'TridentRoIHead'])
def test_heads_that_cannot_work_say_why(kind: str) -> None:
    student, teacher = configs('faster')
    for model in (student, teacher):
        model.roi_head.type = kind
        if kind == 'TridentRoIHead':
            model.roi_head.update(num_branch=3, test_branch_idx=1)
    with pytest.raises(ValueError, match=f'{kind} cannot be distilled: '):
        zoo.distiller(student, teacher)


@pytest.mark.parametrize('strides', [[8, 16, 32, 64], [4, 8, 16, 32, 64, 128]])
def test_strides_that_do_not_fit_the_teachers_own_pyramid_are_an_error(strides: list[int]) -> None:
    student, teacher = configs('faster')
    teacher.roi_head.bbox_roi_extractor.featmap_strides = strides
    model = zoo.distiller(student, teacher, losses=dict(ckd=ALL))
    with pytest.raises(ValueError, match=r'featmap_strides .*set model\.teacher\.config'):
        zoo.one_step(model, zoo.batch())


@dataclass(frozen=True)
class _Every:
    """Picks every n-th sample."""

    n: int

    def __call__(self, table: RoITable) -> Tensor:
        return torch.arange(0, len(table), self.n)


def _flat(entry: Any) -> list[Tensor]:
    return [entry] if isinstance(entry, Tensor) else list(entry)
