"""The teacher is really loaded, stays frozen, and follows moves without ever being part of the student."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from tiny import (
    CKD,
    TINY_RETINANET,
    fresh_hub,
    recipe,
    same,
    save,
    student_model,
    teacher_model,
    teacher_options,
    weights,
)
from torch import nn
from zoo import batch, distiller, one_step, pair

from mmkd.distillers import Distiller
from mmkd.structures import ClassMap
from mmkd.teachers import RANDOM_INIT, FrozenTeacher
from mmkd.utils import override_data_root

STUDENT = SimpleNamespace(
    data_preprocessor=nn.Identity()
)  # normalises nothing, as far as pixels are concerned
CLASSES = tuple('abcdefghij')


def make_teacher(model: Any = None, checkpoint: Any = RANDOM_INIT) -> FrozenTeacher:
    options = teacher_options(model or teacher_model(), checkpoint)
    return FrozenTeacher(**options, student=STUDENT)


def random_drop_path() -> Config:
    """A detector whose teacher would drop most of its paths in training mode."""
    return teacher_model(
        backbone=dict(
            _delete_=True,
            type='SwinTransformer',
            embed_dims=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            drop_path_rate=0.9,
            drop_rate=0.5,
        ),
        neck__in_channels=[8, 16, 32, 64],
    )


# ---- loading


def test_no_checkpoint_is_an_error_that_names_both_ways_out() -> None:
    with pytest.raises(ValueError, match=r"teacher\.checkpoint is not set.*'random_init'"):
        FrozenTeacher(config=dict(model=teacher_model()), student=STUDENT)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'nowhere.pth'
    with pytest.raises(
        FileNotFoundError, match=rf'teacher\.checkpoint: .*{path}.*train the teacher'
    ):
        make_teacher(checkpoint=path)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'nowhere.py'
    with pytest.raises(FileNotFoundError, match=str(path)):
        FrozenTeacher(config=path, checkpoint=RANDOM_INIT, student=STUDENT)


def test_a_config_without_a_model_says_what_is_expected() -> None:
    with pytest.raises(ValueError, match=r'teacher\.config has no `model`'):
        FrozenTeacher(config=teacher_model(), checkpoint=RANDOM_INIT, student=STUDENT)


def test_every_weight_comes_from_the_file(tmp_path: Path) -> None:
    source = make_teacher().model
    path = save(source, tmp_path / 'teacher.pth', CLASSES)
    torch.manual_seed(99)
    loaded = make_teacher(checkpoint=path)
    assert same(loaded.model.state_dict(), source.state_dict())
    assert loaded.classes == CLASSES


@pytest.mark.parametrize(
    'form', ['bare', 'data_parallel', 'distilled', 'timm', 'deepspeed', 'without_counters']
)
def test_other_forms_of_checkpoint(tmp_path: Path, form: str) -> None:
    source = make_teacher().model
    state = dict(source.state_dict())
    content: dict[str, Any] = {
        'bare': state,
        'data_parallel': dict(state_dict={f'module.{key}': state[key] for key in state}),
        'distilled': dict(state_dict=state | {'distill.ckd.weight': torch.ones(3)}),
        'timm': dict(model=state, epoch=3),
        'deepspeed': dict(module={f'module.{key}': state[key] for key in state}),
        'without_counters': {key: state[key] for key in state if 'num_batches' not in key},
    }[form]
    torch.save(content, tmp_path / 'teacher.pth')
    loaded = make_teacher(checkpoint=tmp_path / 'teacher.pth')
    assert same(loaded.model.state_dict(), state)
    assert loaded.classes is None


def test_missing_unexpected_and_misshapen_keys_are_all_listed(tmp_path: Path) -> None:
    path = tmp_path / 'teacher.pth'
    state = dict(make_teacher().model.state_dict())
    del state['backbone.conv1.weight']
    state['bbox_head.extra.bias'] = torch.zeros(1)
    state['bbox_head.retina_cls.bias'] = torch.zeros(80)
    torch.save(dict(state_dict=state), path)
    with pytest.raises(RuntimeError, match=re.escape(str(path))) as raised:
        make_teacher(checkpoint=path)
    message = str(raised.value)
    assert re.search(
        r'keys of the config that are missing .*\(1\):\n +backbone\.conv1\.weight\n', message
    )
    assert re.search(
        r'keys of the file that are unknown .*\(1\):\n +bbox_head\.extra\.bias\n', message
    )
    assert re.search(r'keys of other shapes \(1\):\n.*bbox_head\.retina_cls\.bias.*80.*10', message)
    assert 'set model.teacher.config to the config that trained this file' in message


@pytest.mark.parametrize('content', [[1], dict(state_dict=None)])
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / 't.pth')
    with pytest.raises(RuntimeError, match=r'model\.teacher\.checkpoint: .* not weights by name'):
        make_teacher(checkpoint=tmp_path / 't.pth')


def test_a_second_name_of_a_weight_is_no_unknown_key(tmp_path: Path) -> None:
    """Training gives branches of DDQ's head a second name in its decoder."""
    source = make_teacher().model
    state = dict(source.state_dict())
    state['decoder.retina_cls.weight'] = state['bbox_head.retina_cls.weight'].clone()
    torch.save(dict(state_dict=state), tmp_path / 'twice.pth')
    assert same(
        make_teacher(checkpoint=tmp_path / 'twice.pth').model.state_dict(), source.state_dict()
    )
    state['decoder.retina_cls.weight'] += 1
    torch.save(dict(state_dict=state), tmp_path / 'another.pth')
    with pytest.raises(
        RuntimeError, match=r'keys of the file that are unknown .*\(1\):\n +decoder\.retina'
    ):
        make_teacher(checkpoint=tmp_path / 'another.pth')


