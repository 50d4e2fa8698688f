"""Taps see what passes through one instance, while they record, and change nothing else."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import Tensor, nn

from mmkd.structures.taps import Taps


class Assigner:
    """Not a module."""

    def assign(self, boxes: int) -> int:
        return boxes + 1


class Head(nn.Module):
    """A module with methods to tap."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.assigner = Assigner()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)

    def targets(self, first: int, second: int = 2) -> tuple[int, int]:
        return first, second * self.assigner.assign(0)


class Student(nn.Module):
    """A module with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()


PATHS = {
    'outputs': 'head',
    'results': 'head.targets()',
    'arguments': 'head.assigner.assign(...)',
}


def test_outputs_results_and_arguments_are_recorded_in_order() -> None:
    student = Student()
    with Taps(student, PATHS).recording() as records:
        first, second = (student.head(torch.full((1, 2), value)) for value in (1.0, 2.0))
        student.head.targets(5)
        student.head.targets(6, second=3)
    assert records['outputs'][0] is first
    assert records['outputs'][1] is second
    assert first.requires_grad
    assert records['results'] == [(5, 2), (6, 3)]
    assert records['arguments'] == [{'boxes': 0}, {'boxes': 0}]


def test_nothing_is_recorded_or_kept_outside_of_recording() -> None:
    student = Student()
    taps = Taps(student, PATHS)
    student.head.targets(1)
    with taps.recording() as records:
        pass
    student.head(torch.zeros(1, 2))
    student.head.targets(1)
    assert records == {'outputs': [], 'results': [], 'arguments': []}
    with taps.recording() as again:
        student.head.targets(2)
    assert again['results'] == [(2, 2)]
    assert records['results'] == []


def test_recording_ends_with_an_exception() -> None:
    student = Student()
    taps = Taps(student, PATHS)

    def fail_while_recording() -> None:
        nonlocal records
        with taps.recording() as records:
            raise RuntimeError('in the student')

    records: dict[str, list[object]] = {}
    with pytest.raises(RuntimeError, match='in the student'):
        fail_while_recording()
    student.head.targets(1)
    assert records['results'] == []


def test_the_class_and_other_instances_stay_as_they_were() -> None:
    class_attributes = dict(vars(Head)), dict(vars(Assigner))
    tapped, other = Student(), Student()
    with Taps(tapped, PATHS).recording() as records:
        other.head(torch.zeros(1, 2))
        other.head.targets(1)
    assert (dict(vars(Head)), dict(vars(Assigner))) == class_attributes
    assert not any(records.values())
    assert 'targets' not in vars(other.head)


def test_taps_add_nothing_to_the_module_tree() -> None:
    plain, tapped = Student(), Student()
    Taps(tapped, PATHS)
    assert [name for name, _ in tapped.named_modules()] == [
        name for name, _ in plain.named_modules()
    ]
    assert tapped.state_dict().keys() == plain.state_dict().keys()


def test_a_copy_has_taps_of_its_own() -> None:
    student = Student()
    taps = Taps(student, PATHS)
    twin, twin_taps = copy.deepcopy((student, taps))
    with taps.recording() as records, twin_taps.recording() as twin_records:
        twin.head.linear.weight.data.zero_()
        twin.head(torch.ones(1, 2))
        twin.head.targets(7)
    assert not any(records.values())
    assert len(twin_records['outputs']) == len(twin_records['arguments']) == 1
    assert twin_records['results'] == [(7, 2)]
    assert twin.head.targets.method.__self__ is twin.head


def test_recording_ends_when_enough_is_seen_and_keeps_nothing() -> None:
    student = Student()
    taps = Taps(student, {'inner': 'head.linear', 'outer': 'head'})
    went_on = []
    with taps.recording({'inner': 2}) as records:
        for number in range(3):
            student.head(torch.zeros(1, 2))
            went_on.append(number)
    assert went_on == [0]
    assert [len(outputs) for outputs in records.values()] == [2, 1]

    output = weakref.ref(records['outer'][0])
    del records
    assert output() is None
    with taps.recording() as records:
        for _ in range(3):
            student.head(torch.zeros(1, 2))
    assert len(records['inner']) == 3


def test_detached_taps_leave_the_student_as_it_was() -> None:
    student = Student()
    before = dict(vars(student.head)), dict(vars(student.head.assigner))
    both = {'arguments': 'head.targets(...)', 'results': 'head.targets()', 'outputs': 'head'}
    taps = Taps(student, both)
    assert vars(student.head) != before[0]
    taps.detach()
    assert (vars(student.head), vars(student.head.assigner)) == before
    with taps.recording() as records:
        student.head(torch.zeros(1, 2))
        student.head.targets(1)
    assert not any(records.values())


def test_detached_taps_give_back_what_they_shadowed_and_spare_what_shadows_them() -> None:
    first, second = Student(), Student()
    first.head.targets = own = lambda *_: 5  # type: ignore[assignment,misc]
    Taps(first, PATHS).detach()
    assert first.head.targets is own
    taps = Taps(second, PATHS)
    second.head.targets = own  # type: ignore[assignment,misc]
    taps.detach()
    assert second.head.targets is own


@pytest.mark.parametrize('path', ['neck', 'head.no_such()', 'neck.loss(...)'])
def test_a_path_that_leads_nowhere_is_an_error(path: str) -> None:
    with pytest.raises(AttributeError, match=r'neck|no_such'):
        Taps(Student(), {'tap': path})


class Block(nn.Module):
    """As a ResNet's: one ReLU, called twice, the second time on a sum."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.relu = nn.ReLU(inplace)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.relu(self.linear(self.relu(inputs.clone())) + inputs)


