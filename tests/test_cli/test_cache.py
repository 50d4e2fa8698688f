"""The command that keeps a teacher's outputs, and training from what it kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from asks import tables
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.registry import MODELS as MMENGINE_MODELS
from tiny import (
    TINY_RETINANET,
    TeacherCalls,
    fresh_hub,
    recipe,
    same,
    teacher_model,
    train,
    weights,
)
from training_runs import in_two_processes

from mmkd.cli import cache
from mmkd.distillers import Distiller
from mmkd.hooks import TeacherStoreHook
from mmkd.registry import MODELS
from mmkd.structures import ClassMap, Progress
from mmkd.teachers import StoreError
from mmkd.teachers.store import Store
from mmkd.teachers.store_key import data_key
from mmkd.utils import override_data_root

TINY_CLASSIFIER = Path(__file__).parents[1] / 'data' / 'tiny_classifier.py'
CKD = dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=8))
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope='session')
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RetinaNet with weights that tell images and places apart."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MMENGINE_MODELS.build(teacher_model())
    model.init_weights()
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.5)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


@pytest.fixture
def detector(tiny_config: Config, teacher_file: Path) -> Config:
    """A recipe of CKD at the teacher's top 8, whose training data have two views."""
    config = recipe(tiny_config, dict(ckd=CKD), str(teacher_file))
    return seeded(config)


@pytest.fixture
def classifier(tiny_imagenet: Path) -> Config:
    """A recipe of KD for a classifier."""
    config = Config.fromfile(TINY_CLASSIFIER)
    override_data_root(config, str(tiny_imagenet))
    wide = dict(
        config.model.to_dict(),
        backbone=dict(type='ResNet', depth=18, base_channels=16),
        head=dict(config.model.head, in_channels=128),
        data_preprocessor=config.data_preprocessor,
    )
    config.custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
    config.model = ConfigDict(
        type='mmkd.Distiller',
        student=config.model,
        teacher=dict(config=dict(model=wide, default_scope='mmpretrain'), checkpoint='random_init'),
        losses=dict(kd=dict(type='mmkd.KDLoss')),
    )
    return seeded(config)


def seeded(config: Config, **options: Any) -> Config:
    options = dict(views=2) | options
    config.train_dataloader.dataset = ConfigDict(
        type='mmkd.SeededViews', dataset=config.train_dataloader.dataset, **options
    )
    config.custom_hooks = [dict(type='mmkd.SeededViewsHook'), dict(type='mmkd.TeacherStoreHook')]
    return config


@pytest.fixture
def command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clean_environment: None,
) -> Command:
    """Run the command on a config; its exit code and what it printed."""

    def run(config: Config, *options: str) -> tuple[int, str]:
        fresh_hub()
        path = tmp_path / 'recipe.py'
        config.dump(str(path))
        code = cache.main([str(path), '--out', str(tmp_path / 'store'), *options])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def stored(config: Config, folder: Path, **options: Any) -> Config:
    """The recipe with the store."""
    config = Config(config.to_dict())
    config.model.teacher.update(store=str(folder), **options)
    return config


def test_losses_that_no_store_answers_have_an_exit_code_of_their_own(
    detector: Config, command: Command
) -> None:
    detector.model.losses = ConfigDict(pkd=dict(type='mmkd.PKDLoss'))
    code, output = command(detector)
    assert code == 3
    assert 'model.losses: no store answers any of them' in output


def test_a_plain_config_is_given_its_teacher_and_losses(
    detector: Config, command: Command, teacher_file: Path, tmp_path: Path
) -> None:
    teacher = Config(detector.model.teacher.config.to_dict())
    teacher.dump(str(tmp_path / 'teacher.py'))
    detector.model = detector.model.student
    options = ['--teacher', f'{tmp_path}/teacher.py={teacher_file}', '--losses', 'ckd']
    code, output = command(detector, *options)
    assert code == 0, output
    assert Store(tmp_path / 'store').manifest.holding.top == 64


