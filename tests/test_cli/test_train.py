from __future__ import annotations

import itertools
import json
import pickle
import re
import shutil
import urllib.error
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures('clean_environment')


@pytest.fixture
def train() -> ModuleType:
    return import_module('mmkd.cli.train')


@pytest.fixture
def run_tiny(
    train: ModuleType,
    tiny_coco: Path,
    fresh_names: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., int]:
    """Train the tiny RetinaNet in this process: run_tiny(work_dir, arguments, config options)."""
    # It would start compilers to ask for their versions.
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)

    def run(
        work_dir: Path,
        *arguments: str,
        options: tuple[str, ...] = (),
        config: str = 'tiny_retinanet',
    ) -> int:
        return train.main(
            [
                str(REPOSITORY / 'tests' / 'data' / f'{config}.py'),
                *arguments,
                '--work-dir',
                str(work_dir),
                '--cfg-options',
                f'data_root={tiny_coco}',
                *fresh_names(),
                *options,
            ]
        )

    return run


def scalars(work_dir: Path) -> list[dict[str, float]]:
    """The training and validation records of the last run in a folder."""
    (last,) = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1:]
    return [json.loads(line) for line in last.read_text().splitlines()]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=False)['state_dict']


def test_a_plain_config_is_trained_from_any_folder(trained: Any) -> None:
    *steps, validation = scalars(trained.work_dir)
    assert [record['iter'] for record in steps] == [1, 2, 3, 4]
    assert all(record['loss_bbox'] > 0 for record in steps)
    assert 0 <= validation['coco/bbox_mAP'] <= 1
    assert trained.checkpoint.is_file()
    assert (trained.work_dir / 'last_checkpoint').read_text() == str(trained.checkpoint)


def test_the_packages_below_say_nothing_that_no_user_can_act_on(trained: Any) -> None:
    for noise in ('OneDL', 'faster_coco_eval', 'will be deprecated', 'Warning: '):
        assert noise not in trained.log, trained.log
    assert 'Checkpoints will be saved to' in trained.log


def test_the_command_trains_a_student_that_is_no_more_than_a_student(
    trained: Any, run_tiny: Callable[..., int], tmp_path: Path
) -> None:
    teacher = (
        f'model.teacher.config={trained.config}',
        f'model.teacher.checkpoint={trained.checkpoint}',
    )

    assert run_tiny(tmp_path, config='tiny_ckd', options=teacher) == 0

    *steps, _ = scalars(tmp_path)
    assert all(record['loss_ckd'] > 0 for record in steps)
    assert weights(tmp_path / 'epoch_1.pth').keys() == weights(trained.checkpoint).keys()


def test_a_classifier_trains_and_is_tested_with_flips_and_pictures(
    train: ModuleType,
    tiny_imagenet: Path,
    fresh_names: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    config = str(REPOSITORY / 'tests' / 'data' / 'tiny_classifier.py')
    options = ['--cfg-options', f'data_root={tiny_imagenet}']

    trained = train.main([config, '--work-dir', str(tmp_path), *options, *fresh_names()])
    exit_codes = [
        import_module('mmkd.cli.test').main(
            [
                config,
                str(tmp_path / 'epoch_1.pth'),
                '--work-dir',
                str(tmp_path / 'test'),
                *arguments,
                *options,
                *fresh_names(),
            ]
        )
        for arguments in (
            ['--tta', '--out', str(tmp_path / 'predictions.pkl')],
            ['--show-dir', str(tmp_path / 'painted')],
        )
    ]

    assert trained == 0
    assert exit_codes == [0, 0]
    assert (tmp_path / 'painted').is_dir()
    accuracies = [
        record['accuracy/top1'] for record in scalars(tmp_path) if 'accuracy/top1' in record
    ]
    assert len(accuracies) == 1
    assert len(pickle.loads((tmp_path / 'predictions.pkl').read_bytes())) == 8


def test_a_resumed_run_ends_like_one_that_was_never_stopped(
    run_tiny: Callable[..., int], tmp_path: Path
) -> None:
    # Without random flips the weights depend on the order of images only, which follows the epoch.
    fixed = ('train_dataloader.dataset.pipeline.3.prob=0.0',)
    two_epochs = (*fixed, 'train_cfg.max_epochs=2')
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'

    run_tiny(whole, options=two_epochs)
    run_tiny(parts, options=fixed)
    run_tiny(tmp_path / 'named', '--resume', str(parts / 'epoch_1.pth'), options=two_epochs)
    run_tiny(parts, '--resume', options=two_epochs)

    expected, named, resumed = (
        weights(folder / 'epoch_2.pth') for folder in (whole, tmp_path / 'named', parts)
    )
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert all(torch.equal(named[name], expected[name]) for name in expected)
    assert not torch.equal(
        weights(parts / 'epoch_1.pth')['bbox_head.retina_cls.weight'],
        resumed['bbox_head.retina_cls.weight'],
    )
    epochs = [record['epoch'] for record in scalars(parts) if 'epoch' in record]
    # MMEngine names the folder by the second: two short runs may have the same one.
    assert epochs in ([2] * 4, [1] * 4 + [2] * 4)


def test_the_checkpoints_of_another_method_are_not_continued(
    trained: Any, run_tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained.checkpoint, tmp_path / 'epoch_1.pth')
    teacher = ('model.teacher.checkpoint=random_init', 'train_cfg.max_epochs=2')

    assert run_tiny(tmp_path, '--resume', config='tiny_ckd', options=teacher) == 2

    assert 'model was a plain model, is a distillation' in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob('[!.]*')] == ['epoch_1.pth']


