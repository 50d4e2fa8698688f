from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torchvision.ops import box_iou

from mmkd.functional import ckd_loss, unit_rows
from mmkd.functional.ckd import info_nce

FORMS = {
    'teacher_student': {'negatives': 'teacher_student'},
    'student_student': {'negatives': 'student_student'},
    'symmetric': {'negatives': 'teacher_student', 'symmetric': True},
}
GROUPS = {
    'no groups': None,
    'groups': torch.tensor([2, -1, 2, 0, -1, 5, 0, 2, 7]),
    'one group': torch.full((9,), 3),
}
forms = pytest.mark.parametrize('form', FORMS.values(), ids=FORMS.keys())
groupings = pytest.mark.parametrize('groups', GROUPS.values(), ids=GROUPS.keys())
# Of 9 samples with 5 classes: all rows at once, 5, 7 and all.
chunk_sizes = pytest.mark.parametrize('chunk_size', [None, 1, 8, 100])


def random_logits(samples: int = 9, classes: int = 5, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, samples, classes, generator=generator, dtype=dtype)
    return student.requires_grad_(), teacher


def loss_and_gradient(student, teacher, **options):
    student = student.detach().requires_grad_()
    loss = ckd_loss(student, teacher, **options)
    loss.backward()
    return loss.detach(), student.grad


def loop_loss(student, teacher, temperature, negatives, symmetric=False, groups=None) -> float:
    """InfoNCE as in CKD's code and paper (arXiv 2404.14109), one pair of samples at a time, in Python floats."""

    def unit(row):
        return [z / math.sqrt(sum(x * x for x in row)) for z in row]

    def similarity(a, b):
        return math.exp(sum(x * y for x, y in zip(a, b, strict=True)) / temperature)

    s = [unit(row) for row in student.tolist()]
    t = [unit(row) for row in teacher.tolist()]
    group_of = [-1] * len(s) if groups is None else groups.tolist()
    if negatives == 'student_student':
        directions = [(s, t, s)]
    elif symmetric:
        directions = [(t, s, s), (s, t, t)]
    else:
        directions = [(t, s, s)]
    total = 0.0
    for anchors, positives, candidates in directions:
        for i in range(len(s)):
            numerator = similarity(anchors[i], positives[i])
            denominator = numerator
            for j in range(len(s)):
                same_object = group_of[i] >= 0 and group_of[i] == group_of[j]
                if i != j and not same_object:
                    denominator += similarity(anchors[i], candidates[j])
            total -= math.log(numerator / denominator)
    return total / len(s)


@forms
@groupings
@chunk_sizes
@pytest.mark.parametrize('temperature', [1.0, 0.1, 4.0])
def test_value_is_that_of_a_plain_loop(form, groups, chunk_size, temperature):
    student, teacher = random_logits()
    loss = ckd_loss(student, teacher, temperature, groups=groups, chunk_size=chunk_size, **form)
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    expected = loop_loss(student, teacher, temperature, groups=groups, **form)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)


@forms
@groupings
@chunk_sizes
def test_gradcheck(form, groups, chunk_size):
    student, teacher = random_logits()

    def loss(student):
        return ckd_loss(student, teacher, 0.5, groups=groups, chunk_size=chunk_size, **form)

    assert torch.autograd.gradcheck(loss, student)


@forms
@pytest.mark.parametrize('grouped', [False, True])
@pytest.mark.parametrize('chunk_size', [1, 35, 40, 50])
def test_every_chunk_size_gives_the_same_in_float32(form, grouped, chunk_size):
    student, teacher = random_logits(50, 20, torch.float32)
    groups = torch.randint(-1, 6, (50,), generator=torch.Generator().manual_seed(1))
    options = {'groups': groups if grouped else None, 'temperature': 0.2, **form}
    loss, gradient = loss_and_gradient(student, teacher, **options)
    chunked_loss, chunked_gradient = loss_and_gradient(
        student, teacher, chunk_size=chunk_size, **options
    )
    torch.testing.assert_close(chunked_loss, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-5, atol=1e-8)


@forms
@pytest.mark.parametrize('chunk_size', [None, 10])
def test_bounds_at_temperature_1(form, chunk_size):
    samples = 64
    lowest = math.log(1 + (samples - 1) * math.exp(-2))
    highest = math.log(1 + (samples - 1) * math.exp(2))
    assert (round(lowest, 2), round(highest, 2)) == (2.25, 6.15)
    directions = 2 if form.get('symmetric') else 1
    for seed in range(5):
        student, teacher = random_logits(samples, 10, seed=seed)
        for student_rows in (student, teacher, -teacher):
            loss = ckd_loss(student_rows, teacher, chunk_size=chunk_size, **form).item()
            assert directions * lowest < loss < directions * highest