@pytest.fixture(scope='module')
def made(
    tiny_coco: Path,
    teacher_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A store of the detector's recipe, in files of six samples."""
    folder = tmp_path_factory.mktemp('made')
    config = Config.fromfile(TINY_RETINANET)
    override_data_root(config, str(tiny_coco))
    seeded(recipe(config, dict(ckd=CKD), str(teacher_file))).dump(str(folder / 'recipe.py'))
    options = ['--out', str(folder / 'store'), '--shard-samples', '6', '--boxes']
    assert cache.main([str(folder / 'recipe.py'), *options]) == 0
    return folder / 'store'


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage; it lies where `command` writes."""
    return Path(shutil.copytree(made, tmp_path / 'store'))


def build(config: Config) -> Distiller:
    """The recipe's model, as a run begins with it."""
    names = config.get('metainfo', {}).get('classes', ('blue', 'green'))
    fresh_hub(dataset_meta=dict(classes=names))
    torch.manual_seed(0)
    init_default_scope(config.default_scope)
    model = dict(config.model)
    if 'data_preprocessor' in config:
        model['data_preprocessor'] = config.data_preprocessor
    model = MODELS.build(model)
    torch.manual_seed(0)
    model.init_weights()
    return model.train()


def samples(config: Config, *pairs: tuple[int, int]) -> dict[str, Any]:
    """A batch of (sample, view)."""
    init_default_scope(config.default_scope)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    return pseudo_collate([dataset[pair] for pair in pairs])


def step(model: Distiller, data: dict[str, Any]) -> tuple[dict[str, float], torch.Tensor]:
    """The distillation losses of a batch and their gradient."""
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    named = {name: losses[f'loss_{name}'] for name in model.distill_losses}
    parameters = [each for each in model.student.parameters() if each.requires_grad]
    gradients = torch.autograd.grad(sum(named.values()), parameters, allow_unused=True)
    flat = torch.cat([each.flatten() for each in gradients if each is not None])
    return {name: float(value.detach()) for name, value in named.items()}, flat


def begin(config: Config) -> Distiller:
    """What a run does before its first step."""
    model = build(config)
    model.match_classes()
    dataset = DATASETS.build(config.train_dataloader.dataset)
    model.teacher.check_data(data_key(dataset, config))
    return model


# ---- what a stored teacher says is what the live one says


def test_losses_and_gradients_are_those_of_the_live_teacher_to_half_precision(
    detector: Config, made: Path
) -> None:
    top = dict(type='mmkd.TeacherTopK', k=5)  # fewer than are stored
    detector.model.losses = ConfigDict(
        ckd=CKD,
        qfl=dict(type='mmkd.QFLKDLoss', samples=top),
        giou=dict(type='mmkd.BoxGIoULoss', samples=top),
    )
    data = samples(detector, (3, 1), (6, 0))
    live, live_gradient = step(build(detector), data)
    found, gradient = step(build(stored(detector, made)), data)
    assert live['ckd'] > 0
    assert live['giou'] > 0
    for name, value in live.items():
        assert found[name] == pytest.approx(value, rel=2e-3)
    assert torch.dist(gradient, live_gradient) < 5e-3 * live_gradient.norm()


def test_a_classifiers_losses_are_those_of_its_live_teacher_and_it_trains(
    command: Command, classifier: Config, tmp_path: Path
) -> None:
    code, said = command(classifier)
    assert code == 0, said
    data = samples(classifier, (3, 1), (6, 0))
    live, live_gradient = step(build(classifier), data)
    found, gradient = step(build(stored(classifier, tmp_path / 'store')), data)
    assert found['kd'] == pytest.approx(live['kd'], rel=1e-2)
    assert torch.dist(gradient, live_gradient) < 1e-2 * live_gradient.norm()
    assert train(stored(classifier, tmp_path / 'store'), tmp_path / 'run').iter == 4


def test_rows_lie_where_they_lay_when_a_batch_pads_more(detector: Config, made: Path) -> None:
    model = build(stored(detector, made))
    rows, _ = model.teacher.store.read(3, 1)
    data = model.data_preprocessor(samples(detector, (3, 1)), True)
    data['inputs'] = torch.nn.functional.pad(data['inputs'], (0, 64, 0, 32))
    _, records = model._tapped.loss(**data)
    seen = {'teacher': model.teacher.on(**data, classes=ClassMap())}
    (table,) = tables(
        model._tapped.step(**data, records=records, teachers=seen, progress=Progress())
    )
    index = table.teacher_top(8)
    places = {
        tuple(place): row
        for place, row in zip(rows['places'].tolist(), rows['logits'], strict=True)
    }
    for place, row in zip(table.places(index).tolist(), table.teacher_logits(index), strict=True):
        assert torch.equal(row, places[tuple(place)].float())


def test_the_teacher_does_not_run_and_has_no_weights(detector: Config, made: Path) -> None:
    model = build(stored(detector, made))
    calls = TeacherCalls(model)
    step(model, samples(detector, (0, 0)))
    assert calls.backbone == calls.head == 0
    assert sum(each.numel() for each in model.teacher.model.parameters()) == 0


# ---- a store of something else


def another_teacher(config: Config) -> None:
    path = config.model.teacher.checkpoint
    checkpoint = torch.load(path)
    checkpoint['state_dict']['bbox_head.retina_cls.bias'] += 1
    config.model.teacher.checkpoint = str(Path(config.work) / 'other.pth')
    torch.save(checkpoint, config.model.teacher.checkpoint)


def another_config_of_the_teacher(config: Config) -> None:
    config.model.teacher.config.model.backbone.style = 'caffe'


def another_normalisation(config: Config) -> None:
    config.model.teacher.config.model.data_preprocessor.mean = [0, 0, 0]


def another_padding(config: Config) -> None:
    config.model.student.data_preprocessor.pad_size_divisor = 64


def another_pipeline(config: Config) -> None:
    config.train_dataloader.dataset.dataset.pipeline[3].prob = 0.7


def another_number_of_views(config: Config) -> None:
    config.train_dataloader.dataset.views = 3


def another_seed(config: Config) -> None:
    config.train_dataloader.dataset.seed = 3


def a_pipeline_that_is_switched(config: Config) -> None:
    pipeline = config.train_dataloader.dataset.dataset.pipeline
    switch = dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=pipeline)
    config.custom_hooks.append(ConfigDict(switch))


