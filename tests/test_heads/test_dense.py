from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import asks
import pytest
import torch
import zoo
from dense_runs import CASES, Run, pair, run, take_step
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from predicted_boxes import disturbed, predicted_boxes
from torch import Tensor

from mmkd.heads import build_head_adapter
from mmkd.heads.base import adapter_class
from mmkd.heads.dense import gather_rows, logits_of, nearest_object
from mmkd.losses import AllSamples, Positives


@pytest.fixture(scope='module', params=CASES, autouse=False)
def stepped(request: pytest.FixtureRequest) -> Iterator[Run]:
    yield run(request.param)
    run.cache_clear()


@pytest.fixture(autouse=True, scope='module')
def _keep_message_hub() -> Iterator[None]:
    yield
    MessageHub.get_current_instance().runtime_info.pop('epoch', None)


def fold(maps: Tensor, channels: int) -> Tensor:
    """As MMDetection's heads fold their class maps before their own loss."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, channels)


def direct_rows(head: torch.nn.Module, features: tuple[Tensor, ...], channels: int) -> Tensor:
    """(N, C) logits of a head that is simply called."""
    maps = head(features)[0]
    rows = torch.cat([fold(level, channels) for level in maps], dim=1).flatten(0, 1)
    return rows.logit() if type(head).__name__ in ('TOODHead', 'CenterNetHead') else rows


def assert_same_rows(rows: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, measured by how much rows differ among each other: random heads say nearly the same."""
    spread = expected.std(dim=0).mean()
    assert spread > 0
    assert (rows - expected).abs().max() < 0.01 * spread


def everything(stepped: Run) -> Tensor:
    return torch.arange(len(stepped.table))


# What holds for every dense head


def test_head_is_served_by_its_familys_adapter(stepped: Run, request):
    name = request.node.callspec.params['stepped']
    assert type(stepped.model._heads['teacher']).__name__ == CASES[name].adapter


def test_losses_are_finite_and_each_of_distillation_alone_reaches_the_backbone(stepped: Run):
    for name, value in stepped.losses.items():
        assert torch.isfinite(torch.as_tensor(value)).all(), name
    assert stepped.losses['loss_ckd'] > 0
    for name, gradient in stepped.gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


def test_objects_are_found_and_have_their_samples_label(stepped: Run):
    table = stepped.table
    foreground = table.is_foreground()
    assert ((table.object_ids >= 0) == foreground).all()
    assert table.image_ids[foreground].unique().tolist() == [0, 2]  # image 1 has no object
    for image, sample in enumerate(stepped.data['data_samples']):
        of_image = foreground & (table.image_ids == image)
        labels = sample.gt_instances.labels[table.object_ids[of_image]]
        assert labels.tolist() == table.labels[of_image].tolist()
    background = ~foreground
    assert (table.labels[background] == table.num_classes).all()


def test_student_rows_are_those_of_the_head_called_again(stepped: Run):
    student = stepped.model.student
    with torch.no_grad():
        features = student.extract_feat(stepped.step.inputs)
        expected = direct_rows(student.bbox_head, features, stepped.table.channels)
    rows = stepped.table.student_logits(everything(stepped))
    assert_same_rows(rows.detach(), expected)
    assert rows.requires_grad


def test_teacher_rows_are_those_of_the_teacher_called_directly(stepped: Run):
    teacher = stepped.model.teacher.model
    with torch.no_grad():
        features = teacher.extract_feat(stepped.step.inputs)
        expected = direct_rows(teacher.bbox_head, features, stepped.table.channels)
    rows = stepped.table.teacher_logits(everything(stepped))
    assert_same_rows(rows, expected)
    assert not rows.requires_grad


def test_a_sample_knows_its_level_row_and_column(stepped: Run):
    table = stepped.table
    maps = [level[0, 0] for level in table.student.class_maps]
    expected = [
        (level, row, column)
        for level, cells in enumerate(maps)
        for row in range(cells.shape[0])
        for column in range(cells.shape[1])
        for _ in range(table.student.class_maps[level].shape[1] // table.channels)
    ]
    index = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:50]
    cells = table.cells(index)
    assert cells.tolist() == [list(expected[i % len(expected)]) for i in index.tolist()]
    (pairs,) = asks.logit_pairs(stepped.step, AllSamples())
    assert torch.equal(pairs.cells, table.cells(everything(stepped)))