@pytest.mark.parametrize('inplace', [False, True])
def test_what_the_last_relu_reads_is_recorded_though_it_works_in_place(inplace: bool) -> None:
    torch.manual_seed(0)
    stage = nn.Sequential(Block(inplace), Block(inplace))
    network = nn.ModuleDict(dict(stage=stage, relu=stage[1].relu, linear=stage[1].linear))
    paths = {name: f'{name}.before_relu' for name in network}
    taps = Taps(network, paths)
    inputs = torch.randn(3, 2, requires_grad=True)
    with taps.recording() as records:
        output = stage(inputs)
    (before,) = records['stage']
    middle = stage[0](inputs)
    expected = stage[1].linear(middle.relu()) + middle
    assert (before < 0).any()
    torch.testing.assert_close(before, expected)
    torch.testing.assert_close(output, before.relu())
    (gradient,) = torch.autograd.grad(before.square().sum(), inputs)
    (wanted,) = torch.autograd.grad(expected.square().sum(), inputs)
    torch.testing.assert_close(gradient, wanted)
    assert records['relu'][-1] is not output
    torch.testing.assert_close(records['relu'][-1], before)
    torch.testing.assert_close(records['linear'][0], stage[1].linear(middle.relu()))
    taps.detach()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in network.modules())


def test_a_copy_records_before_its_own_relus() -> None:
    stage = nn.ModuleDict(dict(stage=Block(inplace=True)))
    taps = Taps(stage, dict(maps='stage.before_relu'))
    twin, twin_taps = copy.deepcopy((stage, taps))
    with taps.recording() as records, twin_taps.recording() as twin_records:
        output = twin.stage(torch.randn(3, 2))
    assert not records['maps']
    torch.testing.assert_close(twin_records['maps'][0].relu(), output)
    assert (twin_records['maps'][0] < 0).any()


def test_a_list_of_outputs_is_recorded_before_the_relu_of_each() -> None:
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.ReLU(inplace=True), nn.ReLU()

        def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
            once = self.first(inputs - 1)
            return once, self.second(once - 2), once + 3

    network = nn.ModuleDict(dict(backbone=Backbone()))
    with Taps(network, dict(maps='backbone.before_relu')).recording() as records:
        network.backbone(torch.tensor([0.0, 2.0]))
    assert [each.tolist() for each in records['maps'][0]] == [[-1.0, 1.0], [-2.0, -1.0], [3.0, 4.0]]
