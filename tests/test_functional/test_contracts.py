"""What every loss of mmkd.functional promises, whatever it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from mmkd.functional import (
    aekt_loss,
    at_loss,
    bckd_box_loss,
    box_giou_loss,
    box_l1_loss,
    cc_loss,
    ckd_loss,
    clkd_loss,
    comparative_kd_loss,
    correlation_kd_loss,
    crd_loss,
    ctkd_loss,
    cwd_loss,
    defeat_loss,
    dist_loss,
    dkd_loss,
    fgd_loss,
    fgfi_loss,
    fitnet_loss,
    hcl_loss,
    ickd_loss,
    kd_loss,
    ld_loss,
    mgd_loss,
    mimic_loss,
    mlld_loss,
    nkd_loss,
    nst_loss,
    ofa_loss,
    ofd_loss,
    pkd_loss,
    pkt_loss,
    qfl_kd_loss,
    quadratic_kd_loss,
    rkd_loss,
    sp_loss,
    ttm_loss,
    unit_rows,
    vid_loss,
)

NUM_CLASSES = 4
LABELS = torch.tensor([0, 3, 1, 1, 2, 3])


def make_logits(num_samples: int, generator: torch.Generator) -> Tensor:
    return 3 * torch.randn(num_samples, NUM_CLASSES, generator=generator, dtype=torch.float64)


def make_side_logits(num_samples: int, generator: torch.Generator) -> Tensor:
    return 3 * torch.randn(num_samples, 4, 5, generator=generator, dtype=torch.float64)


def make_boxes(num_samples: int, generator: torch.Generator) -> Tensor:
    numbers = torch.rand(num_samples, 4, generator=generator, dtype=torch.float64)
    return torch.cat([60 * numbers[:, :2], 60 * numbers[:, :2] + 1 + 40 * numbers[:, 2:]], dim=1)


def make_maps(num_samples: int, generator: torch.Generator) -> Tensor:
    return 2 + 3 * torch.randn(num_samples, 3, 6, 5, generator=generator, dtype=torch.float64)


def make_channels(num_samples: int, generator: torch.Generator) -> Tensor:
    return 2 + 3 * torch.randn(num_samples, 5, 2, 2, generator=generator, dtype=torch.float64)


def vid_of_variance_5(student: Tensor, teacher: Tensor) -> Tensor:
    return vid_loss(student, teacher, student.new_full(student.shape[1:2], 5.0))


EMBEDDINGS = unit_rows(
    torch.randn(7, NUM_CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
)


def make_embeddings(num_samples: int, generator: torch.Generator) -> Tensor:
    return make_logits(num_samples, generator)


def crd_of_one_bank(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    """The same negatives for all samples, one of them twice."""
    negatives = torch.tensor([0, 3, 3, 6]).expand(len(student), -1)
    return crd_loss(student, teacher, EMBEDDINGS, negatives, temperature)


def in_each_image(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that looks at objects, with the same object in every image."""

    def with_objects(student: Tensor, teacher: Tensor, **options: float) -> Tensor:
        box = torch.tensor([[9.0, 17.0, 30.0, 31.0]], device=student.device)
        images = torch.arange(len(student), device=student.device)
        boxes = box.repeat(len(student), 1)
        if 'strides' in inspect.signature(loss).parameters:
            return loss([student], [teacher], boxes, images, [8], **options)
        return loss(student, teacher, boxes, images, 8, **options)

    with_objects.__signature__ = inspect.signature(loss)  # type: ignore[attr-defined]
    return with_objects


def scored_boxes(student: Tensor, teacher: Tensor, **options: Tensor) -> Tensor:
    """The box term of BCKD, with the same scores for each box."""
    logits = student.new_zeros(len(student), 2)
    return bckd_box_loss(student, teacher, logits, logits + 1, **options)


@dataclass
class Case:
    loss: Callable[..., Tensor]
    make: Callable[[int, torch.Generator], Tensor] = make_logits
    needs_labels: bool = False
    takes_weights: bool = True
    is_list: bool = False
    any_order: bool = True
    zero_if_equal: bool = True
    # Equal boxes are a kink of their overlap: its slopes to the sides are not zero.
    is_smooth_if_equal: bool = True
    # The gradient of a function in which a factor is held constant is not that of its values.
    gradient_is_derivative: bool = True
    # torchvision indexes with a boolean mask.
    is_free_of_syncs: bool = True

    def __call__(self, student: Tensor, teacher: Tensor, labels=None, weights=None) -> Tensor:
        if self.is_list:
            return self.loss([student], [teacher])
        options = {'weights': weights} if self.takes_weights else {}
        if self.needs_labels:
            labels = LABELS[: len(student)] if labels is None else labels
            return self.loss(student, teacher, labels.to(student.device), **options)
        return self.loss(student, teacher, **options)


