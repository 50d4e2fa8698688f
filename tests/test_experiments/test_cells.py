"""What a comparison would run; what it runs is seen in tests/test_cli/test_compare.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd.experiments import Cell, Comparison, Family, NoSuchCell, check_seeds
from mmkd.experiments.jobs import Command, Job
from mmkd.report import PLAIN, TEACHER, Row, record

REPOSITORY = Path(__file__).resolve().parents[2]
STUDENT = f"""
_base_ = '{REPOSITORY}/tests/data/tiny_retinanet.py'
train_dataloader = dict(
    dataset=dict(_delete_=True, type='mmkd.SeededViews', views=2, dataset={{{{_base_.train_dataloader.dataset}}}})
)
"""
CKD = """
_base_ = './tiny_student.py'
model = dict(
    _delete_=True, type='mmkd.Distiller', student={{_base_.model}},
    teacher=dict(config='tiny_teacher.py', checkpoint='FOLDER/teacher.pth'),
    losses=dict(ckd=dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=8))),
)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A family, tiny, whose CKD is a file of its own."""
    (tmp_path / 'tiny_student.py').write_text(STUDENT)
    (tmp_path / 'tiny_teacher.py').write_text(STUDENT)
    (tmp_path / 'tiny_ckd.py').write_text(CKD.replace('FOLDER', str(tmp_path)))
    (tmp_path / 'teacher.pth').touch()
    (tmp_path / 'other_teacher.py').touch()  # no family: it has no student
    return tmp_path


@pytest.fixture
def tiny(folder: Path) -> Family:
    return Family.all([folder])['tiny']


@pytest.fixture
def comparison(folder: Path, tiny_coco: Path) -> Comparison:
    return Comparison(folder / 'work', folder / 'results', data_root=tiny_coco)


def all_commands(jobs: list[Job]) -> dict[str, list[Command]]:
    return {job.name: list(job.commands()) for job in jobs}


def test_a_family_is_found_by_its_name(folder: Path, tiny: Family) -> None:
    assert list(Family.all([folder])) == ['tiny']
    assert tiny.checkpoint.resolve() == folder / 'teacher.pth'
    assert not tiny.checkpoint.is_absolute(), 'recorded commands are to hold in every clone'
    assert [tiny.has_method(name) for name in (PLAIN, 'ckd', 'qfl_kd', 'ckd+pkd', 'dkd')] == [
        True, True, True, True, False,
    ]  # fmt: skip


def test_a_teacher_that_is_not_there_can_be_trained(
    folder: Path, tiny: Family, comparison: Comparison
) -> None:
    (folder / 'teacher.pth').unlink()
    (plain,) = comparison.jobs([Cell(tiny, PLAIN, 0)])
    assert len(plain.commands()) == 2, 'a plain student needs no teacher'
    with pytest.raises(NoSuchCell, match=r'tiny_ckd\.py: .*teacher\.pth: with --train-teacher'):
        _ = tiny.checkpoint


def test_cells_of_a_seed_differ_in_the_method_only(
    tiny: Family, comparison: Comparison, folder: Path
) -> None:
    """A recipe of its own, a preset, a variant, and the plain student: the same data, schedule and seed."""
    cells = [
        Cell(tiny, PLAIN, 3),
        Cell(tiny, 'ckd', 3),
        Cell(tiny, 'ckd+qfl_kd', 3),
        Cell(tiny, 'hot', 3, base='ckd', options=('model.losses.ckd.temperature=4',)),
    ]
    store, *commands = all_commands(comparison.jobs(cells)).values()
    trainings = [words.words for words, test in commands]
    assert [test.kind for _, test in commands] == ['test'] * 4
    plain, ckd, both, hot = ([*each[: each.index('--work-dir')]] for each in trainings)
    teacher = f'{folder}/tiny_teacher.py={tiny.checkpoint}'
    assert plain == ['tools/train.py', f'{folder}/tiny_student.py']
    assert ckd == hot == ['tools/train.py', f'{folder}/tiny_ckd.py']
    assert both == [*plain, '--teacher', teacher, '--losses', 'ckd+qfl_kd']
    options = [set(each[each.index('--cfg-options') :]) for each in trainings]
    assert options[0] == options[1] == options[2]
    assert options[3] - options[0] == {'model.losses.ckd.temperature=4'}
    # The last epoch is evaluated afterwards; during the training nothing is looked at.
    assert {'randomness.seed=3', 'train_cfg.val_begin=2'} <= options[0]
    assert all('--resume' in each for each in trainings)
    assert len({comparison.folder(cell) for cell in cells}) == 4
    data = [comparison.resolved(cell).train_dataloader.dataset for cell in cells]
    assert all(each == data[0] for each in data)
    # One store: what the presets ask together, then what the recipe asks.
    assert [each.words[1].rsplit('/')[-1] for each in store] == ['tiny_student.py', 'tiny_ckd.py']
    assert len({each.words[each.words.index('--out') + 1] for each in store}) == 1


def test_a_store_that_is_there_is_used_live_otherwise(tiny: Family, comparison: Comparison) -> None:
    store, cell = comparison.jobs([Cell(tiny, 'ckd', 0)])
    assert not any('model.teacher.store' in word for word in cell.commands()[0].words)
    assert 'the teacher runs in every step' in store.finish()
    rows = next(Path(word) for word in store.commands()[0].words if word.endswith('/rows'))
    rows.mkdir(parents=True)
    (rows / 'manifest.json').touch()
    (rows.parent / 'seconds.txt').write_text('cache 8.0\n')
    assert f'model.teacher.store={rows}' in cell.commands()[0].words
    assert store.finish() == 'made in 8 s, which it spares a run in 2 epochs'
    (plain,) = comparison.jobs([Cell(tiny, PLAIN, 0)])
    assert not any('model.teacher' in word for word in plain.commands()[0].words)


def test_teachers_are_trained_only_if_asked_for_and_needed(
    tiny: Family, comparison: Comparison
) -> None:
    cells = [Cell(tiny, TEACHER, 0), Cell(tiny, PLAIN, 0), Cell(tiny, 'ckd', 0)]
    assert [job.after for job in comparison.jobs(cells)] == [(), (), (), ('tiny store',)]
    trained = dataclasses.replace(comparison, train_teacher=True)
    training, store, teacher, plain, ckd = trained.jobs(cells)
    assert training.commands()[0].words[1].endswith('tiny_teacher.py')
    assert store.after == teacher.after == (training.name,)
    assert plain.after == ()
    assert set(ckd.after) == {training.name, store.name}
    # Another teacher is another comparison.
    assert trained.folder(cells[2]) != comparison.folder(cells[2])
    assert trained.folder(cells[1]) == comparison.folder(cells[1])
    assert len(trained.jobs(cells[1:2])) == 1


def make_row(cell: Cell, settings: str) -> Row:
    return Row(cell.family.name, cell.method, cell.seed, cell.split, {}, 1.0, settings, '', '', [])


def test_a_cell_is_done_once_until_its_settings_change(
    tiny: Family, comparison: Comparison
) -> None:
    cells = [Cell(tiny, PLAIN, seed) for seed in (0, 1)]
    record(comparison.results, make_row(cells[0], comparison.settings(cells[0])))
    record(comparison.results, make_row(cells[1], 'other'))
    assert [job.name for job in comparison.jobs(cells)] == ['tiny plain 1']
    faster = dataclasses.replace(comparison, options=('optim_wrapper.optimizer.lr=0.1',))
    assert [job.name for job in faster.jobs(cells)] == ['tiny plain 0', 'tiny plain 1']
    workers = dataclasses.replace(comparison, options=('train_dataloader.num_workers=1',))
    assert workers.is_done(cells[0]), 'who loads the images makes no difference'
    predicting = dataclasses.replace(comparison, predictions=True)
    assert not predicting.is_done(cells[0]), 'its predictions are wanted'


def test_a_training_that_was_finished_is_only_evaluated(
    tiny: Family, comparison: Comparison
) -> None:
    cell = Cell(tiny, PLAIN, 100, 'val')
    (job,) = comparison.jobs([cell])
    assert [command.kind for command in job.commands()] == ['train', 'test']
    comparison.checkpoint(cell).parent.mkdir(parents=True)
    comparison.checkpoint(cell).touch()
    (test,) = job.commands()
    assert test.words[test.words.index('--split') + 1] == 'val'


def test_a_method_without_a_meaning_here_is_named(tiny: Family, comparison: Comparison) -> None:
    with pytest.raises(NoSuchCell, match=r"tiny, dkd: .*'dkd' has no preset"):
        comparison.check(Cell(tiny, 'dkd', 0))


@pytest.mark.parametrize(
    ('split', 'seeds', 'variants', 'message'),
    [
        ('test', [0, 100], False, '--seeds 100: seeds of --split test are below 100'),
        ('val', [99], True, '--seeds 99: seeds of --split val are from 100 on'),
        ('test', [0], True, '--variant: settings are chosen on the validation images'),
    ],
)
def test_settings_are_not_chosen_by_what_is_reported(
    split: str, seeds: list[int], variants: bool, message: str
) -> None:
    with pytest.raises(NoSuchCell, match=message):
        check_seeds(split, seeds, variants)
    check_seeds('test', [0, 99], False)
    check_seeds('val', [100], True)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch, clean_environment: Callable[[], None]) -> None:
    monkeypatch.chdir(REPOSITORY)