def test_the_bounds_are_reached():
    positive = unit_rows(torch.ones(1, 4, dtype=torch.float64))
    # All negatives oppose the positive: the anchor can lie along it or along them.
    candidates = torch.cat([positive, -positive.expand(63, 4)])
    lowest = info_nce(positive, positive, candidates, torch.tensor([0]))
    highest = info_nce(-positive, positive, candidates, torch.tensor([0]))
    assert lowest.item() == pytest.approx(math.log(1 + 63 * math.exp(-2)), rel=1e-12)
    assert highest.item() == pytest.approx(math.log(1 + 63 * math.exp(2)), rel=1e-12)


@forms
def test_equal_logits_do_not_give_zero(form):
    _, teacher = random_logits(64, 10)
    assert ckd_loss(teacher, teacher, **form) > 1


@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
def test_rescaling_rows_changes_nothing(form, chunk_size):
    student, teacher = random_logits()
    options = {'chunk_size': chunk_size, **form}
    scales = torch.logspace(-3, 3, 9, dtype=torch.float64)[:, None]
    loss, gradient = loss_and_gradient(student, teacher, **options)
    of_scaled_student = loss_and_gradient(student * scales, teacher, **options)
    of_scaled_teacher = loss_and_gradient(student, teacher * scales, **options)
    torch.testing.assert_close(of_scaled_teacher, (loss, gradient))
    torch.testing.assert_close(of_scaled_student, (loss, gradient / scales))


@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
def test_the_order_of_the_samples_changes_nothing(form, chunk_size):
    student, teacher = random_logits()
    groups = GROUPS['groups']
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    options = {'chunk_size': chunk_size, **form}
    loss, gradient = loss_and_gradient(student, teacher, groups=groups, **options)
    permuted = loss_and_gradient(student[order], teacher[order], groups=groups[order], **options)
    torch.testing.assert_close(permuted, (loss, gradient[order]))


@pytest.mark.parametrize('chunk_size', [None, 5])
def test_analytic_gradient(chunk_size):
    """Property 3: the gradient with respect to the student's unit rows is (P - I)^T t / (S tau)."""
    temperature = 0.7
    student, teacher = random_logits()
    student = unit_rows(student).detach()
    teacher = unit_rows(teacher)
    probabilities = (teacher @ student.T / temperature).softmax(dim=1)
    expected = (probabilities - torch.eye(9)).T @ teacher / (9 * temperature)

    # Without unit_rows between: the derivative is with respect to the unit rows themselves.
    student.requires_grad_()
    total = info_nce(teacher, student, student, torch.arange(9), temperature, chunk_size=chunk_size)
    (total / 9).backward()
    torch.testing.assert_close(student.grad, expected)

    # Through unit_rows, unit rows keep the part of it that is orthogonal to them.
    _, gradient = loss_and_gradient(
        student, teacher, temperature=temperature, chunk_size=chunk_size
    )
    along = (expected * student).sum(dim=1, keepdim=True) * student
    torch.testing.assert_close(gradient, expected - along.detach())


@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
@pytest.mark.parametrize('groups', [None, torch.zeros(0, dtype=torch.int64)])
def test_no_samples_give_a_zero_on_the_graph(form, chunk_size, groups):
    student = torch.zeros(0, 5, requires_grad=True)
    loss = ckd_loss(student, torch.zeros(0, 5), chunk_size=chunk_size, groups=groups, **form)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.shape == (0, 5)


@forms
@pytest.mark.parametrize('chunk_size', [None, 1, 5])
def test_one_sample_gives_exactly_zero(form, chunk_size):
    student, teacher = random_logits(1, 5, torch.float32)
    loss, gradient = loss_and_gradient(
        student, teacher, temperature=0.07, chunk_size=chunk_size, **form
    )
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros(1, 5))


@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
def test_one_group_gives_exactly_zero(form, chunk_size):
    student, teacher = random_logits(dtype=torch.float32)
    loss, gradient = loss_and_gradient(
        student, teacher, chunk_size=chunk_size, groups=GROUPS['one group'], **form
    )
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros(9, 5))


@pytest.mark.parametrize('dtype', [torch.int8, torch.uint8, torch.int32])
def test_groups_of_any_integer_type(dtype):
    student, teacher = random_logits()
    groups = torch.tensor([1, 1, 0, 2, 3, 4, 5, 6, 0])
    expected = ckd_loss(student, teacher, groups=groups)
    assert ckd_loss(student, teacher, groups=groups.to(dtype)) == expected


@pytest.mark.filterwarnings('ignore:Anomaly Detection has been enabled')
@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
def test_zero_rows(form, chunk_size):
    student, teacher = random_logits(dtype=torch.float32)
    student = student.detach()
    student[2] = 0
    student[3] = 0
    teacher[3] = 0
    teacher[4] = 0
    with torch.autograd.detect_anomaly(check_nan=True):
        loss, gradient = loss_and_gradient(student, teacher, chunk_size=chunk_size, **form)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert torch.equal(gradient[2:4], torch.zeros(2, 5))
    assert gradient.abs().max() < 10