def no_views(config: Config) -> None:
    config.train_dataloader.dataset = config.train_dataloader.dataset.dataset


def other_classes(config: Config) -> None:
    names = list(config.metainfo.classes)
    config.metainfo.classes = [*names[:-1], 'moon']


def annotations(config: Config, change: Callable[[Any], None]) -> None:
    dataset = config.train_dataloader.dataset.dataset
    content = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())
    change(content)
    path = Path(config.work) / Path(dataset.ann_file).name
    path.write_text(json.dumps(content))
    dataset.ann_file = str(path)


def another_annotation_file_of_the_same_name(config: Config) -> None:
    def change(content: Any) -> None:
        content['annotations'][0]['bbox'][2] -= 1

    annotations(config, change)


def images_in_another_order(config: Config) -> None:
    annotations(config, lambda content: content['images'].reverse())


@pytest.mark.parametrize(
    ('change', 'field'),
    [
        (another_teacher, 'teacher.checkpoint'),
        (another_config_of_the_teacher, 'teacher.config'),
        (another_normalisation, 'teacher.config'),
        (another_padding, 'padding'),
        (another_pipeline, 'pipeline'),
        (another_number_of_views, 'views'),
        (another_seed, 'seed'),
        (no_views, 'train_dataloader.dataset'),
        (a_pipeline_that_is_switched, 'custom_hooks'),
        (other_classes, 'classes'),
        (another_annotation_file_of_the_same_name, 'annotations'),
        (images_in_another_order, 'annotations'),
    ],
)
def test_a_store_of_something_else_is_refused_with_the_field_that_differs(
    detector: Config, made: Path, tmp_path: Path, change: Callable[[Config], None], field: str
) -> None:
    detector.work = str(tmp_path)
    begin(stored(detector, made))
    change(detector)
    with pytest.raises(StoreError, match=rf'{field}: '):
        begin(stored(detector, made))


@pytest.mark.parametrize('change', [another_pipeline, another_seed, images_in_another_order])
def test_rows_of_other_pixels_are_refused_even_if_nobody_compared_the_data(
    detector: Config, made: Path, tmp_path: Path, change: Callable[[Config], None]
) -> None:
    detector.work = str(tmp_path)
    change(detector)
    model = build(stored(detector, made))
    with pytest.raises(StoreError, match='pixels of view'):
        step(model, samples(detector, *((index, index % 2) for index in range(8))))


