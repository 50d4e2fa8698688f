"""Exported students of real runs, read by MMDetection and MMPretrain in a process that cannot import mmkd."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny import NUM_CLASSES, TINY_RETINANET, make_runner, recipe, same
from zoo import batch, mmdet_scope

from mmkd.teachers import FrozenTeacher
from mmkd.utils import DropDistillWeights, override_data_root
from mmkd.utils.export import ExportedStudent, export_student

DATA = Path(__file__).parent.parent / 'data'
AEKT = dict(type='mmkd.AEKTLoss', serial='distill_then_task')
READ = """
import sys
import torch

sys.modules['mmkd'] = None  # an import of it is an error from now on
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain import ImageClassificationInferencer


def model_of(config, checkpoint, inputs):
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = cfg.model
    if 'data_preprocessor' in cfg:
        model = dict(model, data_preprocessor=cfg.data_preprocessor)
    model = MODELS.build(model).eval()
    load_checkpoint(model, checkpoint, strict=True)
    with torch.no_grad():
        return model(**torch.load(inputs, weights_only=False), mode='predict')


def detected(config, checkpoint, image, inputs):
    samples = model_of(config, checkpoint, inputs)
    found = [[getattr(s.pred_instances, n) for n in ('bboxes', 'scores', 'labels')] for s in samples]
    inferred = []
    for options in (dict(model=config), {}):  # the checkpoint knows its config too
        inferencer = DetInferencer(weights=checkpoint, device='cpu', show_progress=False, **options)
        inferred.append(inferencer(image)['predictions'][0])
    return found, inferencer.model.dataset_meta['classes'], inferred


def classified(config, checkpoint, image, inputs):
    found = [s.pred_score for s in model_of(config, checkpoint, inputs)]
    inferencer = ImageClassificationInferencer(config, pretrained=checkpoint, device='cpu')
    inferred = inferencer(image)[0]
    inferred = {key: inferred[key] for key in ('pred_class', 'pred_scores')}
    inferred['pred_scores'] = inferred['pred_scores'].tolist()
    return found, inferencer.classes, inferred


*arguments, outputs = sys.argv[1:]
torch.save([detected(*arguments[:4]), classified(*arguments[4:])], outputs)
"""


@dataclass
class Run:
    """A run that is over, and what its ExportStudentHook wrote."""

    runner: Runner
    work_dir: Path
    files: list[str]

    def checkpoint(self, name: str) -> dict[str, Any]:
        return torch.load(self.work_dir / name, weights_only=False)

    def exported(self, name: str) -> ExportedStudent:
        """The files of one checkpoint of training."""
        (path,) = (self.work_dir / 'exported').glob(f'*_student_{name}-*.pth')
        return ExportedStudent(path, path.with_name(path.name.rsplit('-', 1)[0] + '.py'))


def run(config: Config, work_dir: Path) -> Run:
    runner = make_runner(config, work_dir)
    torch.manual_seed(1)
    layer = runner.model.distill['aekt'].task_layer
    for parameter in layer.parameters():  # as after long training
        torch.nn.init.normal_(parameter, std=0.2)
    runner.train()
    return Run(runner, work_dir, sorted(path.name for path in (work_dir / 'exported').iterdir()))


@pytest.fixture(scope='module')
def detector(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch of the tiny RetinaNet under AEKT, with a moving average."""
    config = Config.fromfile(TINY_RETINANET)
    override_data_root(config, str(tiny_coco))
    config = recipe(config, dict(aekt=AEKT))
    config.merge_from_dict(
        {
            'custom_hooks': [
                dict(type='EMAHook', momentum=0.5),
                dict(type='mmkd.ExportStudentHook'),
            ],
            'default_hooks.checkpoint.save_best': 'coco/bbox_mAP',
        }
    )
    return run(config, tmp_path_factory.mktemp('detector'))


