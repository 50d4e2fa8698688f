from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmkd import checkpoints
from mmkd.teachers import RANDOM_INIT
from mmkd.utils import (
    PreflightError,
    annotations,
    check_before_testing,
    check_before_training,
    preflight,
)

BACKBONE_INIT = dict(type='Pretrained', checkpoint='torchvision://resnet18')
RESNET18 = 'https://download.pytorch.org/models/resnet18-f37072fd.pth'


@pytest.fixture(autouse=True)
def _hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '127.0.0.1')


@pytest.fixture
def cfg(tiny_config: Config, tmp_path: Path) -> Config:
    """A plain config that lacks nothing."""
    tiny_config.work_dir = str(tmp_path / 'work')
    tiny_config.launcher = 'none'
    return tiny_config


@pytest.fixture
def recipe(cfg: Config, tmp_path: Path) -> Config:
    """A distillation of the plain config that lacks nothing."""
    config, checkpoint = tmp_path / 'teacher.py', tmp_path / 'teacher.pth'
    config.touch()
    checkpoint.touch()
    cfg.model = dict(
        type='mmkd.Distiller',
        student=cfg.model,
        teacher=dict(config=str(config), checkpoint=str(checkpoint)),
    )
    return cfg


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError('no network')

    monkeypatch.setattr(urllib.request, 'urlopen', unreachable)


