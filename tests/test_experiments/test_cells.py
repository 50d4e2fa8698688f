"""What a comparison would run; what it runs is seen in tests/test_cli/test_compare.py."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd.experiments import Cell, Comparison, Family
from mmkd.experiments.jobs import Command, JobError
from mmkd.report import PLAIN, TEACHER, Row, locked, read_rows, record
from mmkd.utils import PreflightError

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


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The words of all commands; what each would leave behind is made in its place."""
    words: list[tuple[str, ...]] = []

    def run(command: Command, folder: Path) -> None:
        words.append(command.words)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / 'seconds.txt').open('a') as file:
            file.write(f'{command.kind} 8.0\n')
        if command.kind == 'train':
            (folder / 'epoch_1.pth').touch()
        elif command.kind == 'test':
            written = Path(after(command.words, '--work-dir')) / 'now' / 'now.json'
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text('{"coco/bbox_mAP": 0.5}')

    monkeypatch.setattr(Command, 'run', run)
    return words


def after(words: tuple[str, ...], option: str) -> str:
    """The value of an option."""
    return words[words.index(option) + 1]


def scripts(words: list[tuple[str, ...]]) -> list[str]:
    return [each[0].removeprefix('tools/').removesuffix('.py') for each in words]


def test_a_family_is_found_by_its_name(folder: Path, tiny: Family) -> None:
    assert list(Family.all([folder])) == ['tiny']
    assert tiny.checkpoint.resolve() == folder / 'teacher.pth'
    assert not tiny.checkpoint.is_absolute(), 'recorded commands are to hold in every clone'
    assert [tiny.has_method(name) for name in (PLAIN, 'ckd', 'qfl_kd', 'ckd+pkd', 'dkd')] == [
        True, True, True, True, False,
    ]  # fmt: skip


def test_a_teacher_that_is_not_there_can_be_trained(
    folder: Path, tiny: Family, comparison: Comparison, ran: list[tuple[str, ...]]
) -> None:
    (folder / 'teacher.pth').unlink()
    comparison.jobs([Cell(tiny, PLAIN, 0)])[0].make()
    assert scripts(ran) == ['train', 'test'], 'a plain student needs no teacher'
    with pytest.raises(PreflightError, match=r'tiny_ckd\.py: .*teacher\.pth: with --train-teacher'):
        _ = tiny.checkpoint


def test_cells_of_a_seed_differ_in_the_method_only(
    tiny: Family, comparison: Comparison, folder: Path, ran: list[tuple[str, ...]]
) -> None:
    """A recipe of its own, a preset, a variant, and the plain student: the same data, schedule and seed."""
    cells = [
        Cell(tiny, PLAIN, 3),
        Cell(tiny, 'ckd', 3),
        Cell(tiny, 'ckd+qfl_kd', 3),
        Cell(tiny, 'hot', 3, base='ckd', options=('model.losses.ckd.temperature=4',)),
    ]
    for job in comparison.jobs(cells):
        assert job.make().startswith('AP 50.0')
    # One store: what the presets ask together, then what the recipe asks.
    assert scripts(ran) == ['train', 'test', *['cache_teacher'] * 2, *['train', 'test'] * 3]
    store = [words for words in ran if 'cache' in words[0]]
    assert [each[1].rsplit('/')[-1] for each in store] == ['tiny_student.py', 'tiny_ckd.py']
    assert len({after(each, '--out') for each in store}) == 1
    trainings = [words for words in ran if words[0] == 'tools/train.py']
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
    assert comparison.jobs(cells) == [], 'each has its row'


def test_a_store_that_is_there_is_used_live_otherwise(
    tiny: Family, comparison: Comparison, ran: list[tuple[str, ...]]
) -> None:
    first, second = comparison.jobs([Cell(tiny, 'ckd', seed) for seed in (0, 1)])
    assert 'the teacher runs in every step' in first.make()
    assert not any('model.teacher.store' in word for words in ran for word in words)
    rows = Path(after(ran[0], '--out'))
    rows.mkdir()
    (rows / 'manifest.json').touch()
    assert second.make() == 'AP 50.0', 'it was asked for already'
    assert f'model.teacher.store={rows}' in ran[-2]
    (rows.parent / 'asked.txt').unlink()
    (again,) = comparison.jobs([Cell(tiny, 'ckd', 2)])
    assert again.make().endswith('; the store took 16 s, which it spares each run in 2 epochs')
    comparison.jobs([Cell(tiny, PLAIN, 0)])[0].make()
    assert not any('model.teacher' in word for word in ran[-2])


def test_teachers_are_trained_only_if_asked_for_and_needed(
    tiny: Family, comparison: Comparison, ran: list[tuple[str, ...]]
) -> None:
    cells = [Cell(tiny, PLAIN, 0), Cell(tiny, TEACHER, 0), Cell(tiny, 'ckd', 0)]
    trained = dataclasses.replace(comparison, train_teacher=True)
    for job in trained.jobs(cells):
        job.make()
    assert scripts(ran) == ['train', 'test', 'train', 'test', 'cache_teacher', 'train', 'test']
    assert ran[2][1].endswith('tiny_teacher.py')
    # Another teacher is another comparison.
    assert trained.folder(cells[2]) != comparison.folder(cells[2])
    assert trained.folder(cells[0]) == comparison.folder(cells[0])


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
    tiny: Family, comparison: Comparison, ran: list[tuple[str, ...]]
) -> None:
    cell = Cell(tiny, PLAIN, 100, 'val')
    comparison.checkpoint(cell).parent.mkdir(parents=True)
    comparison.checkpoint(cell).touch()
    comparison.jobs([cell])[0].make()
    (test,) = ran
    assert after(test, '--split') == 'val'


def test_a_row_names_all_commits_that_it_was_made_with(
    tiny: Family,
    comparison: Comparison,
    ran: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell, run = Cell(tiny, PLAIN, 0), Command.run

    def fail(command: Command, folder: Path) -> None:
        if command.kind == 'test':
            raise JobError('killed')
        run(command, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Command, 'run', fail)
        with pytest.raises(JobError, match='killed'):
            comparison.make(cell, [], 'trained')
    comparison.make(cell, [], 'evaluated')
    (row,) = read_rows(comparison.results, 'tiny')
    assert scripts(ran) == ['train', 'test']
    assert row.commit == 'trained evaluated'


def test_two_comparisons_at_once_make_a_cell_once(
    tiny: Family, comparison: Comparison, ran: list[tuple[str, ...]]
) -> None:
    """The second waits for the first, whose training it would spoil, and takes its row."""
    cell = Cell(tiny, PLAIN, 0)
    first, second = (comparison.jobs([cell])[0] for _ in range(2))
    waiting = threading.Thread(target=second.make)
    with locked(comparison.folder(cell)):
        waiting.start()
        waiting.join(0.3)
        assert not ran
    waiting.join()
    first.make()
    assert scripts(ran) == ['train', 'test']


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch, clean_environment: Callable[[], None]) -> None:
    monkeypatch.chdir(REPOSITORY)