def test_pixels_of_the_last_step_are_looked_at_when_training_ends(
    detector: Config, made: Path
) -> None:
    """On a GPU they arrive after it."""
    model = build(stored(detector, made))
    event = Mock(query=lambda: False)
    model.teacher._pending.append((event, torch.tensor([9.0]), ['view 0 of sample 3']))
    step(model, samples(detector, (3, 1)))
    event.synchronize.assert_not_called()
    with pytest.raises(StoreError, match='view 0 of sample 3 are not those'):
        TeacherStoreHook().after_train(SimpleNamespace(model=model))


def test_moved_data_and_another_student_use_the_same_store(
    detector: Config, made: Path, tmp_path: Path, tiny_coco: Path
) -> None:
    moved = shutil.copytree(tiny_coco, tmp_path / 'moved')
    detector.train_dataloader.dataset.dataset.data_root = str(moved)
    detector.model.student.backbone.norm_eval = False
    detector.model.student.data_preprocessor.mean = [100.0, 100.0, 100.0]
    detector.model.losses.ckd.samples.k = 4
    model = begin(stored(detector, made))
    step(model, samples(detector, (0, 0)))


# ---- what a store cannot answer


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.TeacherTopK', k=9)),
        dict(type='mmkd.CKDLoss', samples=dict(type='mmkd.PositivesAndTeacherTopK', k=8)),
        dict(type='mmkd.QFLKDLoss'),
        dict(type='mmkd.BoxGIoULoss'),
        dict(type='mmkd.PKDLoss'),
    ],
)
def test_a_loss_that_asks_for_more_is_refused_by_name_or_answered_by_the_live_teacher(
    detector: Config, made: Path, loss: dict[str, Any]
) -> None:
    detector.model.losses = ConfigDict(ckd=CKD, more=loss)
    with pytest.raises(ValueError, match=r'model\.losses\.more: .*store_miss='):
        build(stored(detector, made))
    data = samples(detector, (3, 1), (6, 0))
    live, _ = step(build(detector), data)
    model = build(stored(detector, made, store_miss='live'))
    calls = TeacherCalls(model)
    found, _ = step(model, data)
    assert found == pytest.approx(live, rel=2e-3)
    assert calls.backbone == 1
    assert calls.head == (loss['type'] != 'mmkd.PKDLoss')  # beside it, CKD reads its rows


def test_store_miss_is_checked(detector: Config, made: Path) -> None:
    with pytest.raises(ValueError, match='store_miss'):
        build(stored(detector, made, store_miss='Live'))


# ---- damage


def truncated(store: Path) -> str:
    path = store / 'shard-00001.safetensors'
    path.write_bytes(path.read_bytes()[:-8])
    return path.name


def flipped(store: Path, name: str = 'shard-00001.safetensors') -> str:
    path = store / name
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    return name


def missing(store: Path) -> str:
    (store / 'shard-00001.safetensors').unlink()
    return 'shard-00001.safetensors'


def without_manifest(store: Path) -> str:
    (store / 'manifest.json').unlink()
    return 'manifest.json'


def flipped_manifest(store: Path) -> str:
    return flipped(store, 'manifest.json')


def half_a_manifest(store: Path) -> str:
    path = store / 'manifest.json'
    path.write_bytes(path.read_bytes()[:300])
    return 'manifest.json'


DAMAGE = [truncated, flipped, missing, without_manifest, flipped_manifest, half_a_manifest]


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_store_is_refused_by_the_file_and_mended_by_the_command(
    command: Command, detector: Config, store: Path, made: Path, damage: Callable[[Path], str]
) -> None:
    name = damage(store)
    with pytest.raises(StoreError, match=rf'{name}.*cache_teacher'):
        step(build(stored(detector, store)), samples(detector, (6, 0)))
    before = {path.name: path.stat().st_mtime_ns for path in store.glob('shard-*')}
    code, said = command(detector, '--shard-samples', '6', '--boxes')
    assert code == 0, said
    for path in made.glob('shard-*'):
        assert (store / path.name).read_bytes() == path.read_bytes()
        kept = (store / path.name).stat().st_mtime_ns == before.get(path.name)
        assert kept == (path.name != name)
    step(build(stored(detector, store)), samples(detector, (6, 0)))