def test_another_class_count_is_seen_in_the_shapes(tmp_path: Path) -> None:
    path = save(make_teacher(teacher_model(bbox_head__num_classes=20)).model, tmp_path / 't.pth')
    with pytest.raises(
        RuntimeError, match=r'keys of other shapes \(2\):(.|\n)*same number of classes'
    ):
        make_teacher(checkpoint=path)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    path = save(make_teacher(teacher_model(backbone__depth=34)).model, tmp_path / 'deep.pth')
    with pytest.raises(RuntimeError, match=r'keys of the file that are unknown') as raised:
        make_teacher(checkpoint=path)
    assert re.search(r'\.\.\. and \d+ more', str(raised.value))
    assert len(str(raised.value).splitlines()) < 30


def test_a_failed_load_of_the_same_names_in_other_widths(tmp_path: Path) -> None:
    path = save(make_teacher(student_model()).model, tmp_path / 'narrow.pth')
    with pytest.raises(RuntimeError, match=r'keys of other shapes'):
        make_teacher(checkpoint=path)


def test_keys_of_older_checkpoints_are_renamed_as_mmdetection_does(tmp_path: Path) -> None:
    """FCOS of the model zoo has `fcos_cls` where its head now has `conv_cls`."""
    _, model = pair('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py')
    source = make_teacher(model).model
    old = {
        key.replace('bbox_head.conv_', 'bbox_head.fcos_'): v for key, v in weights(source).items()
    }
    assert 'bbox_head.fcos_cls.weight' in old
    torch.save(dict(state_dict=old, meta={}), tmp_path / 'old.pth')
    loaded = make_teacher(model, tmp_path / 'old.pth').model
    assert same(loaded.state_dict(), source.state_dict())


@pytest.mark.parametrize('where', ['path', 'dict'])
def test_a_distilled_student_teaches_in_its_turn(
    tmp_path: Path, where: str, no_run_in_progress: None
) -> None:
    config = recipe(Config.fromfile(TINY_RETINANET), losses=dict(ckd=CKD))
    with DefaultScope.overwrite_default_scope('mmdet'):
        first = Distiller(**{k: v for k, v in config.model.items() if k != 'type'})
    path = save(first, tmp_path / 'distilled.pth')
    options: Any = config
    if where == 'path':
        options = tmp_path / 'recipe.py'
        config.dump(options)
    second = FrozenTeacher(config=options, checkpoint=path, student=STUDENT)
    assert type(second.model).__name__ == 'RetinaNet'
    assert same(second.model.state_dict(), first.state_dict())


