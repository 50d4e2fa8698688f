"""Several processes train as one with the images of all of them does; see run_detectors.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Answers = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope='module')
def answers(launch: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Number of processes to what each of them got."""
    folder: Path = tmp_path_factory.mktemp('detectors')
    launch('run_detectors.py', 1, folder)
    return {
        processes: [torch.load(folder / f'{processes}.{rank}') for rank in range(processes)]
        for processes in (1, 2, 4)
    }


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Equal to float32 rounding, tensor by tensor."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = (found[name].double() - value.double()).norm()
        assert error <= 1e-4 * value.double().norm() + 1e-8, name


@pytest.mark.parametrize('processes', [2, 4])
def test_losses_are_those_of_the_whole_batch(answers: Answers, processes: int) -> None:
    """One image has no object: of one process of four the positives are none."""
    expected = answers[1][0]['losses']
    assert {name for name, value in expected.items() if value == 0} == {'loss_aekt_later'}
    for answer in answers[processes]:
        assert_same(answer['losses'], expected)


@pytest.mark.parametrize('processes', [2, 4])
def test_gradients_are_those_of_the_whole_batch(answers: Answers, processes: int) -> None:
    expected = answers[1][0]['gradients']
    assert {'distill.aekt.serial_layer.offset', 'distill.aekt_later.serial_layer.offset'} <= (
        expected.keys()
    )
    for answer in answers[processes]:
        assert_same(answer['gradients'], expected)


@pytest.mark.parametrize('processes', [2, 4])
def test_accumulated_steps_end_with_the_same_weights(answers: Answers, processes: int) -> None:
    """Without ``find_unused_parameters``: a loss whose weight is 0 so far keeps its extras in the graph."""
    for answer in answers[processes]:
        assert_same(answer['weights'], answers[1][0]['weights'])
        for name in ('norms', 'counts'):  # of which a share of the gradient makes weights
            key = f'distill.gradient_shares.{name}'
            assert answer['weights'][key][[0, -1]].all()
            assert torch.equal(answer['weights'][key], answers[processes][0]['weights'][key])


@pytest.mark.parametrize('processes', [2, 4])
@pytest.mark.parametrize('kind', ['maps', 'relations', 'queries'])
def test_each_loss_has_the_value_and_gradient_of_the_whole_batch(
    answers: Answers, kind: str, processes: int
) -> None:
    """Also of parts of different size, and without objects on one process; LD's published sum is the exception."""
    expected = answers[1][0][kind]
    for name, gradient in expected['gradients'].items():
        # LD sums over the boxes of a process, and what is trained is the mean of these sums.
        factor = processes if name == 'ld' else 1
        assert gradient.any(), name
        for answer in answers[processes]:
            value = factor * answer[kind]['logged'][name]
            torch.testing.assert_close(
                value, expected['logged'][name], rtol=2e-5, atol=1e-6, msg=name
            )
            assert_same({name: factor * answer[kind]['gradients'][name]}, {name: gradient})


def test_maps_of_other_sizes_are_gathered_with_zeros_around_them(answers: Answers) -> None:
    expected = [
        F.pad(torch.full((rank % 3, 2, 3 + rank, 5 - rank), rank + 1.0), (0, rank - 1, 0, 3 - rank))
        for rank in range(4)
    ]
    for rank, answer in enumerate(answers[4]):
        found, gradient = answer['gathered']
        # Process 0 has no maps, but is the widest: its size counts.
        assert torch.equal(found, F.pad(torch.cat(expected), (0, 1)))
        assert torch.equal(gradient, torch.full_like(gradient, 4.0))
        assert gradient.shape == (rank % 3, 2, 3 + rank, 5 - rank)


def test_the_log_says_the_same_on_every_process(answers: Answers) -> None:
    for processes in (2, 4):
        first, *others = (answer['maps']['logged'] for answer in answers[processes])
        for other in others:
            assert first == other


def test_a_peer_trains_alike_on_all_processes(answers: Answers) -> None:
    first, second = (answer['peer'] for answer in answers[2])
    assert first['logged'] == second['logged']
    for name, parameter in first['end'].items():
        assert torch.equal(parameter, second['end'][name]), name
    for side in (True, False):
        changed = [
            not torch.equal(value, first['start'][name])
            for name, value in first['end'].items()
            if name.startswith('distill.') is side and value.requires_grad
        ]
        assert sum(changed) > len(changed) / 2


def test_without_gathering_each_process_contrasts_its_own(answers: Answers) -> None:
    alone = [answer['alone'][0] for answer in answers[2]]
    assert alone[0] == alone[1], 'the value of all processes'
    torch.testing.assert_close(alone[0], torch.stack(answers[1][0]['alone']).mean())
    assert alone[0] < answers[2][0]['losses']['loss_ckd'] - 0.1


def test_a_process_without_rois_goes_along(answers: Answers) -> None:
    first, second = answers[2]
    assert min(first['cascade_rois']) > 0
    assert second['cascade_rois'] == [0, 0, 0]
    expected = answers[1][0]
    for answer in (first, second):
        torch.testing.assert_close(answer['cascade_loss'], expected['cascade_loss'])
        assert_same(answer['cascade_gradients'], expected['cascade_gradients'])
    assert any(gradient.any() for gradient in expected['cascade_gradients'].values())


def test_sharded_parameters_get_the_same_gradient(answers: Answers) -> None:
    """The distiller and its student are one tree of modules, also when PyTorch replaces its parameters."""
    for answer in answers[2]:
        ddp, fsdp = answer['sharded']['ddp'], answer['sharded']['fsdp']
        assert_same(fsdp['losses'], ddp['losses'])
        assert_same(fsdp['gradients'], ddp['gradients'])
        assert any('serial_layer' in name for name in fsdp['gradients'])