@contextlib.contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A local web server; its address."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{web.server_port}'
        web.shutdown()
        thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which a local web server shows it."""
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with serving(handler) as address:
        yield folder, address


def problems(cfg: Config) -> list[str]:
    with pytest.raises(PreflightError, match='Not started') as caught:
        check_before_training(cfg)
    return caught.value.problems


def test_a_complete_config_passes_and_leaves_no_trace(cfg: Config) -> None:
    check_before_training(cfg)
    check_before_testing(cfg)
    assert not Path(cfg.work_dir).exists()


def test_a_complete_recipe_passes(recipe: Config) -> None:
    check_before_training(recipe)


def test_coco_that_is_not_there_says_what_to_get_and_where_to_put_it(cfg: Config) -> None:
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = 'nowhere/coco/'
    cfg.val_evaluator.ann_file = 'nowhere/coco/annotations/instances_val2017.json'

    with pytest.raises(PreflightError, match='This is COCO 2017') as caught:
        check_before_training(cfg)

    (problem,) = caught.value.problems
    for text in (
        'nowhere/coco/annotations/instances_train2017.json  (train_dataloader.dataset.ann_file)',
        'nowhere/coco/train2017/  (train_dataloader.dataset.data_prefix.img)',
        'nowhere/coco/annotations/instances_val2017.json  (val_dataloader.dataset.ann_file)',
        'nowhere/coco/val2017/  (val_dataloader.dataset.data_prefix.img)',
        'train2017.zip',
        'val2017.zip',
        'annotations_trainval2017.zip',
        str(Path('nowhere/coco').absolute()),
        '--cfg-options data_root=',
    ):
        assert text in problem
    assert problem.count('instances_val2017.json') == 1
    assert 'bash tools/quickstart.sh' in str(caught.value)


def test_only_the_data_of_the_run_is_asked_for(cfg: Config) -> None:
    cfg.test_dataloader.dataset.data_root = 'nowhere/'
    check_before_training(cfg)
    with pytest.raises(PreflightError, match=r'test_dataloader\.dataset\.ann_file'):
        check_before_testing(cfg)


def test_datasets_inside_wrappers_are_checked(cfg: Config) -> None:
    broken = dict(cfg.train_dataloader.dataset, ann_file='gone.json')
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[cfg.train_dataloader.dataset, broken]),
    )

    (problem,) = problems(cfg)

    assert '(train_dataloader.dataset.dataset.datasets.1.ann_file)' in problem
    assert 'datasets.0' not in problem


def test_data_that_is_elsewhere_or_fetches_itself_is_not_asked_for(cfg: Config) -> None:
    cfg.train_dataloader.dataset.update(data_root='s3://bucket/coco/')
    cfg.val_dataloader.dataset = dict(type='mmpretrain.CIFAR100', data_root='nowhere/cifar')
    check_before_training(cfg)

    cfg.val_dataloader.dataset.download = False
    assert 'nowhere/cifar' in problems(cfg)[0]


@pytest.mark.parametrize('parsed_bytes', [1 << 20, 10], ids=['parsed', 'too long to parse'])
def test_truncated_annotations_are_named(
    parsed_bytes: int, cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotations, 'PARSED_JSON_BYTES', parsed_bytes)
    dataset = cfg.train_dataloader.dataset
    whole = (Path(dataset.data_root) / dataset.ann_file).read_bytes()
    dataset.ann_file = str(tmp_path / 'annotations.json')
    Path(dataset.ann_file).write_bytes(whole)
    check_before_training(cfg)
    Path(dataset.ann_file).write_bytes(whole[: len(whole) // 2])

    (problem,) = problems(cfg)

    assert problem.startswith('train_dataloader.dataset.ann_file: ')
    assert f'{dataset.ann_file}: it is truncated or damaged' in problem


def test_the_names_of_the_classes_have_to_be_those_of_the_file(cfg: Config) -> None:
    names = list(cfg.train_dataloader.dataset.metainfo.classes)
    cfg.train_dataloader.dataset.metainfo.classes = (names[0].title(), *names[1:])

    (problem,) = problems(cfg)

    assert problem.startswith('train_dataloader.dataset.ann_file: ')
    assert f"10 classes '{names[0].title()}' are not among the file's 10, '{names[0]}'" in problem
    assert 'embedded data' not in str(PreflightError(problem))


def test_the_evaluator_has_to_know_the_names_of_the_data(cfg: Config, tmp_path: Path) -> None:
    content = json.loads(Path(cfg.val_evaluator.ann_file).read_text())
    content['categories'][3]['name'] = 'otherwise'
    cfg.val_evaluator.ann_file = str(tmp_path / 'val.json')
    Path(cfg.val_evaluator.ann_file).write_text(json.dumps(content))
    (problem,) = problems(cfg)
    assert problem.startswith('val_evaluator.ann_file: ')


def test_annotations_without_objects_are_enough_where_nothing_looks_for_them(
    cfg: Config, tmp_path: Path
) -> None:
    dataset = cfg.train_dataloader.dataset
    content = json.loads((Path(dataset.data_root) / dataset.ann_file).read_text())
    (tmp_path / 'none.json').write_text(json.dumps(content | dict(annotations=[])))
    dataset.ann_file = str(tmp_path / 'none.json')
    dataset.filter_cfg = dict(filter_empty_gt=False)
    check_before_training(cfg)
    dataset.filter_cfg = dict(filter_empty_gt=True)
    assert 'it has no annotations' in problems(cfg)[0]


def test_a_folder_in_place_of_annotations_is_named(cfg: Config) -> None:
    cfg.train_dataloader.dataset.ann_file = 'annotations/'
    (problem,) = problems(cfg)
    assert problem.startswith('train_dataloader.dataset.ann_file: ')
    assert 'it is a folder' in problem


def test_a_file_of_another_folder_is_not_said_to_lie_in_the_data_folder(cfg: Config) -> None:
    cfg.val_dataloader.dataset.ann_file = cfg.val_evaluator.ann_file = '/gone/val.json'
    (problem,) = problems(cfg)
    assert problem.startswith(
        'data: not found:\n  /gone/val.json  (val_dataloader.dataset.ann_file)'
    )


def test_data_sets_that_are_not_read_as_coco_are_left_alone(cfg: Config, tmp_path: Path) -> None:
    (tmp_path / 'list.json').write_text('[]')
    cfg.train_dataloader.dataset = dict(
        type='mmpretrain.CustomDataset', ann_file=str(tmp_path / 'list.json')
    )
    check_before_training(cfg)


def test_imagenet_is_looked_for_in_the_folder_of_its_split(cfg: Config, tmp_path: Path) -> None:
    (tmp_path / 'imagenet' / 'train').mkdir(parents=True)
    root = str(tmp_path / 'imagenet')
    cfg.train_dataloader.dataset = dict(type='mmpretrain.ImageNet', data_root=root, split='train')
    cfg.val_dataloader.dataset = dict(type='mmpretrain.ImageNet', data_root=root, split='val')

    (problem,) = problems(cfg)

    assert f'{root}/val  (val_dataloader.dataset.data_root)' in problem
    assert 'ILSVRC2012_img_train.tar' in problem
    assert f'{root}/train ' not in problem


def test_a_missing_teacher_is_named_with_the_option_that_sets_it(recipe: Config) -> None:
    recipe.model.teacher.update(checkpoint='gone.pth')
    (problem,) = problems(recipe)
    assert problem.startswith('model.teacher.checkpoint: gone.pth does not exist')
    assert '--cfg-options model.teacher.checkpoint=PATH' in problem


def test_each_of_several_teachers_is_named(recipe: Config) -> None:
    teacher = recipe.model.pop('teacher')
    recipe.model.teachers = dict(first=teacher, second=dict(teacher, checkpoint='gone.pth'))
    (problem,) = problems(recipe)
    assert problem.startswith('model.teachers.second.checkpoint: gone.pth does not exist')


def test_a_teacher_without_weights_by_wish_passes(recipe: Config) -> None:
    recipe.model.teacher.checkpoint = RANDOM_INIT
    check_before_training(recipe)


@pytest.mark.usefixtures('no_network')
def test_an_unreachable_url_says_where_to_put_the_file(recipe: Config, tmp_path: Path) -> None:
    name = f'teacher-{hashlib.sha256(b"weights").hexdigest()[:8]}.pth'
    url = f'https://example.org/models/{name}'
    recipe.model.teacher.checkpoint = url
    cached = tmp_path / 'hub' / 'checkpoints' / name

    (problem,) = problems(recipe)

    assert f'cannot download {url}' in problem
    assert 'no network' in problem
    assert f'put it at {cached}' in problem
    assert '--cfg-options model.teacher.checkpoint=PATH' in problem

    cached.parent.mkdir(parents=True)
    cached.write_bytes(b'weights')
    check_before_training(recipe)

    cached.write_bytes(b'other weights')
    assert 'Remove it to download it again' in problems(recipe)[0]


@pytest.mark.usefixtures('no_network')
def test_pretrained_weights_can_be_given_or_switched_off(cfg: Config) -> None:
    cfg.model.backbone.init_cfg = BACKBONE_INIT

    (problem,) = problems(cfg)

    assert f'cannot download {RESNET18} (from torchvision://resnet18)' in problem
    assert '--cfg-options model.backbone.init_cfg.checkpoint=PATH' in problem
    assert '--cfg-options model.backbone.init_cfg=None' in problem

    cfg.merge_from_dict({'model.backbone.init_cfg': None})
    check_before_training(cfg)


@pytest.mark.usefixtures('no_network')
def test_the_teacher_needs_its_checkpoint_but_no_pretrained_backbone(recipe: Config) -> None:
    recipe.model.teacher.config = dict(model=dict(backbone=dict(init_cfg=BACKBONE_INIT)))
    check_before_training(recipe)


def test_an_unknown_model_of_a_zoo_is_named(cfg: Config) -> None:
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='torchvision://resnet19')
    assert 'no model is known as torchvision://resnet19' in problems(cfg)[0]


def test_reachable_files_are_downloaded_once(
    cfg: Config, server: tuple[Path, str], tmp_path: Path
) -> None:
    folder, address = server
    (folder / 'weights.pth').write_bytes(b'weights')
    cfg.load_from = f'{address}/weights.pth'
    cached = tmp_path / 'hub' / 'checkpoints' / 'weights.pth'

    check_before_training(cfg)
    assert cached.read_bytes() == b'weights'

    (folder / 'weights.pth').unlink()
    check_before_training(cfg)


def test_nothing_is_downloaded_for_a_run_that_cannot_start(
    cfg: Config, server: tuple[Path, str], tmp_path: Path
) -> None:
    folder, address = server
    (folder / 'weights.pth').write_bytes(b'weights')
    cfg.load_from = f'{address}/weights.pth'
    cfg.train_dataloader.dataset.ann_file = 'gone.json'

    (problem,) = problems(cfg)

    assert 'gone.json' in problem
    assert not (tmp_path / 'hub').exists()


def test_a_download_that_breaks_off_leaves_no_file(cfg: Config, tmp_path: Path) -> None:
    class BreaksOff(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header('Content-Length', '7')
            self.end_headers()
            self.wfile.write(b'wei')

    with serving(BreaksOff) as address:
        cfg.load_from = f'{address}/weights.pth'
        (problem,) = problems(cfg)

    assert 'only 3 of 7 bytes arrived' in problem
    assert list((tmp_path / 'hub' / 'checkpoints').iterdir()) == []


def test_a_download_with_another_hash_than_its_name_is_refused(
    cfg: Config, server: tuple[Path, str], tmp_path: Path
) -> None:
    folder, address = server
    (folder / 'weights-0123abcd.pth').write_bytes(b'weights')
    cfg.load_from = f'{address}/weights-0123abcd.pth'

    (problem,) = problems(cfg)

    assert 'not with the 0123abcd of its name' in problem
    assert list((tmp_path / 'hub' / 'checkpoints').iterdir()) == []


def test_a_server_that_never_answers_is_given_up(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, 'NETWORK_TIMEOUT_SECONDS', 0.2)
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        cfg.load_from = f'http://127.0.0.1:{silent.getsockname()[1]}/weights.pth'
        assert 'timed out' in problems(cfg)[0]


def test_a_page_that_is_gone_is_a_problem(cfg: Config, server: tuple[Path, str]) -> None:
    cfg.load_from = f'{server[1]}/gone.pth'
    assert '404' in problems(cfg)[0]


def test_a_resume_from_a_missing_file_is_named(cfg: Config) -> None:
    cfg.resume, cfg.load_from = True, 'gone.pth'
    assert problems(cfg)[0].startswith('--resume: gone.pth does not exist')


def test_a_folder_that_cannot_be_written_is_named(cfg: Config) -> None:
    # Permissions do not stop root, who may run this; no one makes files there.
    cfg.work_dir = '/proc/self/work'
    (problem,) = problems(cfg)
    assert problem.startswith('work_dir: /proc/self is not writable')
    assert '--work-dir' in problem


def test_all_problems_come_in_one_message(cfg: Config, tmp_path: Path) -> None:
    cfg.train_dataloader.dataset.ann_file = 'gone.json'
    cfg.load_from = 'gone.pth'
    (tmp_path / 'file').touch()
    cfg.work_dir = str(tmp_path / 'file' / 'work')

    with pytest.raises(PreflightError, match='3 problems') as caught:
        check_before_training(cfg)

    message = str(caught.value)
    assert message.startswith('Not started: 3 problems.')
    for number, text in ((1, 'data: not found'), (2, 'work_dir: '), (3, 'load_from: gone.pth')):
        assert f'\n{number}. {text}' in message


def test_only_the_first_process_of_a_machine_checks(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.launcher = 'pytorch'
    cfg.load_from = 'gone.pth'
    monkeypatch.setenv('LOCAL_RANK', '1')
    check_before_training(cfg)
    monkeypatch.setenv('LOCAL_RANK', '0')
    assert 'gone.pth' in problems(cfg)[0]


def test_what_needs_a_gpu_is_refused_without_one(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, 'get_device', lambda: 'cpu')
    cfg.launcher = 'slurm'
    cfg.optim_wrapper.type = 'AmpOptimWrapper'

    slurm_problem, amp_problem = problems(cfg)

    assert 'tools/dist_train.sh' in slurm_problem
    assert 'leave --amp out' in amp_problem


def test_more_processes_than_gpus_are_refused(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    cfg.launcher = 'pytorch'
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    check_before_training(cfg)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    assert '3 processes were started, but this machine shows 2 GPUs' in problems(cfg)[0]