def takes_temperature(case: Case) -> bool:
    return 'temperature' in inspect.signature(case.loss).parameters


aekt = partial(Case, needs_labels=True)
CASES = {
    'kd': Case(kd_loss),
    'dkd': Case(dkd_loss, needs_labels=True),
    'nkd': Case(nkd_loss, needs_labels=True, zero_if_equal=False),
    'dist': Case(dist_loss),
    'qfl_kd': Case(qfl_kd_loss),
    'qfl_kd, beta 2': Case(partial(qfl_kd_loss, beta=2.0)),
    'aekt': aekt(aekt_loss, gradient_is_derivative=False),
    'aekt, gamma 0': aekt(partial(aekt_loss, gamma=0.0)),
    'aekt, ratio': aekt(partial(aekt_loss, explicit='ratio'), zero_if_equal=False),
    'aekt, nkd': aekt(partial(aekt_loss, explicit='nkd'), zero_if_equal=False),
    'aekt, tckd': aekt(partial(aekt_loss, explicit='tckd')),
    'aekt, sigmoid': aekt(partial(aekt_loss, activation='sigmoid'), gradient_is_derivative=False),
    'aekt, sigmoid, binary_kl': aekt(
        partial(aekt_loss, explicit='tckd', activation='sigmoid', non_target='binary_kl')
    ),
    'ld': Case(ld_loss, make=make_side_logits),
    'box_l1': Case(box_l1_loss, make=make_boxes),
    'box_giou': Case(
        box_giou_loss, make=make_boxes, is_smooth_if_equal=False, is_free_of_syncs=False
    ),
    'bckd_box': Case(scored_boxes, make=make_boxes, is_smooth_if_equal=False),
    'ckd': Case(ckd_loss, takes_weights=False, zero_if_equal=False),
    'ckd, student_student, in chunks': Case(
        partial(ckd_loss, negatives='student_student', chunk_size=3),
        takes_weights=False,
        zero_if_equal=False,
    ),
    'ckd, symmetric': Case(
        partial(ckd_loss, symmetric=True), takes_weights=False, zero_if_equal=False
    ),
    'comparative_kd': Case(comparative_kd_loss),
    'clkd': Case(clkd_loss, takes_weights=False),
    'correlation_kd': Case(correlation_kd_loss),
    'quadratic_kd': Case(quadratic_kd_loss),
    'quadratic_kd, sigmoid': Case(partial(quadratic_kd_loss, activation='sigmoid')),
    'rkd': Case(rkd_loss, takes_weights=False),
    'sp': Case(sp_loss, takes_weights=False),
    'sp, maps': Case(sp_loss, make=make_maps, takes_weights=False),
    'ofd': Case(ofd_loss, make=make_maps, takes_weights=False),
    'vid': Case(vid_of_variance_5, make=make_maps, takes_weights=False, zero_if_equal=False),
    'fitnet': Case(fitnet_loss, make=make_maps, takes_weights=False),
    'fitnet, pooled': Case(fitnet_loss, takes_weights=False),
    'nst': Case(nst_loss, make=make_maps, takes_weights=False),
    'nst, fewer cells than channels': Case(nst_loss, make=make_channels, takes_weights=False),
    'at': Case(at_loss, make=make_maps, takes_weights=False),
    'ickd': Case(ickd_loss, make=make_maps, takes_weights=False),
    'cc': Case(cc_loss, takes_weights=False, any_order=False),
    'pkt': Case(pkt_loss, takes_weights=False),
    'ofa': Case(ofa_loss, needs_labels=True, zero_if_equal=False),
    'ttm': Case(ttm_loss, zero_if_equal=False),
    'wttm': Case(partial(ttm_loss, weighted=True), zero_if_equal=False),
    'mlld': Case(mlld_loss, takes_weights=False),
    'ctkd': Case(ctkd_loss),
    # The mean over the first batch is a constant.
    'crd': Case(
        crd_of_one_bank,
        make=make_embeddings,
        takes_weights=False,
        zero_if_equal=False,
        gradient_is_derivative=False,
    ),
    'cwd': Case(partial(cwd_loss, temperature=4.0), make=make_maps, takes_weights=False),
    'pkd': Case(pkd_loss, make=make_maps, takes_weights=False, is_list=True),
    'fgd': Case(
        partial(in_each_image(fgd_loss), temperature=0.5, alpha=0.1, beta=0.1, gamma=0.1),
        make=make_maps,
        takes_weights=False,
    ),
    'fgfi': Case(
        partial(in_each_image(fgfi_loss), anchor_scales=(2.0, 3.0)),
        make=make_maps,
        takes_weights=False,
    ),
    'defeat': Case(in_each_image(defeat_loss), make=make_maps, takes_weights=False),
    'mgd': Case(mgd_loss, make=make_maps, takes_weights=False),
    'mimic': Case(mimic_loss, make=make_maps, takes_weights=False),
    'hcl': Case(hcl_loss, make=make_maps, takes_weights=False, is_list=True),
}