def test_rows_of_some_samples_are_rows_of_all(stepped: Run):
    index = torch.randperm(len(stepped.table), generator=torch.Generator().manual_seed(0))[:200]
    for rows in (stepped.table.student_logits, stepped.table.teacher_logits):
        assert torch.equal(rows(index), rows(everything(stepped))[index])


def test_teacher_is_confident_as_its_probabilities_say(stepped: Run):
    table = stepped.table
    rows = table.teacher_logits(everything(stepped))
    scores = rows.softmax(dim=1)[:, :80] if table.activation == 'softmax' else rows.sigmoid()
    expected = scores.amax(dim=1)
    if table.teacher.objectness is not None:
        objectness = [fold(level, 1) for level in table.teacher.objectness]
        expected = expected * torch.cat(objectness, dim=1).flatten().sigmoid()
    torch.testing.assert_close(table.teacher_confidence(), expected)


def test_boxes_are_those_of_each_heads_own_prediction(stepped: Run):
    table = stepped.table
    for role, network, boxes in (
        ('student', stepped.model.student, table.student_boxes(everything(stepped))),
        ('teacher', stepped.model.teacher.model, table.teacher_boxes(everything(stepped))),
    ):
        with torch.no_grad():
            expected = predicted_boxes(network.bbox_head, network.extract_feat(stepped.step.inputs))
        torch.testing.assert_close(boxes.clamp(min=0).detach(), expected, rtol=1e-4, atol=1e-2)
        assert boxes.requires_grad == (role == 'student')


def test_boxes_follow_what_the_student_predicts_in_training(stepped: Run):
    table, student = stepped.table, stepped.model.student
    before = table.student_boxes(everything(stepped)).detach()
    with torch.no_grad(), disturbed(student.bbox_head):
        features = student.extract_feat(stepped.step.inputs)
        outputs = type(stepped.model._heads['teacher']).run(student.bbox_head, features)
        boxes = replace(table, student=outputs).student_boxes(everything(stepped))
        expected = predicted_boxes(student.bbox_head, features)
    moved = (boxes.clamp(min=0) - before.clamp(min=0)).abs().mean()
    assert moved > 0.1  # pixels
    torch.testing.assert_close(boxes.clamp(min=0), expected, rtol=1e-4, atol=1e-2)