def test_a_checkpoint_of_other_shapes_is_not_continued(
    trained: Any, run_tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ('model.backbone.base_channels=16', 'train_cfg.max_epochs=2')
    assert run_tiny(tmp_path, '--resume', str(trained.checkpoint), options=options) == 2
    assert f'--resume: {trained.checkpoint} does not fit' in capsys.readouterr().err
    assert not list(tmp_path.glob('*.pth'))


def test_the_best_checkpoint_is_kept_also_by_a_resumed_run(
    run_tiny: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = itertools.count()
    monkeypatch.setattr(CocoMetric, 'compute_metrics', lambda *_: dict(bbox_mAP=next(scores) / 9))
    options = (
        'default_hooks.checkpoint.save_best=auto',
        'default_hooks.checkpoint.max_keep_ckpts=1',
    )

    assert run_tiny(tmp_path, options=(*options, 'train_cfg.max_epochs=2')) == 0
    assert run_tiny(tmp_path, '--resume', options=(*options, 'train_cfg.max_epochs=3')) == 0

    assert sorted(path.name for path in tmp_path.glob('*.pth')) == [
        'best_coco_bbox_mAP_epoch_3.pth',
        'epoch_3.pth',
    ]
    last = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    best = last['message_hub']['runtime_info']['best_ckpt']
    assert Path(best).name == 'best_coco_bbox_mAP_epoch_3.pth'


@pytest.mark.parametrize(
    ('arguments', 'resume', 'load_from'),
    [([], False, 'start.pth'), (['--resume'], True, None), (['--resume', 'a.pth'], True, 'a.pth')],
)
def test_resume_says_where_to_continue(
    train: ModuleType, arguments: list[str], resume: bool, load_from: str | None
) -> None:
    cfg = Config(dict(resume=False, load_from='start.pth'))
    train.apply_training_options(cfg, train.parse_args(['config.py', *arguments]))
    assert cfg.resume is resume
    assert cfg.load_from == load_from


def test_amp_and_auto_scale_lr_reach_the_config(train: ModuleType, tiny_config: Config) -> None:
    train.apply_training_options(
        tiny_config, train.parse_args(['config.py', '--amp', '--auto-scale-lr'])
    )
    assert tiny_config.optim_wrapper.type == 'AmpOptimWrapper'
    assert tiny_config.optim_wrapper.loss_scale == 'dynamic'
    assert tiny_config.auto_scale_lr.enable is True


def test_auto_scale_lr_scales_to_the_batch_that_is_run(
    run_tiny: Callable[..., int], tmp_path: Path
) -> None:
    run_tiny(
        tmp_path,
        '--auto-scale-lr',
        options=('val_dataloader=None', 'val_cfg=None', 'val_evaluator=None'),
    )
    # 2 images per step where the config's 0.01 is meant for 16.
    assert scalars(tmp_path)[0]['lr'] == pytest.approx(0.01 * 2 / 16)


def test_auto_scale_lr_without_its_base_is_refused(
    run_tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tiny(tmp_path, '--auto-scale-lr', options=('auto_scale_lr=None',)) == 2
    said = capsys.readouterr().err
    assert 'Not started: 1 problem.' in said
    assert 'auto_scale_lr.enable and auto_scale_lr.base_batch_size' in said


def test_coco_without_coco_and_network_is_one_clear_message(
    train: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError('no network')

    monkeypatch.setattr('urllib.request.urlopen', unreachable)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.chdir(tmp_path)

    assert train.main([str(REPOSITORY / 'configs' / 'ckd' / 'retinanet_r101_r50.py')]) == 2

    message = capsys.readouterr().err
    assert message.startswith('Not started: ')
    for text in (
        'data/coco/annotations/instances_train2017.json',
        'annotations_trainval2017.zip',
        '--cfg-options data_root=',
        'python tools/make_shapes.py data/shapes',
    ):
        assert text in message
    assert not (tmp_path / 'work_dirs').exists()


BROKEN = {
    'no config': ('config=None', r'model\.teacher\.config is not set'),
    'a config of another zoo': (
        'config=mmdet::gone/gone.py',
        r'model\.teacher\.config: mmdet::gone',
    ),
    'a config with a mistake': ('config={folder}/mistake.py', r"model\.teacher\.config: .*'foo'"),
    'no checkpoint': ('checkpoint=None', r'model\.teacher\.checkpoint is not set'),
    'a folder': ('checkpoint={folder}', r'model\.teacher\.checkpoint: .* is a folder'),
    'a truncated file': (
        'checkpoint={folder}/short.pth',
        r'model\.teacher\.checkpoint: .*truncated',
    ),
    'an unsafe file': ('checkpoint={folder}/unsafe.pth', r'model\.teacher\.allow_pickle=True'),
    'a list': ('checkpoint={folder}/list.pth', r'model\.teacher\.checkpoint: .* holds a list'),
    'other weights': ('checkpoint={folder}/other.pth', r'does not fit model\.teacher\.config'),
    'a misspelt option': (
        'chekpoint=a.pth',
        r"model\.teacher: .*'chekpoint'; its options are: config",
    ),
    'other classes': ('class_names=[a,b,c,d,e,f,g,h,i,j]', r'was trained on other classes'),
    'a misspelt part': ('', r"'tacher'"),
    'a misspelt model': ('', r'RetinaNett is not in the'),
}


@pytest.mark.parametrize('what', BROKEN)
def test_a_teacher_that_cannot_be_is_one_message(
    what: str,
    run_tiny: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / 'mistake.py').write_text('model = foo')
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    torch.save(dict(state_dict=dict(weight=torch.zeros(1000))), tmp_path / 'other.pth')
    (tmp_path / 'short.pth').write_bytes((tmp_path / 'other.pth').read_bytes()[:1000])
    torch.save(dict(state_dict={}, meta=Path('object')), tmp_path / 'unsafe.pth')
    option, message = BROKEN[what]
    options = {
        'a misspelt part': 'model.tacher.x=1',
        'a misspelt model': 'model.student.type=RetinaNett',
    }
    option = options.get(what) or f'model.teacher.{option.format(folder=tmp_path)}'
    random_teacher = (
        f'model.teacher.config={REPOSITORY}/tests/data/tiny_retinanet.py',
        'model.teacher.checkpoint=random_init',
    )

    assert run_tiny(tmp_path / 'run', config='tiny_ckd', options=(*random_teacher, option)) == 2

    said = capsys.readouterr().err
    assert 'Not started: 1 problem.' in said
    assert re.search(message, said)


def test_seeded_views_within_another_data_set_are_named_before_the_first_step(
    train: ModuleType,
    tiny_config: Config,
    tmp_path: Path,
    fresh_names: Callable[[], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    loader = tiny_config.train_dataloader
    views = dict(type='mmkd.SeededViews', dataset=loader.dataset)
    loader.dataset = dict(type='RepeatDataset', times=2, dataset=views)
    tiny_config.custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
    tiny_config.dump(str(tmp_path / 'config.py'))
    options = ['--work-dir', str(tmp_path / 'run'), '--cfg-options', *fresh_names()]
    assert train.main([str(tmp_path / 'config.py'), *options]) == 2
    assert 'train_dataloader.dataset is RepeatDataset: let SeededViews' in capsys.readouterr().err


def test_a_mistake_of_the_code_keeps_its_traceback(
    train: ModuleType,
    run_tiny: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistake(*_: Any) -> None:
        raise ValueError('a mistake')

    monkeypatch.setattr(train, 'build_runner', mistake)
    with pytest.raises(ValueError, match='a mistake'):
        run_tiny(tmp_path)


def test_what_goes_wrong_after_the_first_step_keeps_its_traceback(
    train: ModuleType,
    run_tiny: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = train.FirstStep()
    step.after_train_iter(None, 0)
    monkeypatch.setattr(train, 'FirstStep', lambda: step)
    teacher = (
        f'model.teacher.config={REPOSITORY}/tests/data/tiny_retinanet.py',
        'model.teacher.checkpoint=None',
    )
    with pytest.raises(ValueError, match=r'model\.teacher\.checkpoint is not set'):
        run_tiny(tmp_path, config='tiny_ckd', options=teacher)


def test_a_plain_config_is_distilled_without_a_recipe(
    trained: Any, run_tiny: Callable[..., int], tmp_path: Path
) -> None:
    method = ['--teacher', f'{trained.config}={trained.checkpoint}', '--losses', 'ckd+qfl_kd']
    assert run_tiny(tmp_path / 'run', *method) == 0
    *steps, _ = scalars(tmp_path / 'run')
    assert all(record['loss_ckd'] > 0 and record['loss_qfl_kd'] > 0 for record in steps)

    assert run_tiny(tmp_path / 'printed', *method, '--print-recipe', str(tmp_path / 'it.py')) == 0
    assert not (tmp_path / 'printed').exists()
    (kept,) = (tmp_path / 'run').glob('*.py')
    printed, trained_with = (Config.fromfile(path) for path in (tmp_path / 'it.py', kept))
    for key in trained_with.keys() - {'work_dir', 'experiment_name', 'visualizer'}:
        assert printed[key] == trained_with[key], key


@pytest.mark.parametrize('file', ['recipe', 'no/such/folder/recipe.py'])
def test_a_recipe_that_cannot_be_written_is_named(
    file: str,
    run_tiny: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_tiny(tmp_path, '--print-recipe', str(tmp_path / file)) == 2
    assert f'--print-recipe: {tmp_path / file}' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
