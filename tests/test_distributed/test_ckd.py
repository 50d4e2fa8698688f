"""CKD with the samples of all processes gathered is CKD of the whole batch on one process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmkd.functional import ckd_loss

FORMS = {
    'teacher_student': {},
    'student_student': dict(negatives='student_student'),
    'symmetric': dict(symmetric=True),
}
SAMPLES = {
    2: {'equal': [6, 6], 'unequal': [9, 3], 'one empty': [12, 0], 'one sample': [0, 1]},
    4: {'equal': [3] * 4, 'unequal': [2, 7, 0, 3], 'all empty': [0] * 4},
}
CASES = {
    (processes, f'{form}, {split}, chunk {chunk}, {"groups" if grouped else "no groups"}'): (
        samples,
        dict(FORMS[form], chunk_size=chunk, temperature=0.5),
        grouped,
    )
    for processes, splits in SAMPLES.items()
    for (split, samples), form, chunk, grouped in itertools.product(
        splits.items(), FORMS, (None, 4), (False, True)
    )
}


def problem(
    samples: list[int], options: dict[str, Any], grouped: bool, dtype: torch.dtype
) -> dict[str, Any]:
    """Logits of a linear layer, some samples of one object; objects and images are numbered by process from 0."""
    noise = torch.Generator().manual_seed(0)
    total = sum(samples)
    return dict(
        inputs=torch.randn(total, 8, generator=noise).to(dtype),
        teacher=torch.randn(total, 5, generator=noise).to(dtype),
        weight=torch.randn(5, 8, generator=noise).to(dtype),
        groups=torch.arange(total) % 3 - 1 if grouped else None,
        boxes=torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(total, 1) if grouped else None,
        images=torch.arange(total) // 2 % 4 if grouped else None,
        samples=samples,
        options=options | (dict(mask_iou=0.5) if grouped else {}),
    )


@pytest.fixture(scope='module')
def answers(launch: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Case to the mean of the losses and the layer's gradient, as every process has them."""
    folder: Path = tmp_path_factory.mktemp('ckd')
    found = {}
    for processes in SAMPLES:
        names = [name for name in CASES if name[0] == processes]
        problems = []
        for name in names:
            samples, options, grouped = CASES[name]
            problems.append(problem(samples, options | dict(gather=True), grouped, torch.float32))
        torch.save(problems, folder / 'problems')
        launch('run_ckd.py', processes, folder / 'problems', folder / 'answers')
        by_rank = [torch.load(folder / f'answers.{rank}') for rank in range(processes)]
        found |= dict(zip(names, zip(*by_rank, strict=True), strict=True))
    return found


@pytest.mark.parametrize('case', CASES, ids=lambda case: f'{case[0]} processes, {case[1]}')
def test_loss_and_gradient_are_those_of_one_process(case: tuple[int, str], answers: dict) -> None:
    samples, options, grouped = CASES[case]
    # In float64: the plain answer, against which float32 may be off by its rounding.
    whole = problem(samples, options, grouped, torch.float64)
    weight = whole['weight'].requires_grad_()
    groups, images = whole['groups'], whole['images']
    if grouped:  # object 0 of one process is not object 0 of another
        process = torch.arange(case[0]).repeat_interleave(torch.tensor(samples))
        groups = torch.where(groups >= 0, groups + 10 * process, -1)
        images = images + 10 * process
    loss = ckd_loss(
        whole['inputs'] @ weight.T,
        whole['teacher'],
        groups=groups,
        boxes=whole['boxes'],
        images=images,
        **whole['options'],
    )
    loss.backward()

    assert len(answers[case]) == case[0]
    for value, gradient in answers[case]:
        torch.testing.assert_close(value.double(), loss.detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient.double(), weight.grad, rtol=1e-5, atol=1e-6)


def test_the_negatives_of_other_processes_matter(answers: dict) -> None:
    """Without them the tests above would compare two small batches with a large one and fail."""
    name = (2, 'teacher_student, equal, chunk None, no groups')
    whole = problem(*CASES[name], torch.float64)
    own = ckd_loss(
        (whole['inputs'] @ whole['weight'].T)[:6], whole['teacher'][:6], **CASES[name][1]
    )
    assert answers[name][0][0] > own + 0.3


def test_without_a_process_group_gathering_changes_nothing() -> None:
    student, teacher = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    for options in FORMS.values():
        assert ckd_loss(student, teacher, gather=True, **options) == ckd_loss(
            student, teacher, **options
        )