def test_a_preprocessor_beside_the_model_is_the_teachers() -> None:
    """MMPretrain's configs have it there: without it the teacher would see other pixels."""
    config = Config.fromfile(TINY_RETINANET.with_name('tiny_classifier.py'))
    teacher = FrozenTeacher(config=config, checkpoint=RANDOM_INIT, student=STUDENT)
    assert teacher.model.data_preprocessor.mean.flatten().tolist() == [127.5] * 3
    grey = teacher.convert_pixels(torch.full((1, 3, 2, 2), 127.5), [])
    assert torch.equal(grey, torch.zeros(1, 3, 2, 2))


def test_a_config_of_the_model_zoo_is_found_by_its_name() -> None:
    teacher = FrozenTeacher(
        config='mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
        checkpoint=RANDOM_INIT,
        student=STUDENT,
    )
    assert type(teacher.model).__name__ == 'ImageClassifier'
    mean = teacher.model.data_preprocessor.mean.flatten()
    torch.testing.assert_close(mean, torch.tensor([123.675, 116.28, 103.53]))


# ---- class names


def checked(tmp_path: Path, classes: Any) -> FrozenTeacher:
    return make_teacher(checkpoint=save(make_teacher().model, tmp_path / 'teacher.pth', classes))


def named(names: Any, **options: Any) -> FrozenTeacher:
    return FrozenTeacher(
        **teacher_options(teacher_model()),
        class_names=names,
        **options,
        student=STUDENT,
    )


@pytest.mark.parametrize('names', [CLASSES, None], ids=['named', 'unnamed'])
def test_nothing_is_done_where_the_classes_are_the_same(tmp_path: Path, names: Any) -> None:
    teacher = checked(tmp_path, names)
    assert teacher.match_classes(list(CLASSES), 10, 10) == ClassMap()
    assert teacher.match_classes(None, 10, 10) == ClassMap()


def test_classes_in_another_order_are_found_by_name(tmp_path: Path) -> None:
    order = ('b', 'a', *CLASSES[2:])
    columns = checked(tmp_path, CLASSES).match_classes(order, 10, 10).columns
    assert columns == (1, 0, 2, 3, 4, 5, 6, 7, 8, 9)


def test_classes_that_only_the_teacher_has_are_dropped(tmp_path: Path) -> None:
    found = checked(tmp_path, CLASSES).match_classes(('j', 'c'), 2, 10)
    assert found == ClassMap((9, 2), 10)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the teacher logs."""
    lines: list[str] = []
    monkeypatch.setattr('mmkd.teachers.frozen.print_log', lambda text, *_: lines.append(text))
    return lines


def test_what_was_matched_is_said(said: list[str]) -> None:
    teacher = named(CLASSES)
    teacher.match_classes(CLASSES, 10, 10)
    teacher.match_classes(('j', 'c'), 2, 10)
    assert said[0] == "classes: the teacher's 10 are the student's, in the same order"
    assert said[1].endswith("teacher's 10, of which 8 are dropped: 'j' is its 9, 'c' is its 2")


@pytest.mark.parametrize(
    ('theirs', 'ours', 'setting'),
    [(None, CLASSES, 'teacher.class_names'), (CLASSES, None, 'metainfo.classes')],
)
def test_names_that_nothing_says_are_warned_of(
    theirs: Any, ours: Any, setting: str, said: list[str]
) -> None:
    assert named(theirs).match_classes(ours, 10, 10) == ClassMap()
    assert 'does not name its 10' in said[0]
    assert setting in said[0]


def test_a_name_of_two_classes_stands_for_each_in_turn(said: list[str]) -> None:
    """ImageNet has two cranes, a bird and a machine."""
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

    assert named(IMAGENET_CATEGORIES).match_classes(IMAGENET_CATEGORIES, 1000, 1000) == ClassMap()
    cranes = named(('crane', 'dog', 'crane'))
    assert cranes.match_classes(('dog', 'crane', 'crane'), 3, 3) == ClassMap((1, 0, 2), 3)
    assert not any('the first is taken' in line for line in said)
    assert cranes.match_classes(('dog', 'crane'), 2, 3) == ClassMap((1, 0), 3)
    assert any("2 classes 'crane', the student 1: the first is taken" in line for line in said)
    with pytest.raises(ValueError, match=r"metainfo\.classes .* 'dog' 2 times, the teacher 1"):
        cranes.match_classes(('dog', 'crane', 'dog'), 3, 3)


def test_one_class_given_as_a_string_is_told_of_the_comma() -> None:
    with pytest.raises(ValueError, match=r"metainfo\.classes .*string 'dog'.* \('dog',\)"):
        named(('dog',)).match_classes('dog', 1, 1)
    with pytest.raises(ValueError, match=r"teacher\.class_names is the string 'dog'"):
        named('dog')


def test_a_teachers_own_annotation_file_orders_its_classes(tmp_path: Path, tiny_coco: Path) -> None:
    """Its checkpoint says what metainfo said, but its logits are in the file's order."""
    config = Config.fromfile(TINY_RETINANET)
    shapes = tuple(config.metainfo.classes)
    override_data_root(config, str(tiny_coco))
    path = save(make_teacher(student_model()).model, tmp_path / 'teacher.pth', shapes[::-1])
    options = dict(checkpoint=path, student=STUDENT)
    assert FrozenTeacher(config=config, **options).classes == shapes
    assert FrozenTeacher(config=config, class_names=CLASSES, **options).classes == CLASSES