def test_a_folder_that_is_no_store_is_named(detector: Config, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match='nowhere'):
        build(stored(detector, tmp_path / 'nowhere'))


# ---- making one


def test_it_says_what_a_store_holds(command: Command, detector: Config, store: Path) -> None:
    code, said = command(detector, '--info')
    assert code == 0
    assert 'logits and boxes of the top 8; 2 views of 8 samples, 128 rows in 3 files' in said
    assert 'teacher.checkpoint: ' in said


def test_verifying_finds_rows_that_are_not_the_teachers(
    command: Command, detector: Config, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = command(detector, '--verify', '5')
    assert code == 0
    assert '5 samples compared' in said
    read = Store.read

    def changed(self: Store, index: int, view: int) -> Any:
        rows, single = read(self, index, view)
        return {**rows, 'logits': rows['logits'] + 1}, single

    monkeypatch.setattr(Store, 'read', changed)
    code, said = command(detector, '--verify', '5')
    assert code == 1
    assert 'differs from the store' in said


def test_a_run_that_was_killed_goes_on_and_is_no_store_before(
    command: Command, detector: Config, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'store'
    replace, names = os.replace, []

    def killed(source: Any, target: Any) -> None:
        if names:
            raise KeyboardInterrupt
        names.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        command(detector, '--shard-samples', '6', '--boxes')
    monkeypatch.undo()
    (folder / '.shard-00001.safetensors.77').write_bytes(b'half')  # SIGKILL leaves it
    assert [path.name for path in folder.glob('shard-*')] == names
    with pytest.raises(StoreError, match=r'manifest\.json: it is not finished'):
        build(stored(detector, folder))
    kept = (folder / names[0]).stat().st_mtime_ns
    code, said = command(detector, '--shard-samples', '6', '--boxes')
    assert code == 0, said
    assert (folder / names[0]).stat().st_mtime_ns == kept
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in made.iterdir()
    }


def test_a_disk_that_takes_no_more_is_named_and_what_is_whole_is_kept(
    command: Command, detector: Config, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncated(store)

    def refused(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', refused)
        code, said = command(detector, '--shard-samples', '6', '--boxes')
    assert code == 2
    assert f'--out: {os.strerror(errno.ENOSPC)}' in said
    assert not list(store.glob('.shard*'))
    code, said = command(detector, '--shard-samples', '6', '--boxes')
    assert code == 0, said
    build(stored(detector, store))


def test_what_does_not_fit_on_the_disk_is_not_begun(
    command: Command, detector: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=1000))
    code, said = command(detector)
    assert code == 2
    assert 'needs about' in said
    assert not list((tmp_path / 'store').glob('shard-*'))


def test_two_writers_do_not_meet(command: Command, detector: Config, store: Path) -> None:
    lock = (
        'import fcntl, sys, time; file = open(sys.argv[1], "a+"); fcntl.lockf(file, fcntl.LOCK_EX); '
        'print("held", flush=True); time.sleep(60)'
    )
    arguments = [sys.executable, '-c', lock, str(store / '.mmkd.lock')]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            code, said = command(detector)
        finally:
            holder.kill()
    assert code == 2
    assert '--out' in said


def test_a_store_of_something_else_is_not_written_over(
    command: Command, detector: Config, store: Path
) -> None:
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    detector.train_dataloader.dataset.seed = 3
    code, said = command(detector)
    assert code == 2
    assert 'seed: the store has 0, this run 3' in said
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


def test_positives_of_a_static_assigner_are_kept_for_the_same_assigner_only(
    command: Command, detector: Config, tmp_path: Path
) -> None:
    samples_of = dict(type='mmkd.PositivesAndTeacherTopK', k=4)
    detector.model.losses = ConfigDict(
        ckd=dict(CKD, samples=samples_of), giou=dict(type='mmkd.BoxGIoULoss')
    )
    code, said = command(detector)
    assert code == 0, said
    data = samples(detector, (3, 1), (6, 0))
    live, _ = step(build(detector), data)
    found, _ = step(build(stored(detector, tmp_path / 'store')), data)
    assert live['giou'] > 0
    assert found == pytest.approx(live, rel=2e-3)
    model = build(stored(detector, tmp_path / 'store'))
    model.student.bbox_head.assigner.pos_iou_thr = 0.2  # as if by the rounding of another machine
    with pytest.raises(FloatingPointError, match=r'teacher\.store has no rows'):
        step(model, data)
    detector.model.student.train_cfg.assigner.pos_iou_thr = 0.3
    with pytest.raises(ValueError, match=r'losses\.ckd: .*assignment'):
        build(stored(detector, tmp_path / 'store'))
    before = {path.name: path.read_bytes() for path in (tmp_path / 'store').iterdir()}
    code, said = command(detector)
    assert code == 2
    assert 'holds the positives of assignment' in said
    assert {path.name: path.read_bytes() for path in (tmp_path / 'store').iterdir()} == before


def test_images_without_positives_are_verified(command: Command, detector: Config) -> None:
    detector.model.losses.ckd.samples = dict(type='mmkd.Positives')
    detector.model.student.train_cfg.assigner.update(pos_iou_thr=1.0, min_pos_iou=1.0)
    assert command(detector)[0] == 0
    code, said = command(detector, '--verify', '2')
    assert code == 0, said
    assert '2 samples compared: they differ by at most 0' in said


def test_other_files_are_not_touched(command: Command, detector: Config, tmp_path: Path) -> None:
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / 'thesis.tex').write_text('')
    code, said = command(detector)
    assert code == 2
    assert 'thesis.tex' in said


def test_images_that_are_mixed_after_the_data_set_are_refused(
    command: Command, classifier: Config
) -> None:
    classifier.model.student.train_cfg = dict(augments=dict(type='Mixup', alpha=0.8))
    classifier.data_preprocessor.num_classes = 2
    code, said = command(classifier)
    assert code == 2
    assert 'batch_augments: ' in said


def test_processes_with_other_numbers_of_batches_do_not_wait_for_each_other(
    detector: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ATSS's own loss, whose assigner says which samples are positive, sums over the processes."""
    for model in (detector.model.student, detector.model.teacher.config.model):
        head = dict(type='ATSSHead', norm_cfg=dict(type='BN'), loss_bbox=dict(type='GIoULoss'))
        model.bbox_head.update(head)
        model.train_cfg.assigner = dict(type='ATSSAssigner', topk=9)
    detector.model.teacher.checkpoint = 'random_init'
    detector.model.losses.ckd.samples = dict(type='mmkd.PositivesAndTeacherTopK', k=4)
    detector.dump(str(tmp_path / 'recipe.py'))
    fresh_hub()
    args = cache.parse_args([str(tmp_path / 'recipe.py')])
    source = cache.build(detector, args)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *_: 2)
    ((rows, _),) = source.compute([source.dataset[0, 0]])
    assert len(rows['logits']) >= 4


def test_several_processes_write_the_same_store(
    detector: Config, made: Path, tmp_path: Path
) -> None:
    detector.dump(str(tmp_path / 'recipe.py'))
    argv = [str(tmp_path / 'recipe.py'), '--out', str(tmp_path / 'store')]
    argv += ['--shard-samples', '6', '--boxes', '--launcher', 'pytorch']
    assert in_two_processes('cache', argv, tmp_path / 'output') == [0, 0]
    for path in made.glob('[!.]*'):
        assert (tmp_path / 'store' / path.name).read_bytes() == path.read_bytes()


# ---- training


def test_a_resumed_run_ends_as_one_that_never_stopped_and_writes_nothing_to_the_store(
    detector: Config, store: Path, tmp_path: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    config = stored(detector, store)
    config.custom_hooks.append(dict(type='mmkd.ResumeStateHook'))
    config.train_cfg.val_interval = 9
    config.train_cfg.max_epochs = 2
    whole = weights(train(config, tmp_path / 'whole').model)
    config.resume = True
    config.load_from = str(tmp_path / 'whole' / 'epoch_1.pth')
    assert same(weights(train(config, tmp_path / 'resumed').model), whole)
    assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == before
