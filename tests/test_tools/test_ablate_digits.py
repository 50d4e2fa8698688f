from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmkd.functional import ckd_loss


@pytest.fixture(scope='module')
def ablate(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool('ablate_digits')


@pytest.fixture(scope='module', autouse=True)
def _float64() -> Iterator[None]:
    """AdamW blows rounding errors up: what is equal is equal in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope='module')
def few(ablate: ModuleType) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = ablate.load('train')
    return images[:128].double(), labels[:128]


@pytest.fixture(scope='module')
def teacher(ablate: ModuleType, few: tuple[torch.Tensor, torch.Tensor]) -> torch.nn.Module:
    return ablate.train(8, [ablate.Row('teacher')], few, epochs=2, seed=0)


@pytest.fixture(scope='module')
def logits_after(ablate: ModuleType, few, teacher) -> Callable[..., torch.Tensor]:
    """What the students of some rows say about the images after two epochs: (R, S, C)."""

    def logits_after(*rows: object) -> torch.Tensor:
        students = ablate.train(4, rows, few, epochs=2, seed=0, teacher=teacher)
        with torch.no_grad():
            return students(few[0])

    return logits_after


def test_rows_are_those_of_the_issue(ablate: ModuleType) -> None:
    tables = {name: [row.name for row in make()] for name, make in ablate.TABLES.items()}
    assert tables['methods'] == ['plain', 'kd', 'dkd', 'dist', 'ckd', 'aekt', 'ckd + aekt']
    for batch_size in (16, 64, 256):
        rows = ablate.TABLES[f'ckd-{batch_size}']()
        assert len(rows) == 1 + 3 * 4
        assert {row.batch_size for row in rows} == {batch_size}
    for names in tables.values():
        assert names[0] == 'plain'
        assert len(set(names)) == len(names)


def test_settings_are_those_of_the_recipes(ablate: ModuleType) -> None:
    from mmengine.config import Config

    root = Path(__file__).resolve().parents[2]
    recipe = Config.fromfile(root / 'configs/_base_/shapes_cls_methods.py')
    for method in (recipe.dkd.dkd, recipe.aekt.aekt):
        for name, value in ablate.TARGET_LOSS.items():
            assert method[name] == value
        assert method.weight.end == ablate.WARM_UP_EPOCHS
    assert recipe.ckd.ckd.weight == ablate.CKD_WEIGHT
    assert recipe.kd.kd.weight == ablate.KD_WEIGHT
    assert recipe.dist.dist.weight == ablate.DIST_WEIGHT
    kd = Config.fromfile(root / 'configs/shapes_cls/digits_kd.py').model
    assert kd.task_weight == ablate.KD_TASK_WEIGHT


def test_a_step_is_that_of_the_formula(ablate: ModuleType, few, teacher) -> None:
    """One batch of all images: what the student says after AdamW's first step, computed here."""
    row = ablate.ckd(batch_size=len(few[0]), temperature=0.5)
    students = ablate.train(4, [row], few, epochs=1, seed=3, teacher=teacher)
    torch.manual_seed(3)
    model = ablate.network(4)
    order = torch.randperm(len(few[0]))
    images, labels = few[0][order], few[1][order]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
    logits = model(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    with torch.no_grad():
        guide = teacher(images)[0]
    (loss + 10.0 * ckd_loss(logits, guide, temperature=0.5)).backward()
    optimizer.step()
    with torch.no_grad():
        expected = model.eval()(images)
        torch.testing.assert_close(students(images)[0], expected, rtol=1e-6, atol=1e-6)


def test_rows_do_not_influence_each_other(ablate: ModuleType, logits_after) -> None:
    rows = [ablate.Row('plain'), ablate.ckd(), ablate.aekt(), ablate.dkd()]
    together = logits_after(*rows)
    for row, logits in zip(rows, together, strict=True):
        torch.testing.assert_close(logits_after(row)[0], logits, rtol=1e-4, atol=1e-4)
    for one in range(len(rows)):
        for other in range(one):
            assert not torch.allclose(together[one], together[other], atol=1e-3)


def test_without_a_ratio_and_a_layer_aekt_is_dkd(ablate: ModuleType, logits_after) -> None:
    neither, dkd = logits_after(
        ablate.aekt('neither', serial='none', explicit='tckd'), ablate.dkd()
    )
    torch.testing.assert_close(neither, dkd, rtol=1e-4, atol=1e-4)


def test_a_layer_behind_the_task_stays_in_the_student(ablate: ModuleType, few, teacher) -> None:
    rows = [ablate.aekt('before'), ablate.aekt('behind', serial='distill_then_task')]
    students = ablate.train(4, rows, few, epochs=2, seed=0, teacher=teacher)
    before, behind = students.serial
    assert before[0].offset.abs().max() > 0
    with torch.no_grad():
        distilled, predicted = students.logits(few[0]), students(few[0])
        torch.testing.assert_close(predicted[0], distilled[0])
        layer = torch.eye(10) + behind[0].offset
        torch.testing.assert_close(
            predicted[1], distilled[1] @ layer.T + behind[0].bias, rtol=1e-4, atol=1e-4
        )
    assert not torch.allclose(predicted[1], distilled[1], atol=1e-3)


def test_the_table_against_plain_formulas(ablate: ModuleType) -> None:
    results = {'plain': {0: 70.0, 1: 72.0, 2: 71.0}, 'ckd': {0: 73.0, 1: 73.0, 2: 73.0}}
    plain, ckd = ablate.summarize(results).splitlines()[2:]
    assert f'71.0 ± {statistics.stdev([70, 72, 71]):.1f}' in plain
    # Differences 3, 1, 2: deviation 1, t(0.975, 2) = 4.3027 from a printed table.
    half = 4.3027 / math.sqrt(3)
    assert f'+2.0 [{2 - half:+.1f}, {2 + half:+.1f}]' in ckd


def test_the_command_writes_each_table_into_its_block(
    ablate: ModuleType, few, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(ablate, 'load', lambda split: few)
    path = tmp_path / 'page.md'
    arguments = ['methods', 'aekt', '--seeds', '0', '--epochs', '1', '--write', str(path)]
    assert ablate.main(arguments) == 0
    text = path.read_text()
    assert text.index('<!-- begin digits-methods -->') < text.index('<!-- begin digits-aekt -->')
    assert text.count('| plain ') == 2
    assert ', ckd + aekt ' in capsys.readouterr().out


@pytest.mark.parametrize('arguments', [['unknown'], ['aekt', '--epochs', '0'], []])
def test_wrong_arguments_are_refused(ablate: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        ablate.parse_args(arguments)