def test_a_teacher_of_panoptic_data_teaches_its_things() -> None:
    config = Config.fromfile(TINY_RETINANET)
    config.train_dataloader.dataset.metainfo = dict(
        classes=(*CLASSES, 'sky', 'grass'), thing_classes=CLASSES, stuff_classes=('sky', 'grass')
    )
    options = dict(checkpoint=RANDOM_INIT, student=STUDENT)
    teacher = FrozenTeacher(config=config, **options)
    teacher.check_num_classes(10, 10)
    assert teacher.classes == CLASSES


def test_classes_that_the_teacher_lacks_are_listed_with_the_nearest_names() -> None:
    teacher = named(('airplane', 'motorcycle', 'couch', 'cat'))
    with pytest.raises(
        ValueError,
        match=r"trained on other classes: of the 4 .* lacks 3:\n  'aeroplane' \(nearest: 'airplane'\)\n"
        r"  'Motorbike' \(nearest: 'motorcycle'\)\n  'sofa'\nit has 'airplane'(.|\n)*class_aliases="
        r"\{'aeroplane': 'its name'\}",
    ):
        teacher.match_classes(('aeroplane', 'cat', 'Motorbike', 'sofa'), 4, 4)


def test_aliases_say_what_the_teacher_calls_a_class() -> None:
    teacher = named(('couch', 'cat'), class_aliases=dict(sofa='couch'))
    assert teacher.match_classes(('cat', 'sofa'), 2, 2) == ClassMap((1, 0), 2)


@pytest.mark.parametrize(
    ('aliases', 'message'),
    [
        (dict(sofa='coach'), r"the teacher has no class 'coach' \(nearest: 'couch'\); its classes"),
        (
            dict(so_fa='couch'),
            r"the data set has no class 'so_fa' \(nearest: 'sofa'\); its classes",
        ),
        (dict(sofa='cat'), r"more than one of the student's classes is the teacher's 'cat'"),
    ],
)
def test_aliases_that_cannot_be_are_an_error(aliases: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=rf'teacher\.class_aliases: {message}'):
        named(('couch', 'cat'), class_aliases=aliases).match_classes(('cat', 'sofa'), 2, 2)


def test_aliases_need_names() -> None:
    with pytest.raises(
        ValueError, match=r'does not name its classes: set model\.teacher\.class_names'
    ):
        named(None, class_aliases=dict(sofa='couch'))


def test_names_come_from_the_recipe_else_the_checkpoint_else_the_config(tmp_path: Path) -> None:
    config = Config.fromfile(TINY_RETINANET)

    def names(**options: Any) -> Any:
        return FrozenTeacher(config=config, student=STUDENT, **options).classes

    path = save(make_teacher(student_model()).model, tmp_path / 'teacher.pth', CLASSES)
    bare = save(make_teacher(student_model()).model, tmp_path / 'bare.pth')
    shapes = tuple(config.metainfo.classes)
    assert names(checkpoint=bare) == shapes
    assert names(checkpoint=path) == CLASSES
    assert names(checkpoint=path, class_names=shapes[::-1]) == shapes[::-1]


