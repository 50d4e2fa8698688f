"""AEKT (Park and Lee, arXiv 2409.01679, reconstructed): its properties, options, and form for sigmoid heads."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mmkd.functional import aekt_loss, dkd_loss, kd_loss, nckd, tckd
from mmkd.functional.aekt import fold_serial_layer

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
EXPLICIT = ['relative_tckd', 'ratio_tckd', 'ratio', 'nkd', 'tckd']
UNCLIPPED = 1e30


def make_logits(num_samples: int = 6, num_classes: int = 5):
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_samples, num_classes)
    student, teacher = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def confidences(logits, temperature: float, activation: str = 'softmax'):
    logits = logits.detach() / temperature
    probs = logits.softmax(1) if activation == 'softmax' else logits.sigmoid()
    return probs.gather(1, LABELS[:, None]).squeeze(1)


def probabilities(logits: list[float], temperature: float, activation: str) -> list[float]:
    if activation == 'sigmoid':
        return [1 / (1 + math.exp(-logit / temperature)) for logit in logits]
    return softmax([logit / temperature for logit in logits])


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


def binary_divergence(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def loop_loss(
    student,
    teacher,
    labels,
    alpha=1.0,
    beta=8.0,
    temperature=4.0,
    gamma=1.0,
    r_max=4.0,
    explicit='relative_tckd',
    activation='softmax',
    non_target='nckd',
) -> float:
    """The formula of docs/aekt.md one sample at a time, in Python floats."""
    total = 0.0
    rows = list(zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True))
    factors = []
    for s, t, y in rows:
        confidences = (probabilities(each, temperature, activation)[y] for each in (t, s))
        factors.append(min(next(confidences) / next(confidences), r_max) ** gamma)
    for index, (s, t, y) in enumerate(rows):
        q = probabilities(s, temperature, activation)
        p = probabilities(t, temperature, activation)
        ratio = p[y] / q[y]
        if explicit == 'nkd':
            total -= alpha * temperature * p[y] * math.log(q[y])
        elif explicit == 'ratio':
            tangent = r_max * (1 + math.log(ratio / r_max))
            total += alpha * temperature * (ratio if ratio <= r_max else tangent)
        else:
            factor = 1.0 if explicit == 'tckd' else factors[index]
            factor /= sum(factors) / len(factors) if explicit == 'relative_tckd' else 1.0
            total += alpha * factor * temperature**2 * binary_divergence(p[y], q[y])
        others = [c for c in range(len(s)) if c != y]
        if non_target == 'binary_kl':
            divergence = sum(binary_divergence(p[c], q[c]) for c in others)
        else:
            p_hat = softmax([t[c] / temperature for c in others])
            q_hat = softmax([s[c] / temperature for c in others])
            divergence = sum(a * math.log(a / b) for a, b in zip(p_hat, q_hat, strict=True))
        total += beta * temperature**2 * divergence
    return total / len(labels)


@pytest.mark.parametrize(
    'numbers',
    [{}, {'alpha': 2.0, 'beta': 0.5, 'temperature': 1.0, 'gamma': 0.5, 'r_max': 1.5}],
    ids=['defaults', 'others'],
)
@pytest.mark.parametrize('explicit', EXPLICIT)
@pytest.mark.parametrize(
    'head',
    [
        {'activation': 'softmax', 'non_target': 'nckd'},
        {'activation': 'sigmoid', 'non_target': 'nckd'},
        {'activation': 'sigmoid', 'non_target': 'binary_kl'},
    ],
    ids=['softmax', 'sigmoid', 'sigmoid, binary_kl'],
)
def test_value_is_the_formula(head, explicit, numbers):
    student, teacher = make_logits()
    expected = loop_loss(student, teacher, LABELS, explicit=explicit, **head, **numbers)
    loss = aekt_loss(student, teacher, LABELS, explicit=explicit, **head, **numbers)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_property_1_tckd_without_a_serial_layer_is_dkd_exactly():
    student, teacher = make_logits()
    options = {'alpha': 0.7, 'beta': 3.0, 'temperature': 2.5}
    losses = [
        aekt_loss(student, teacher, LABELS, explicit='tckd', **options),
        dkd_loss(student, teacher, LABELS, **options),
    ]
    assert torch.equal(*losses)
    assert torch.equal(*(torch.autograd.grad(loss, student)[0] for loss in losses))


def test_property_2_its_two_terms_make_up_kd():
    student, teacher = make_logits()
    rest = 1 - confidences(teacher, 2.0)
    target_term = aekt_loss(student, teacher, LABELS, 1.0, 0.0, 2.0, explicit='tckd')
    other_term = aekt_loss(student, teacher, LABELS, 0.0, 1.0, 2.0, weights=rest) * rest.mean()
    expected = kd_loss(student, teacher, 2.0)
    assert (target_term + other_term).item() == pytest.approx(expected.item(), rel=1e-10)
    parts = tckd(student, teacher, LABELS, 2.0) + rest * nckd(student, teacher, LABELS, 2.0)
    assert 4 * parts.mean().item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_property_3_equal_logits_give_zero_and_a_zero_gradient(activation):
    student, _ = make_logits()
    loss = aekt_loss(student, student.detach(), LABELS, activation=activation)
    loss.backward()
    assert loss.item() == 0
    assert torch.allclose(student.grad, torch.zeros_like(student), rtol=0, atol=1e-15)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_property_4_pull_on_the_target_grows_with_the_lag(activation, temperature):
    student, teacher = make_logits()
    loss = aekt_loss(
        student,
        teacher,
        LABELS,
        beta=0.0,
        temperature=temperature,
        r_max=UNCLIPPED,
        explicit='ratio_tckd',
        activation=activation,
    )
    loss.backward()
    p_y = confidences(teacher, temperature, activation)
    q_y = confidences(student, temperature, activation)
    expected = temperature * p_y * (1 - p_y / q_y) / len(LABELS)
    gradient = student.grad.gather(1, LABELS[:, None]).squeeze(1)
    assert torch.allclose(gradient, expected, rtol=1e-9)


@pytest.mark.parametrize('explicit', ['relative_tckd', 'ratio_tckd'])
def test_property_5_the_ratio_carries_no_gradient(explicit):
    """With r = p_y/q_y and factor f = min(r, r_max)^gamma, held constant, the whole gradient is
    f tau (q_y - p_y) for the target, the same with the other sign shared out to the others by q.
    """
    student, teacher = make_logits()
    options = {'beta': 0.0, 'temperature': 2.0, 'gamma': 0.5, 'r_max': 3.0}
    aekt_loss(student, teacher, LABELS, explicit=explicit, **options).backward()
    p_y, q_y = confidences(teacher, 2.0), confidences(student, 2.0)
    factors = (p_y / q_y).clamp(max=3.0).sqrt()
    if explicit == 'relative_tckd':
        factors /= factors.mean()
    assert (p_y / q_y > 3.0).any()
    assert (p_y / q_y < 3.0).any()
    target = F.one_hot(LABELS, 5)
    others = (student.detach() / 2).softmax(1) * (1 - target) / (1 - q_y)[:, None]
    expected = (2.0 * factors * (q_y - p_y) / 6)[:, None] * (target - others)
    assert torch.allclose(student.grad, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('explicit', EXPLICIT)
@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_property_6_logits_up_to_100_give_finite_values_and_gradients(
    temperature, activation, explicit, dtype
):
    """All combinations of certain and wrong, for student and teacher, target and others."""
    levels = torch.tensor([-100.0, 0.0, 100.0], dtype=dtype)
    combinations = torch.cartesian_prod(*[levels] * 6)
    student, teacher = combinations[:, :3].clone().requires_grad_(), combinations[:, 3:]
    # A mean over 729 samples would underflow to zero gradients in float16; each alone must do.
    loss = len(student) * aekt_loss(
        student,
        teacher,
        torch.zeros(len(student), dtype=torch.long),
        temperature=temperature,
        explicit=explicit,
        activation=activation,
    )
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    # The student is sure of a wrong class and the teacher of the target: it must be told.
    is_wrong = (student[:, 0] == -100) & (student[:, 1] == 100) & (teacher[:, 0] == 100)
    is_wrong &= (teacher[:, 1:] == 0).all(1)
    assert is_wrong.any()
    assert (student.grad[is_wrong, 0] < -0.9).all()


@pytest.mark.parametrize('explicit', ['ratio', 'nkd'])
def test_cross_entropy_like_forms_have_their_own_gradient(explicit):
    student, teacher = make_logits()
    options = {'beta': 0.0, 'temperature': 2.0, 'r_max': 3.0}
    aekt_loss(student, teacher, LABELS, explicit=explicit, **options).backward()
    p_y, q_y = confidences(teacher, 2.0), confidences(student, 2.0)
    # d log q_y / d s_y = (1 - q_y) / tau, times -tau min(r, r_max) or -tau p_y.
    pulls = {'ratio': (p_y / q_y).clamp(max=3.0), 'nkd': p_y}[explicit]
    gradient = student.grad.gather(1, LABELS[:, None]).squeeze(1)
    assert torch.allclose(gradient, -pulls * (1 - q_y) / 6, rtol=1e-9)


def test_a_lagging_student_is_pulled_harder_than_a_leading_one():
    """What sets AEKT apart from DKD, at the same distance |p_y - q_y| to either side."""
    log_odds = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    student = torch.stack([log_odds, torch.zeros(2)], dim=1).requires_grad_()
    teacher = torch.zeros(2, 2, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.long)

    def pulls(explicit):
        loss = aekt_loss(student, teacher, labels, temperature=1.0, explicit=explicit)
        return torch.autograd.grad(loss, student)[0][:, 0].abs().tolist()

    for explicit in ('relative_tckd', 'ratio_tckd'):
        lagging, leading = pulls(explicit)
        assert lagging / leading == pytest.approx(math.e)
    lagging, leading = pulls('tckd')
    assert lagging == pytest.approx(leading)


def test_relative_ratios_that_are_all_alike_leave_dkd():
    student, teacher = make_logits()
    student, teacher = student[:1].expand(4, -1), teacher[:1].expand(4, -1)
    loss = aekt_loss(student, teacher, torch.ones(4, dtype=torch.long))
    expected = dkd_loss(student, teacher, torch.ones(4, dtype=torch.long), 1.0, 8.0, 4.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)


def test_samples_of_weight_0_do_not_change_the_mean_of_the_ratios():
    student, teacher = make_logits()
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.0, 3.0])
    counted = [0, 1, 1, 3, 5, 5, 5]
    loss = aekt_loss(student, teacher, LABELS, weights=weights)
    expected = aekt_loss(student[counted], teacher[counted], LABELS[counted])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert aekt_loss(student, teacher, LABELS, weights=torch.zeros(6)).item() == 0


@pytest.mark.parametrize('non_target', ['nckd', 'binary_kl'])
def test_a_sigmoid_head_may_have_a_single_class(non_target):
    student, teacher = make_logits(num_classes=1)
    labels = torch.zeros(6, dtype=torch.long)
    options = {'activation': 'sigmoid', 'non_target': non_target}
    loss = aekt_loss(student, teacher, labels, **options)
    loss.backward()
    expected = loop_loss(student, teacher, labels, beta=0.0, activation='sigmoid')
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert student.grad.isfinite().all()


def test_a_sigmoid_target_does_not_depend_on_the_other_classes():
    student, teacher = make_logits()
    aekt_loss(student, teacher, LABELS, beta=0.0, activation='sigmoid').backward()
    is_target = F.one_hot(LABELS, 5).bool()
    assert (student.grad[is_target] != 0).all()
    assert (student.grad[~is_target] == 0).all()


def test_background_of_a_sigmoid_head_is_an_error():
    student, teacher = make_logits()
    labels = torch.full((6,), 5)
    with pytest.raises(ValueError, match=r'labels: .* background'):
        aekt_loss(student, teacher, labels, activation='sigmoid')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'explicit': 'ratio_kd'},
            "explicit: 'ratio_kd' is unknown: use one of relative_tckd, ratio",
        ),
        ({'activation': 'relu'}, "activation: 'relu' is unknown: use one of softmax, sigmoid"),
        ({'non_target': 'kl'}, "non_target: 'kl' is unknown: use one of nckd, binary_kl"),
        ({'non_target': 'binary_kl'}, "'binary_kl' is for sigmoid heads"),
        ({'gamma': -1.0}, 'gamma: -1.0 is not zero or a positive number'),
        ({'r_max': 0.0}, 'r_max: 0.0 is not a positive number'),
        ({'r_max': math.inf}, 'r_max: inf is not a positive number'),
    ],
)
def test_impossible_options_are_an_error(options, message):
    student, teacher = make_logits()
    with pytest.raises(ValueError, match=message):
        aekt_loss(student, teacher, LABELS, **options)


def test_a_single_softmax_logit_is_an_error():
    student, teacher = make_logits(num_classes=1)
    with pytest.raises(ValueError, match='1 per sample do not split into target and non-target'):
        aekt_loss(student, teacher, torch.zeros(6, dtype=torch.long))


# fold_serial_layer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=noise, dtype=torch.float64)


def test_folded_convolution_is_the_layer_behind_every_block():
    weight, bias, images = drawn(3 * 4, 5, 3, 3), drawn(3 * 4, seed=1), drawn(2, 5, 7, 7, seed=2)
    offset, shift = drawn(4, 4, seed=3), drawn(4, seed=4)

    folded = torch.conv2d(images, *fold_serial_layer(weight, bias, offset, shift), padding=1)

    logits = torch.conv2d(images, weight, bias, padding=1).unflatten(1, (3, 4))
    layer = torch.eye(4, dtype=torch.float64) + offset
    expected = torch.einsum('ij,najhw->naihw', layer, logits) + shift[:, None, None]
    torch.testing.assert_close(folded, expected.flatten(1, 2))


def test_folded_linear_layer_is_the_layer_behind_it():
    weight, bias, rows = drawn(4, 6), drawn(4, seed=1), drawn(9, 6, seed=2)
    offset, shift = drawn(4, 4, seed=3), drawn(4, seed=4)

    new_weight, new_bias = fold_serial_layer(weight, bias, offset, shift)

    logits = rows @ weight.T + bias
    torch.testing.assert_close(rows @ new_weight.T + new_bias, logits + logits @ offset.T + shift)


def test_folding_the_identity_changes_no_bit():
    weight, bias = drawn(12, 5, 3, 3).float(), drawn(12).float()
    folded = fold_serial_layer(weight, bias, torch.zeros(4, 4), torch.zeros(4))
    assert torch.equal(folded[0], weight)
    assert torch.equal(folded[1], bias)


@pytest.mark.parametrize('shape', [(81, 300), (3 * 81, 16, 3, 3)])
def test_folding_rounds_alike_with_and_without_gradients(shape):
    """Training folds parameters, an export folds what was saved."""
    values = [drawn(*shape).float(), drawn(shape[0]).float()]
    values += [0.1 * drawn(81, 81).float(), drawn(81).float()]
    exported = fold_serial_layer(*values)
    trained = fold_serial_layer(*(torch.nn.Parameter(value) for value in values))
    with torch.no_grad():
        validated = fold_serial_layer(*(torch.nn.Parameter(value) for value in values))
    for saved, *others in zip(exported, trained, validated, strict=True):
        assert all(torch.equal(saved, other) for other in others)


def test_fold_has_the_gradient_of_all_four():
    inputs = [drawn(6, 2), drawn(6, seed=1), drawn(3, 3, seed=2), drawn(3, seed=3)]
    assert torch.autograd.gradcheck(fold_serial_layer, [x.requires_grad_() for x in inputs])


def test_rows_that_are_no_blocks_are_an_error():
    with pytest.raises(ValueError, match='weight: 7 rows are no blocks of 3 logits'):
        fold_serial_layer(drawn(7, 2), drawn(7), drawn(3, 3), drawn(3))