def cases(**properties: bool):
    """Run a test for every loss, or for those with these properties."""
    chosen = {
        name: case
        for name, case in CASES.items()
        if all(getattr(case, key) == value for key, value in properties.items())
    }
    return pytest.mark.parametrize('case', chosen.values(), ids=chosen.keys())


def make_pair(case: Case, num_samples: int = 6, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = case.make(num_samples, generator).to(dtype)
    teacher = case.make(num_samples, generator).to(dtype)
    return student.requires_grad_(), teacher


@cases(gradient_is_derivative=True)
def test_gradient_is_the_derivative(case):
    student, teacher = make_pair(case)
    assert torch.autograd.gradcheck(lambda logits: case(logits, teacher), student)


@cases()
def test_gradient_reaches_the_student_and_not_the_teacher(case):
    student, teacher = make_pair(case)
    teacher.requires_grad_()
    case(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@cases(zero_if_equal=True)
def test_equal_outputs_give_zero(case):
    student, _ = make_pair(case)
    loss = case(student, student.detach())
    assert loss.item() == pytest.approx(0, abs=1e-8)


@cases(zero_if_equal=True, is_smooth_if_equal=True)
def test_equal_outputs_give_a_zero_gradient(case):
    student, _ = make_pair(case)
    case(student, student.detach()).backward()
    assert torch.allclose(student.grad, torch.zeros_like(student), rtol=0, atol=1e-13)


@cases(zero_if_equal=False)
def test_cross_entropies_stay_positive_for_equal_outputs(case):
    student, _ = make_pair(case)
    assert case(student, student.detach()) > 0.1


@cases()
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(case, dtype):
    student, teacher = make_pair(case, dtype=dtype)
    wide = student.detach().float().requires_grad_()
    loss, wide_loss = case(student, teacher), case(wide, teacher.float())
    loss.backward()
    wide_loss.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, wide_loss)
    assert torch.equal(student.grad, wide.grad.to(dtype))


@cases()
def test_float32_agrees_with_float64(case):
    student, teacher = make_pair(case)
    loss = case(student, teacher)
    narrow_loss = case(student.float(), teacher.float())
    assert (loss.dtype, narrow_loss.dtype) == (torch.float64, torch.float32)
    assert narrow_loss.item() == pytest.approx(loss.item(), rel=1e-5)


@cases()
def test_autocast_changes_nothing(case):
    student, teacher = make_pair(case, dtype=torch.float32)
    (gradient,) = torch.autograd.grad(case(student, teacher), student)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = case(student, teacher)
        (autocast_gradient,) = torch.autograd.grad(loss, student)
    assert torch.equal(loss, case(student, teacher))
    assert torch.equal(autocast_gradient, gradient)


@cases()
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_outputs_up_to_100_stay_finite(case, dtype):
    if takes_temperature(case):
        # Without a temperature the probabilities are as extreme as they get.
        case = replace(case, loss=partial(case.loss, temperature=1.0))
    student, teacher = make_pair(case)
    student = (100 * student.detach().sign()).to(dtype).requires_grad_()
    teacher = (100 * teacher.sign()).to(dtype)
    for pair in ((student, teacher), (student, -student.detach()), (student, student.detach())):
        student.grad = None
        loss = case(*pair)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


@cases()
def test_no_samples_give_a_zero_attached_to_the_graph(case):
    student, teacher = make_pair(case, num_samples=0)
    loss = case(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.shape == student.shape


@cases()
def test_one_sample_gives_a_finite_loss(case):
    student, teacher = make_pair(case, num_samples=1)
    loss = case(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@cases()
def test_a_teacher_without_an_opinion_gives_a_finite_loss(case):
    student, teacher = make_pair(case)
    loss = case(student, torch.full_like(teacher, 0.3))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@cases(make=make_logits)
def test_two_classes_are_enough(case):
    student, teacher = make_pair(case)
    student = student.detach()[:, :2].requires_grad_()
    loss = case(student, teacher[:, :2], labels=torch.tensor([0, 1, 1, 0, 1, 0]))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@cases(is_list=False, any_order=True)
def test_order_of_samples_does_not_matter(case):
    student, teacher = make_pair(case)
    order = torch.tensor([3, 5, 0, 2, 1, 4])
    loss = case(student[order], teacher[order], labels=LABELS[order])
    assert loss.item() == pytest.approx(case(student, teacher).item(), rel=1e-12)


@cases(takes_weights=True)
def test_a_weight_counts_a_sample_so_often(case):
    student, teacher = make_pair(case)
    counts = torch.tensor([1, 2, 0, 1, 3, 0])
    repeated = torch.arange(6).repeat_interleave(counts)
    weighted = case(student, teacher, weights=counts.double())
    unrolled = case(student[repeated], teacher[repeated], labels=LABELS[repeated])
    assert weighted.item() == pytest.approx(unrolled.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (weighted, unrolled)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)


@cases(takes_weights=True)
def test_equal_weights_are_no_weights(case):
    student, teacher = make_pair(case)
    loss = case(student, teacher, weights=torch.full((6,), 0.25))
    assert loss.item() == pytest.approx(case(student, teacher).item(), rel=1e-12)


@cases(takes_weights=True)
def test_zero_weights_give_a_zero_attached_to_the_graph(case):
    student, teacher = make_pair(case)
    loss = case(student, teacher, weights=torch.zeros(6))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@cases(takes_weights=True)
def test_weights_get_no_gradient(case):
    student, teacher = make_pair(case)
    weights = torch.ones(6, requires_grad=True)
    case(student, teacher, weights=weights).backward()
    assert weights.grad is None


@cases(takes_weights=True)
def test_weights_of_another_shape_are_an_error(case):
    student, teacher = make_pair(case)
    with pytest.raises(ValueError, match=r'weights: shape \(6, 1\) is not \(6,\)'):
        case(student, teacher, weights=torch.ones(6, 1))


@cases()
def test_pairs_of_two_shapes_are_an_error(case):
    student, teacher = make_pair(case)
    with pytest.raises(ValueError, match=r'the student has shape .* and the teacher'):
        case(student, teacher[:5])


@cases()
def test_another_number_of_dimensions_is_an_error(case):
    student, teacher = make_pair(case)
    with pytest.raises(ValueError, match=r'shape .* is not \('):
        case(student[..., None], teacher[..., None])


@cases()
def test_integers_are_an_error(case):
    student, teacher = make_pair(case)
    with pytest.raises(ValueError, match='not a floating-point type'):
        case(student, teacher.long())


@cases(needs_labels=True)
@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (torch.tensor([0, 1, 2, 3, 4, 0]), 'values from 0 to 4 for 4 logits'),
        (torch.tensor([0, 1, 2, -1, 3, 0]), 'values from -1 to 3 for 4 logits'),
        (torch.tensor([0, 1, 2]), r'labels: shape \(3,\) is not \(6,\)'),
        (torch.zeros(6), 'labels: torch.float32 is not int64'),
    ],
)
def test_labels_that_are_no_classes_are_an_error(case, labels, message):
    student, teacher = make_pair(case)
    with pytest.raises(ValueError, match=message):
        case(student, teacher, labels=labels)


@pytest.mark.parametrize('temperature', [0.0, -1.0, float('inf'), float('nan')])
@pytest.mark.parametrize('name', [name for name, case in CASES.items() if takes_temperature(case)])
def test_temperatures_that_are_not_positive_are_an_error(name, temperature):
    case = replace(CASES[name], loss=partial(CASES[name].loss, temperature=temperature))
    with pytest.raises(ValueError, match=r'temperature: .* is not a positive number'):
        case(*make_pair(case))


@pytest.mark.parametrize(
    ('loss', 'name'),
    [
        (rkd_loss, 'distance_weight'),
        (rkd_loss, 'angle_weight'),
        (clkd_loss, 'mu'),
        (clkd_loss, 'beta'),
        (clkd_loss, 'nu'),
        (correlation_kd_loss, 'rows'),
        (correlation_kd_loss, 'columns'),
        (mlld_loss, 'sample_weight'),
        (mlld_loss, 'class_weight'),
    ],
)
def test_terms_of_negative_weight_are_an_error(loss, name):
    with pytest.raises(ValueError, match=f'{name}: -1.0 is not zero or a positive number'):
        loss(torch.zeros(3, 4), torch.zeros(3, 4), **{name: -1.0})


@cases(is_free_of_syncs=True)
def test_nothing_waits_for_the_device(case):
    """Reading a value on the host, such as a count or a range, is impossible for meta tensors."""
    student, teacher = make_pair(case)
    student = student.detach().to('meta').requires_grad_()
    weights = torch.ones(6, device='meta')
    case(student, teacher.to('meta'), weights=weights).backward()
    assert student.grad.shape == student.shape


@cases(is_free_of_syncs=True)
def test_compiles_into_one_graph(case):
    student, teacher = make_pair(case)
    weights = torch.rand(6, generator=torch.Generator().manual_seed(1))
    torch.compiler.reset()
    compiled = torch.compile(case.__call__, fullgraph=True, backend='eager')
    loss = compiled(student, teacher, LABELS, weights)
    expected = case(student, teacher, LABELS, weights)
    assert torch.equal(loss, expected)
    gradients = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