def test_other_numbers_of_classes_need_names() -> None:
    unnamed = 'the student has 2, the teacher 10: take a teacher .* set model.teacher.class_names'
    with pytest.raises(ValueError, match=unnamed):
        make_teacher().check_num_classes(2, 10)
    make_teacher().check_num_classes(10, 10)
    named(CLASSES).check_num_classes(2, 10)
    with pytest.raises(ValueError, match=r'head has 10 classes, of which 3 are named: .* all'):
        named(CLASSES[:3]).check_num_classes(10, 10)


@pytest.mark.parametrize('names', [None, CLASSES[:3]])
def test_a_data_set_that_does_not_name_its_classes_is_told(names: Any) -> None:
    with pytest.raises(ValueError, match=r'the student has 2, .* set metainfo\.classes'):
        named(CLASSES).match_classes(names, 2, 10)


def test_the_first_step_compares_with_the_data_set_of_the_run(tmp_path: Path) -> None:
    path = save(make_teacher().model, tmp_path / 'teacher.pth', CLASSES)
    fresh_hub(dataset_meta=dict(classes=('z', *CLASSES[1:])))
    with DefaultScope.overwrite_default_scope('mmdet'):
        options = teacher_options(teacher_model(), path)
        model = Distiller(student_model(), options, dict(ckd=CKD))
        features_only = Distiller(student_model(), options, dict(pkd=dict(type='mmkd.PKDLoss')))
    data = batch(size=64, num_classes=10)
    with pytest.raises(ValueError, match=r"was trained on other classes(.|\n)*lacks 1:\n  'z'"):
        one_step(model, data)
    assert one_step(features_only, data)['loss_pkd'] > 0  # features have no classes


# ---- a guest


def make_distiller(teacher: Any = None, **losses: Any) -> Distiller:
    return distiller(student_model(), teacher or teacher_model(), losses or dict(ckd=CKD))


def test_the_teacher_is_in_no_list_of_the_distiller() -> None:
    model = make_distiller()
    plain = distiller(student_model(), teacher_model(), {}).student
    of_teacher = {id(part) for part in model.teacher.model.modules()}
    of_teacher |= {id(part) for part in model.teacher.model.state_dict(keep_vars=True).values()}
    ours = [*model.modules(), *model.parameters(), *model.buffers(), *model.children()]
    assert not of_teacher & {id(part) for part in ours}
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]


@pytest.mark.parametrize('call', ['train', 'eval_then_train', 'student_train', 'apply'])
def test_the_teacher_stays_in_eval_drop_path_included(call: str) -> None:
    model = make_distiller(random_drop_path())
    inputs = batch(size=64)['inputs']
    expected = model.teacher.features(inputs, [])
    match call:
        case 'train':
            model.train()
        case 'eval_then_train':
            model.eval().train(True)
        case 'student_train':
            model.student.train()
        case 'apply':
            model.apply(lambda module: setattr(module, 'training', True))
    assert model.student.neck.training
    assert not any(module.training for module in model.teacher.model.modules())
    again = model.teacher.features(inputs, [])
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_the_drop_paths_of_that_teacher_would_matter_in_training() -> None:
    """The test above can fail."""
    teacher = make_teacher(random_drop_path())
    inputs = batch(size=64)['inputs']
    expected = teacher.features(inputs, [])
    teacher.model.train()
    assert not torch.equal(expected[0], teacher.features(inputs, [])[0])


def test_steps_leave_the_teacher_unchanged_and_without_gradient() -> None:
    model = make_distiller()
    before = weights(model.teacher.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for seed in range(2):
        losses = one_step(model, batch(size=64, num_classes=10, seed=seed))
        assert losses['loss_ckd'].requires_grad
        optimizer.step()
    assert same(before, model.teacher.model.state_dict())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.model.parameters())


def test_init_weights_never_touches_the_teacher() -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = Distiller(student_model(), teacher_options(teacher_model()), dict(ckd=CKD))
    before = weights(model.teacher.model)
    student_before = weights(model)
    model.init_weights()
    assert same(before, model.teacher.model.state_dict())
    assert not same(student_before, model.state_dict())