@pytest.mark.parametrize('chunk_size', [None, 5])
@pytest.mark.parametrize('at_fault', ['student', 'teacher'])
def test_nan_is_not_hidden(chunk_size, at_fault):
    student, teacher = random_logits()
    {'student': student.data, 'teacher': teacher}[at_fault][2, 1] = math.nan
    assert ckd_loss(student, teacher, chunk_size=chunk_size).isnan()


@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('temperature', [1.0, 0.05])
def test_half_precision_is_computed_in_float32(form, chunk_size, dtype, temperature):
    student, teacher = random_logits(16, 81, torch.float32)
    student = (100 * student.detach().clamp(-1, 1)).to(dtype)
    teacher = (100 * teacher.clamp(-1, 1)).to(dtype)
    options = {'temperature': temperature, 'chunk_size': chunk_size, **form}
    loss, gradient = loss_and_gradient(student, teacher, **options)
    expected_loss, expected_gradient = loss_and_gradient(
        student.float(), teacher.float(), **options
    )
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert loss == expected_loss
    assert torch.equal(gradient, expected_gradient.to(dtype))


def test_student_and_teacher_may_have_different_dtypes():
    student, teacher = random_logits(dtype=torch.float32)
    loss, gradient = loss_and_gradient(student, teacher.half())
    assert gradient.dtype == torch.float32
    assert loss == ckd_loss(student, teacher.half().float())


@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
def test_autocast_changes_nothing(form, chunk_size):
    student, teacher = random_logits(dtype=torch.float32)
    expected = loss_and_gradient(student, teacher, chunk_size=chunk_size, **form)
    student = student.detach().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = ckd_loss(student, teacher, chunk_size=chunk_size, **form)
        loss.backward()
    assert torch.equal(loss, expected[0])
    assert torch.equal(student.grad, expected[1])


@forms
@pytest.mark.parametrize('chunk_size', [None, 5])
def test_the_teacher_gets_no_gradient(form, chunk_size):
    student, teacher = random_logits()
    teacher.requires_grad_()
    ckd_loss(student, teacher, chunk_size=chunk_size, **form).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_gradient_descent_matches_the_samples():
    student, teacher = random_logits(32, 10)
    optimizer = torch.optim.SGD([student], lr=30.0)
    for _ in range(200):
        optimizer.zero_grad()
        ckd_loss(student, teacher, temperature=0.2, chunk_size=16).backward()
        optimizer.step()
    similarity = unit_rows(teacher) @ unit_rows(student).T
    assert torch.equal(similarity.argmax(dim=1), torch.arange(32))


@pytest.mark.parametrize('chunk_size', [None, 2])
@pytest.mark.parametrize('groups', [None, GROUPS['groups']], ids=['no groups', 'groups'])
def test_parts_of_a_batch_against_all_candidates_give_the_whole_batch(chunk_size, groups):
    """What a process of several computes: its own anchors, everybody's candidates."""
    student, teacher = random_logits()
    expected = loss_and_gradient(student, teacher, groups=groups)
    same = None if groups is None else (groups[:, None] == groups) & (groups >= 0)
    student = student.detach().requires_grad_()
    loss = torch.zeros(())
    for part in (slice(0, 2), slice(2, 2), slice(2, 9)):
        total = info_nce(
            unit_rows(teacher[part]),
            unit_rows(student[part]),
            unit_rows(student),
            torch.arange(9)[part],
            same=[] if groups is None else [lambda rows, part=part: same[part][rows]],
            chunk_size=chunk_size,
        )
        loss = loss + total / 9
    loss.backward()
    torch.testing.assert_close((loss.detach(), student.grad), expected)


@pytest.mark.parametrize('chunk_size', [None, 5])
def test_candidates_and_anchors_both_learn(chunk_size):
    student, teacher = random_logits()
    inputs = (unit_rows(student).detach(), unit_rows(teacher), unit_rows(student + 1).detach())

    def total(anchors, positives, candidates):
        return info_nce(
            anchors[:3], positives[:3], candidates, torch.tensor([4, 0, 8]), chunk_size=chunk_size
        )

    assert torch.autograd.gradcheck(total, [rows.requires_grad_() for rows in inputs])


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return result


@forms
@pytest.mark.parametrize('grouped', [False, True])
def test_chunks_never_hold_the_whole_matrix(form, grouped):
    samples = 512
    student, teacher = random_logits(samples, 8, torch.float32)
    options = {}
    if grouped:
        options = {
            'groups': torch.arange(samples) % 50,
            'boxes': torch.rand(samples, 4),
            'mask_iou': 0.5,
        }
    with LargestTensor() as chunked:
        ckd_loss(student, teacher, chunk_size=64, **options, **form).backward()
    with LargestTensor() as plain:
        ckd_loss(student, teacher, **options, **form).backward()
    assert chunked.numel < samples * samples / 4
    # The instrument sees what it is there to see.
    assert plain.numel == samples * samples