@pytest.fixture(scope='module')
def classifier(tiny_imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch of the tiny ResNet under AEKT."""
    config = Config.fromfile(DATA / 'tiny_classifier.py')
    override_data_root(config, str(tiny_imagenet))
    preprocessor = dict(config.data_preprocessor)
    config.model = dict(
        type='mmkd.Distiller',
        student=config.model,
        teacher=dict(
            config=dict(
                model=config.model, data_preprocessor=preprocessor, default_scope='mmpretrain'
            ),
            checkpoint='random_init',
        ),
        losses=dict(aekt=AEKT),
    )
    config.custom_hooks = [dict(type='mmkd.ExportStudentHook', folder='for/others')]
    folder = tmp_path_factory.mktemp('classifier')
    (folder / 'exported').symlink_to(folder / 'for' / 'others')
    return run(config, folder)


def test_students_load_strictly_in_their_packages_and_the_inferencers(
    detector: Run, classifier: Run, tiny_coco: Path, tiny_imagenet: Path, tmp_path: Path
) -> None:
    """What the inferencers and a strictly loaded model say in a process without mmkd."""
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(batch(size=64, num_classes=NUM_CLASSES), tmp_path / 'images.pt')
    torch.save(dict(inputs=inputs), tmp_path / 'inputs.pt')
    arguments: list[Path] = []
    for trained, images, data in (
        (detector, tiny_coco / 'val2017', 'images.pt'),
        (classifier, tiny_imagenet / 'train' / 'blue', 'inputs.pt'),
    ):
        student = trained.exported('epoch_1')
        image = next(images.iterdir())
        arguments += [student.config, student.checkpoint, image, tmp_path / data]
    done = subprocess.run(
        [sys.executable, '-c', READ, *map(str, arguments), str(tmp_path / 'outputs.pt')],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    detected, classified = torch.load(tmp_path / 'outputs.pt', weights_only=False)

    found, names, (by_config, by_checkpoint) = detected
    distiller = detector.runner.model.eval()
    distiller.load_state_dict(detector.checkpoint('epoch_1.pth')['state_dict'], strict=True)
    with torch.no_grad(), mmdet_scope():
        samples = distiller(**batch(size=64, num_classes=NUM_CLASSES), mode='predict')
    for ours, theirs in zip(samples, found, strict=True):
        assert len(theirs[1]) > 0
        for name, numbers in zip(('bboxes', 'scores', 'labels'), theirs, strict=True):
            assert torch.equal(getattr(ours.pred_instances, name), numbers), name
    assert list(names) == list(Config.fromfile(TINY_RETINANET).metainfo.classes)
    assert len(by_config['scores']) > 0
    assert by_config == by_checkpoint

    found, names, inferred = classified
    with torch.no_grad():
        samples = classifier.runner.model.eval()(inputs, mode='predict')
    for ours, theirs in zip(samples, found, strict=True):
        assert torch.equal(ours.pred_score, theirs)
    assert list(names) == ['blue', 'green']
    assert inferred['pred_class'] in names
    assert sum(inferred['pred_scores']) == pytest.approx(1)


def test_hash_is_of_the_file_and_pytorch_checks_it(detector: Run) -> None:
    """``torch.hub`` takes what is between the last - and . as the beginning of the SHA-256."""
    path = detector.exported('epoch_1').checkpoint
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stem.rsplit('-', 1)[1] == digest[:8]
    assert torch.hub.HASH_REGEX.search(path.name).group(1) == digest[:8]


def test_the_file_has_the_student_and_nothing_of_the_run(detector: Run) -> None:
    content = torch.load(detector.exported('epoch_1').checkpoint, weights_only=True)
    trained = detector.checkpoint('epoch_1.pth')

    assert content.keys() == {'meta', 'state_dict'}
    extras = {key for key in trained['state_dict'] if key.startswith('distill.')}
    assert extras == {f'distill.aekt.task_layer.{name}' for name in ('offset', 'bias')}
    assert list(content['state_dict']) == [
        key for key in trained['state_dict'] if key not in extras
    ]
    assert content['meta']['dataset_meta']['classes'] == trained['meta']['dataset_meta']['classes']
    assert content['meta']['epoch'] == 1
    assert 'mmkd' not in content['meta']['cfg']
    assert str(detector.work_dir) not in content['meta']['cfg']


def test_weights_are_the_averaged_ones_with_the_layer_in_the_classifier(detector: Run) -> None:
    weights = torch.load(detector.exported('epoch_1').checkpoint, weights_only=True)['state_dict']
    trained = detector.checkpoint('epoch_1.pth')
    averaged, last = trained['state_dict'], trained['ema_state_dict']

    changed = {key for key in weights if not torch.equal(weights[key], averaged[key])}
    assert changed == {'bbox_head.retina_cls.weight', 'bbox_head.retina_cls.bias'}
    layer = torch.eye(NUM_CLASSES).double() + averaged['distill.aekt.task_layer.offset'].double()
    shift = averaged['distill.aekt.task_layer.bias'].double()
    kernel = averaged['bbox_head.retina_cls.weight'].double()
    expected = torch.einsum('ij,jchw->ichw', layer, kernel)
    torch.testing.assert_close(
        weights['bbox_head.retina_cls.weight'].double(), expected, rtol=1e-5, atol=1e-6
    )
    expected = layer @ averaged['bbox_head.retina_cls.bias'].double() + shift
    torch.testing.assert_close(
        weights['bbox_head.retina_cls.bias'].double(), expected, rtol=1e-5, atol=1e-6
    )
    backbone = 'backbone.layer4.1.conv2.weight'
    assert not torch.equal(weights[backbone], last[f'module.{backbone}'])


def test_the_config_is_the_students_and_trains(detector: Run, tmp_path: Path) -> None:
    cfg = Config.fromfile(detector.exported('epoch_1').config)

    assert cfg.model.type == 'RetinaNet'
    assert 'mmkd' not in cfg.pretty_text
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']
    runner = make_runner(cfg, tmp_path)
    runner.train()
    assert runner.iter == 4


def test_the_best_and_the_last_are_exported_into_the_work_dir(
    detector: Run, classifier: Run
) -> None:
    (best,) = detector.work_dir.glob('best_coco_bbox_mAP_*.pth')
    assert {name.rsplit('-', 1)[0] for name in detector.files if name.endswith('.pth')} == {
        detector.exported('epoch_1').config.stem,
        detector.exported(best.stem).config.stem,
    }
    assert len(detector.files) == 4
    assert len(classifier.files) == 2
    assert (classifier.work_dir / 'epoch_1.pth').is_file()


def test_an_export_can_be_repeated_and_named(detector: Run, tmp_path: Path) -> None:
    checkpoint = detector.work_dir / 'epoch_1.pth'
    twice = [
        export_student(detector.runner.cfg, checkpoint, tmp_path / 'new' / 'folder', 'mine')
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert {path.name for path in (tmp_path / 'new' / 'folder').iterdir()} == {
        'mine.py',
        twice[0].checkpoint.name,
    }
    assert twice[0].checkpoint.stat().st_mode & 0o044 == 0o044, 'others may read it'


def test_a_training_checkpoint_is_folded_wherever_this_package_reads_it(detector: Run) -> None:
    """A distilled student that becomes a teacher, and the hook by which tools/test.py loads one."""
    exported = torch.load(detector.exported('epoch_1').checkpoint, weights_only=True)
    runner, path = detector.runner, detector.work_dir / 'epoch_1.pth'
    teacher = FrozenTeacher(config=runner.cfg, checkpoint=path, student=runner.model)
    checkpoint = detector.checkpoint('epoch_1.pth')
    DropDistillWeights().after_load_checkpoint(SimpleNamespace(model=teacher.model), checkpoint)
    for weights in (teacher.model.state_dict(), checkpoint['state_dict']):
        assert same(weights, exported['state_dict'])
    assert not any('distill' in key for key in checkpoint['ema_state_dict'])


def test_what_does_not_fit_is_an_error_and_writes_nothing(detector: Run, tmp_path: Path) -> None:
    cfg, checkpoint = detector.runner.cfg, detector.work_dir / 'epoch_1.pth'
    other = Config(cfg.to_dict())
    other.model.student.bbox_head.feat_channels = 8
    with pytest.raises(ValueError, match=r'is not a checkpoint of this config: (.|\n)*retina_cls'):
        export_student(other, checkpoint, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match=r'epoch_2\.pth can not be found'):
        export_student(cfg, detector.work_dir / 'epoch_2.pth', tmp_path / 'out')
    with pytest.raises(ValueError, match=r"name: '\.\./up' is no plain file name"):
        export_student(cfg, checkpoint, tmp_path / 'out', name='../up')
    assert not (tmp_path / 'out').exists()
