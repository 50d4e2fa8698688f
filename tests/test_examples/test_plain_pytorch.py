from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / 'examples' / 'plain_pytorch.py'


@pytest.fixture(scope='module')
def example():
    spec = importlib.util.spec_from_file_location('plain_pytorch', EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_needs_mmkd_functional_only() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, 'module', None) or node.names[0].name]
    }
    assert {name for name in imported if name.startswith(('mm', 'onedl'))} == {'mmkd.functional'}


def test_students_learn_and_trail_the_teacher(example, capsys) -> None:
    results = example.main()
    assert list(results) == ['teacher', 'plain student', 'CKD student']
    assert results['teacher'] > 90
    assert all(50 < results[name] < results['teacher'] for name in list(results)[1:])
    assert 'CKD student: ' in capsys.readouterr().out


def test_the_teacher_teaches_and_is_left_as_it_was(example) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(128, 1, 8, 8), torch.randint(10, (128,))
    teacher = example.network(8).eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}

    def student(**settings):
        torch.manual_seed(1)
        trained = example.train(example.network(4), images, labels, 1, **settings)
        return trained.state_dict()['0.weight']

    plain, distilled = student(), student(teacher=teacher)
    assert not torch.equal(plain, distilled)
    assert torch.equal(plain, student(teacher=teacher, weight=0.0))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