@pytest.mark.parametrize(
    ('move', 'dtype'),
    [
        (lambda model: model.double(), torch.float64),
        (lambda model: model.half(), torch.float16),
        (lambda model: model.to(torch.bfloat16), torch.bfloat16),
        (lambda model: model.half().float(), torch.float32),
    ],
    ids=['double', 'half', 'to_bfloat16', 'half_and_back'],
)
def test_the_teacher_follows_moves(move: Any, dtype: torch.dtype) -> None:
    model = make_distiller()
    assert move(model) is model
    floating = [v for v in model.teacher.model.state_dict().values() if v.is_floating_point()]
    assert {value.dtype for value in floating} == {dtype}
    features = model.teacher.features(torch.zeros(1, 3, 64, 64, dtype=dtype), [])
    assert features[0].dtype == dtype


def test_a_step_in_double_is_double_throughout() -> None:
    model = make_distiller().double()
    data = batch(size=64, num_classes=10)
    data['inputs'] = data['inputs'].double()
    for sample in data['data_samples']:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
    assert one_step(model, data)['loss_ckd'].dtype == torch.float64


def test_a_copy_shares_the_teachers_memory_and_nothing_else() -> None:
    model = make_distiller()
    twin = copy.deepcopy(model)
    theirs, ours = (each.teacher.model.state_dict(keep_vars=True) for each in (twin, model))
    assert {key: value.data_ptr() for key, value in theirs.items()} == {
        key: value.data_ptr() for key, value in ours.items()
    }
    assert twin._heads['teacher'].teacher_head is twin.teacher.model.bbox_head
    assert twin._heads['teacher'].student_head is twin.student.bbox_head
    assert twin.student is not model.student
    assert twin.bbox_head is twin.student.bbox_head
    ours, theirs = ({id(p) for p in each.parameters()} for each in (model, twin))
    assert not ours & theirs
    assert same(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize(
    'move',
    [lambda twin: twin.half(), lambda twin: twin.to('meta'), lambda twin: twin.double()],
    ids=['half', 'meta', 'double'],
)
@pytest.mark.parametrize('config', [None, 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'])
def test_moving_a_copy_leaves_the_originals_teacher(move: Any, config: str | None) -> None:
    """And the other way round; references of head and neck adapters included."""
    losses = dict(ckd=CKD, pkd=dict(type='mmkd.PKDLoss'))
    student, teacher = pair(config) if config else (student_model(), teacher_model())
    model = distiller(student, teacher, losses)
    data = batch(size=64, num_classes=10)
    torch.manual_seed(0)
    expected = one_step(model, data)
    twin = copy.deepcopy(model)
    before = weights(model.teacher.model)
    move(twin)
    assert same(model.teacher.model.state_dict(), before)
    torch.manual_seed(0)
    losses = one_step(model, data)
    assert torch.equal(losses['loss_ckd'], expected['loss_ckd'])
    assert torch.equal(losses['loss_pkd'], expected['loss_pkd'])
    assert kinds(twin) != kinds(model)
    move(model)
    assert kinds(twin) == kinds(model)


def kinds(model: Distiller) -> set[tuple[torch.dtype, str]]:
    """Number types and devices of the teacher's weights."""
    return {(p.dtype, p.device.type) for p in model.teacher.model.parameters()}


def test_a_moved_original_leaves_its_copy_to_train_on() -> None:
    model = make_distiller()
    twin = copy.deepcopy(model)
    data = batch(size=64, num_classes=10)
    expected = one_step(copy.deepcopy(model), data)
    model.half().to('meta')
    assert torch.equal(one_step(twin, data)['loss_ckd'], expected['loss_ckd'])


def test_a_copy_takes_the_same_step_and_leaves_the_original_alone() -> None:
    model = make_distiller()
    twin = copy.deepcopy(model)
    data = batch(size=64, num_classes=10)
    theirs = one_step(twin, data)
    assert all(parameter.grad is None for parameter in model.parameters())
    ours = one_step(model, data)
    assert torch.equal(ours['loss_ckd'], theirs['loss_ckd'])


def test_building_the_teacher_draws_no_random_numbers_of_the_student() -> None:
    def draw_after(build: Any) -> tuple[dict[str, torch.Tensor], float]:
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = build()
            model.init_weights()
        return weights(model), float(torch.rand(()))

    plain, drawn = draw_after(lambda: MODELS.build(student_model()))
    ours, drawn_too = draw_after(
        lambda: Distiller(student_model(), teacher_options(random_drop_path()), dict(ckd=CKD))
    )
    assert same(plain, ours)
    assert drawn == drawn_too