def test_boxes_of_positives_have_a_gradient_in_their_own_cells_only(stepped: Run):
    table = stepped.table
    positives = table.is_foreground().nonzero().flatten()
    (pairs,) = asks.box_pairs(stepped.step, Positives())
    maps = [level for part in table.student.box_maps for level in part]
    picks = torch.randn(pairs.student.shape, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(
        (pairs.student * picks).sum(), maps, retain_graph=True, allow_unused=True
    )
    cells = set()
    for number, gradient in enumerate(gradients):
        if (
            gradient is not None
        ):  # else the boxes don't depend on this part (SABL's scores of buckets)
            assert torch.isfinite(gradient).all()
            touched = gradient.abs().sum(dim=1).flatten(1).nonzero().tolist()
            level = number % len(table.student.class_maps)
            cells |= {(image, level, cell) for image, cell in touched}
    assert 0 < len(cells) <= len(positives)
    assert {image for image, _, _ in cells} <= {0, 2}  # image 1 has no object
    assert pairs.image_sizes.tolist() == [[table_size(stepped)] * 2] * len(positives)
    confidence = table.teacher_confidence()[positives]
    torch.testing.assert_close(pairs.teacher_confidence, confidence)


def table_size(stepped: Run) -> float:
    return float(stepped.step.inputs.shape[-1])


def test_students_confidence_is_that_of_its_own_scores(stepped: Run):
    table = stepped.table
    rows = table.student_logits(everything(stepped)).detach()
    scores = rows.softmax(dim=1)[:, :80] if table.activation == 'softmax' else rows.sigmoid()
    expected = scores.amax(dim=1)
    if table.student.objectness is not None:
        objectness = [fold(level.detach(), 1) for level in table.student.objectness]
        expected = expected * torch.cat(objectness, dim=1).flatten().sigmoid()
    confidence = table.student_confidence(everything(stepped))
    torch.testing.assert_close(confidence, expected)
    assert not confidence.requires_grad


def test_batch_without_objects_distils_the_teachers_samples(stepped: Run, request):
    name = request.node.callspec.params['stepped']
    data = zoo.batch(num_images=2, size=CASES[name].size, boxes=(0,))
    empty = take_step(stepped.model, data)
    assert not empty.table.is_foreground().any()
    assert (empty.table.object_ids == -1).all()
    assert torch.isfinite(empty.losses['loss_ckd'])
    assert empty.losses['loss_box_l1'] == 0
    assert empty.gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ('name', 'needed'),
    [
        ('RetinaNet', False),
        ('FCOS+', False),
        ('RTMDet', False),
        ('RepPoints', True),
        ('VFNet', True),
    ],
)
@pytest.mark.parametrize('asked', [False, True])
def test_box_tower_of_the_teacher_runs_only_if_something_needs_it(name, needed, asked):
    losses = dict(qfl_kd=dict(type='mmkd.QFLKDLoss'))
    if asked:
        losses['box_l1'] = dict(type='mmkd.BoxL1Loss')
    model = zoo.distiller(*pair(name), losses=losses)
    head = model.teacher.model.bbox_head
    ran = []
    for module in head.reg_convs.modules():
        module.register_forward_hook(lambda *_: ran.append(1))
    steps = zoo.record_steps(model)
    zoo.one_step(model, zoo.batch())
    assert bool(ran) == (needed or asked)

    (table,) = asks.tables(steps[-1])
    features = steps[-1].teachers['teacher'].features
    with torch.no_grad():
        expected = head(features)[0]
    assert all(map(torch.equal, table.teacher.class_maps, expected))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_box_tower_of_a_half_precision_teacher_is_left_out(dtype):
    student, teacher = pair('FCOS+')
    losses = dict(qfl_kd=dict(type='mmkd.QFLKDLoss'))
    model = zoo.distiller(student, teacher, losses, teacher_options=dict(dtype=dtype))
    assert not model._heads['teacher'].teacher_boxes


# What student and teacher have to agree on


def build(student: str, teacher: str | None = None, **teacher_options: object):
    ours, theirs = pair(student)
    if teacher is not None:
        _, theirs = pair(teacher)
    theirs.merge_from_dict(
        {key.replace('__', '.'): value for key, value in teacher_options.items()}
    )
    losses = dict(ckd=zoo.CKD, box_l1=dict(type='mmkd.BoxL1Loss'))
    return zoo.distiller(ours, theirs, losses)


SOFTMAX = dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(bbox_head__num_classes=20), r'number of classes: .* has 80, .* 20: take a teacher'),
        (dict(bbox_head__anchor_generator__strides=[4, 8, 16, 32, 64]), r'strides: .*same strides'),
        (dict(bbox_head__anchor_generator__ratios=[1.0]), r'anchors per location: .*generator'),
        (dict(bbox_head__anchor_generator__octave_base_scale=2), r'anchors of level 0 differ'),
        (dict(bbox_head__loss_cls=SOFTMAX), r'activation: .*sigmoid.*softmax.*loss_cls'),
    ],
)
def test_heads_that_differ_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build('RetinaNet', **options)


def test_teacher_of_another_dense_family_needs_as_many_priors():
    with pytest.raises(ValueError, match=r'anchors per location: .*RetinaHead.*FCOSHead'):
        build('RetinaNet', 'FCOS')


@pytest.mark.parametrize(
    ('student', 'teacher'), [('FCOS', 'GFL'), ('ATSS', 'TOOD'), ('RTMDet', 'YOLOX')]
)
def test_teacher_of_another_dense_family_is_read_as_its_own(student, teacher):
    model = build(student, teacher)
    stepped = take_step(model, zoo.batch(boxes=(3, 2)))
    with torch.no_grad():
        features = model.teacher.features(stepped.step.inputs, stepped.step.data_samples)
        expected = direct_rows(model.teacher.model.bbox_head, features, stepped.table.channels)
    rows = stepped.table.teacher_logits(everything(stepped))
    assert_same_rows(rows, expected)
    assert (stepped.table.teacher.objectness is not None) == (teacher == 'YOLOX')
    assert stepped.gradient.abs().sum() > 0