@forms
@groupings
@pytest.mark.parametrize('boxed', [False, True])
@pytest.mark.parametrize('chunk_size', [None, 5])
def test_gradient_is_that_of_the_plain_formula(form, groups, boxed, chunk_size):
    """Its value is tested above; this gradient is PyTorch's own, not the one made with the value."""

    def plain_loss(student, teacher, negatives, symmetric=False):
        s, t = unit_rows(student) / 0.3, unit_rows(teacher)
        own = torch.eye(9, dtype=torch.bool)
        same = own if groups is None else own | ((groups[:, None] == groups) & (groups >= 0))
        if boxed:
            overlap = (box_iou(boxes, boxes) > 0.3) & (images[:, None] == images)
            assert not (overlap <= own).all()
            assert not (overlap == (box_iou(boxes, boxes) > 0.3)).all()
            same = same | overlap
        positives = (t * s).sum(1)
        tables = [s @ unit_rows(student).T if negatives == 'student_student' else t @ s.T]
        if symmetric:
            tables.append(s @ t.T)
        total = 0.0
        for table in tables:
            table = torch.where(own, positives, table.masked_fill(same, -math.inf))
            total = total + (table.logsumexp(1) - positives).mean()
        return total

    student, teacher = random_logits()
    images = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0])
    corners = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([corners, corners + 1], dim=1)
    boxes[0, 2:] = boxes[0, :2] - 1  # turned around, and so without area
    expected = plain_loss(student, teacher, **form)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    options = {'boxes': boxes, 'images': images, 'mask_iou': 0.3} if boxed else {}
    found = loss_and_gradient(
        student, teacher, temperature=0.3, groups=groups, chunk_size=chunk_size, **form, **options
    )
    torch.testing.assert_close(
        found, (expected.detach(), expected_gradient), rtol=1e-10, atol=1e-12
    )


@chunk_sizes
def test_a_second_derivative_is_refused(chunk_size):
    student, teacher = random_logits()
    loss = ckd_loss(student, teacher, chunk_size=chunk_size)
    with pytest.raises(RuntimeError, match='create_graph'):
        torch.autograd.grad(loss, student, create_graph=True)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_nothing_is_made_for_a_gradient_that_nobody_asks_for():
    student, teacher = random_logits()
    expected = ckd_loss(student, teacher)
    with torch.no_grad():
        assert torch.equal(ckd_loss(student, teacher), expected)
    loss = ckd_loss(student.detach(), teacher)
    assert torch.equal(loss, expected)
    assert not loss.requires_grad


MATRIX = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        ((MATRIX, MATRIX), {'negatives': 'memory'}, "'memory' is unknown: use one of teacher_st"),
        ((MATRIX, MATRIX), {'chunk_size': 0}, 'chunk_size: 0 is not a number of rows'),
        (
            (MATRIX, MATRIX),
            {'groups': torch.zeros(3).long()},
            r'groups: shape \(3,\) is not \(4,\)',
        ),
        ((MATRIX, MATRIX), {'groups': torch.zeros(4, 1).long()}, r'groups: shape \(4, 1\) is not'),
        ((MATRIX, MATRIX), {'groups': torch.zeros(4)}, 'groups: torch.float32 is not an integer'),
        ((MATRIX, MATRIX), {'groups': torch.zeros(4).bool()}, 'groups: torch.bool is not'),
        ((MATRIX, MATRIX), {'images': torch.zeros(4)}, 'images: torch.float32 is not an integer'),
        ((MATRIX, MATRIX), {'mask_iou': 0.5}, r'boxes: None is not \(4, 4\)'),
        ((MATRIX, MATRIX), {'mask_iou': 1.0, 'boxes': torch.zeros(4, 4)}, 'mask_iou: 1.0 is not'),
        (
            (MATRIX, MATRIX),
            {'negatives': 'student_student', 'symmetric': True},
            "set negatives='teacher_student' or symmetric=False",
        ),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ckd_loss(*arguments, **options)


def test_works_where_openmmlab_is_not_installed():
    program = """
import sys
for name in ('mmengine', 'mmcv', 'mmdet', 'mmpretrain'):
    sys.modules[name] = None
import torch
import mmkd.functional
loss = mmkd.functional.ckd_loss(torch.eye(2), torch.eye(2))
print(f'{loss.item():.4f}')
"""
    finished = subprocess.run(
        [sys.executable, '-c', program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    # Two orthogonal samples: log(1 + e^-1).
    assert finished.stdout.strip() == '0.3133'