@pytest.mark.parametrize('name', ['RetinaNet', 'YOLOX'])
def test_teacher_that_pads_more_is_read_at_the_students_cells(name):
    model = build(name, data_preprocessor__pad_size_divisor=256)
    stepped = take_step(model, zoo.batch())
    table = stepped.table
    with torch.no_grad():
        features = model.teacher.features(stepped.step.inputs, stepped.step.data_samples)
        whole = model.teacher.model.bbox_head(features)[0]
    cells = [level.shape[-2:] for level in table.student.class_maps]
    assert [2 * height for height, _ in cells[:3]] == [level.shape[-2] for level in whole[:3]]
    rows = [
        fold(level[..., :height, :width], table.channels)
        for level, (height, width) in zip(whole, cells, strict=True)
    ]
    assert_same_rows(
        table.teacher_logits(everything(stepped)), torch.cat(rows, dim=1).flatten(0, 1)
    )
    assert table.teacher_boxes(everything(stepped)).shape == (len(table), 4)


def test_teacher_of_unknown_strides_that_pads_more_is_refused():
    model = build('CenterNet', data_preprocessor__pad_size_divisor=256)
    with pytest.raises(ValueError, match=r'class maps of the levels: .*pad_size_divisor'):
        take_step(model, zoo.batch())


# Heads of the user's own


def test_derived_head_falls_back_on_its_family():
    student, _ = pair('RetinaNet')
    with zoo.mmdet_scope():
        head = MODELS.build(student.bbox_head)
    derived = type('MyRetinaHead', (RetinaHead,), {})
    head.__class__ = derived
    assert adapter_class(head).__name__ == 'AnchorHeadAdapter'


def test_predicted_anchors_are_refused():
    student, teacher = zoo.pair('mmdet::guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py')
    with pytest.raises(ValueError, match=r'GARetinaHead has no prior_generator: .*predicts'):
        zoo.distiller(student, teacher)


def test_head_of_no_known_family_is_named():
    class Detector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bbox_head = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match=r'no head adapter serves Linear.*tables\(\).*register'):
        build_head_adapter(Detector(), Detector())


def test_derived_head_that_assigns_otherwise_is_told_so():
    model = build('RetinaNet')
    stepped = take_step(model, zoo.batch())
    records = stepped.step.records['targets']
    labels, weights, *others = records[0]
    records[0] = (labels[:-10], weights[:-10], *others)
    with pytest.raises(
        RuntimeError, match=r'RetinaHead assigned targets to .*register_head_adapter'
    ):
        model._heads['teacher'].tables(stepped.step)


# Helpers


def test_gather_rows_takes_levels_with_other_numbers_of_priors():
    maps = [torch.randn(2, 3 * 5, 4, 6), torch.randn(2, 2 * 5, 2, 3)]
    expected = torch.cat([fold(level, 5) for level in maps], dim=1).flatten(0, 1)
    index = torch.randint(len(expected), (50,))
    assert torch.equal(gather_rows(maps, index, 5), expected[index])


def test_logits_of_invert_the_sigmoid_and_are_finite_at_the_ends():
    logits = torch.linspace(-60, 12, 50, dtype=torch.float64)
    torch.testing.assert_close(logits_of(logits.sigmoid()), logits)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        ends = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
        values = logits_of(ends)
        values.sum().backward()
        assert torch.isfinite(values).all()
        assert torch.isfinite(ends.grad).all()
        assert values[0] < -80
        assert values[1] > 15
        assert values.dtype == max(dtype, torch.float32, key=lambda kind: torch.finfo(kind).bits)


def test_nearest_object_takes_only_allowed_ones():
    candidates = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [1.1, 1.1]]]).expand(2, -1, -1)
    targets = torch.ones(2, 2)
    allowed = torch.tensor([[True, True, True], [True, False, True]])
    assert nearest_object(targets, candidates, allowed).tolist() == [1, 2]
    assert nearest_object(targets[:0], candidates[:0, :0], allowed[:0, :0]).tolist() == []
