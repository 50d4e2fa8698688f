from __future__ import annotations

import pytest
import torch

from mmkd.functional import aekt_loss, standardize_rows
from mmkd.losses import AllSamples
from mmkd.losses.aekt import SerialLayer
from mmkd.registry import LOSSES, build
from mmkd.structures import Progress

AEKT = dict(type='mmkd.AEKTLoss', serial='task_then_distill', alpha=0.5, beta=2.0, temperature=3.0)
OPTIONS = dict(alpha=0.5, beta=2.0, temperature=3.0)
EXTRAS = {'distill.tested.serial_layer.offset', 'distill.tested.serial_layer.bias'}


def scramble(layer: SerialLayer) -> None:
    """Weights as after some training."""
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))


@pytest.fixture
def predictions():
    """Boxes, scores and labels of a detector in eval mode on two random images."""
    from zoo import batch, mmdet_scope

    def predict(model):
        data = batch(num_classes=4)
        model.eval()
        with mmdet_scope(), torch.no_grad():
            samples = model(**data, mode='predict')
        found = [sample.pred_instances for sample in samples]
        assert any(len(instances) for instances in found)
        return [
            torch.cat([getattr(f, name).float().flatten() for f in found])
            for name in ('bboxes', 'scores', 'labels')
        ]

    return predict


def test_by_default_there_is_no_layer():
    assert not list(build(LOSSES, dict(type='mmkd.AEKTLoss'), where='aekt').parameters())


def test_softmax_rows_keep_background_as_a_class(make_table, attach, step_of):
    table = make_table('softmax')
    loss = attach(AEKT, table)
    assert loss.sampler == AllSamples()

    expected = aekt_loss(table.student, table.teacher, table.labels, **OPTIONS)
    torch.testing.assert_close(loss(step_of(table)), expected)


@pytest.mark.parametrize('samples', ['Positives', 'AllSamples'])
@pytest.mark.parametrize('non_target', ['nckd', 'binary_kl'])
def test_only_foreground_has_an_assigned_target_on_sigmoid_heads(
    make_table, attach, step_of, samples, non_target
):
    table = make_table('sigmoid')
    options = dict(target='assigned', samples=dict(type=f'mmkd.{samples}'), non_target=non_target)
    loss = attach(AEKT | options, table)
    foreground = table.labels < table.num_classes

    expected = aekt_loss(
        table.student[foreground],
        table.teacher[foreground],
        table.labels[foreground],
        activation='sigmoid',
        non_target=non_target,
        **OPTIONS,
    )
    torch.testing.assert_close(loss(step_of(table)), expected)


@pytest.mark.parametrize(
    'options',
    [
        dict(gamma=0.5),
        dict(r_max=1.5),
        dict(explicit='ratio'),
        dict(explicit='nkd'),
        dict(explicit='tckd'),
    ],
)
def test_every_option_reaches_the_function(make_table, attach, step_of, options):
    table = make_table('softmax')
    value = attach(AEKT | options, table)(step_of(table))

    expected = aekt_loss(table.student, table.teacher, table.labels, **OPTIONS, **options)
    default = aekt_loss(table.student, table.teacher, table.labels, **OPTIONS)
    torch.testing.assert_close(value, expected)
    assert not torch.isclose(value, default)


def test_no_foreground_gives_a_zero_that_reaches_student_and_layer(make_table, attach, step_of):
    table = make_table('sigmoid', labels=torch.full((12,), 4))
    loss = attach(AEKT | dict(target='assigned'), table)

    value = loss(step_of(table))
    value.backward()

    assert value.item() == 0
    assert not table.student.grad.any()
    assert not loss.serial_layer.offset.grad.any()


def test_trained_layer_maps_the_students_logits_before_their_rows_are_standardized(
    make_table, attach, step_of
):
    table = make_table('softmax')
    loss = attach(AEKT | dict(rows='standardize'), table)
    scramble(loss.serial_layer)
    weight = torch.eye(5, dtype=torch.float64) + loss.serial_layer.offset
    distilled = table.student @ weight.T + loss.serial_layer.bias

    expected = aekt_loss(
        standardize_rows(distilled), standardize_rows(table.teacher), table.labels, **OPTIONS
    )
    torch.testing.assert_close(loss(step_of(table)), expected)


@pytest.mark.parametrize('detector', ['retinanet', 'faster_rcnn'])
def test_layer_starts_as_the_identity_exactly_and_learns(distil, gradient_of_step, detector):
    options = AEKT | dict(target='assigned', samples=dict(type='mmkd.Positives'))
    with_layer = distil(detector, **options)
    value, gradient = gradient_of_step(with_layer)
    without, same_gradient = gradient_of_step(distil(detector, **options | dict(serial='none')))

    assert value == without > 0
    assert gradient.isfinite().all()
    assert gradient.any()
    torch.testing.assert_close(gradient, same_gradient, rtol=1e-4, atol=1e-6)
    for parameter in with_layer.distill.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_layer_has_a_row_for_every_logit(distil):
    def rows(detector):
        layer = distil(detector, **AEKT).distill['tested'].serial_layer
        return tuple(layer.offset.shape)

    assert rows('retinanet') == (4, 4)
    assert rows('faster_rcnn') == (5, 5)


def test_checkpoint_is_the_students_plus_the_layer(distil):
    plain = set(distil('retinanet').state_dict())
    extras = set(distil('retinanet', **AEKT).state_dict()) - plain

    assert extras == EXTRAS
    assert plain <= set(distil('retinanet', **AEKT).state_dict())
    assert set(distil('retinanet', **AEKT | dict(serial='none')).state_dict()) == plain


def test_student_without_the_layer_predicts_the_same_bits(distil, gradient_of_step, predictions):
    from mmengine.registry import MODELS
    from zoo import mmdet_scope, pair

    trained = distil('retinanet', **AEKT)
    gradient_of_step(trained)
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    scramble(trained.distill['tested'].serial_layer)
    torch.nn.init.zeros_(trained.bbox_head.retina_cls.bias)  # scores high enough to be predictions
    weights = {key: value for key, value in trained.state_dict().items() if key not in EXTRAS}
    student_config, _ = pair(
        'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', bbox_head__num_classes=4
    )
    with mmdet_scope():
        plain = MODELS.build(student_config)
    plain.load_state_dict(weights, strict=True)

    for distilled, alone in zip(predictions(trained), predictions(plain), strict=True):
        assert torch.equal(distilled, alone)


def test_layer_resumes_from_a_checkpoint(distil, gradient_of_step):
    trained = distil('retinanet', **AEKT)
    scramble(trained.distill['tested'].serial_layer)
    resumed = distil('retinanet', **AEKT)
    fresh, _ = gradient_of_step(distil('retinanet', **AEKT))

    resumed.load_state_dict(trained.state_dict())

    value, _ = gradient_of_step(resumed)
    assert value == gradient_of_step(trained)[0]
    assert value != fresh


def test_weight_decay_pulls_the_layer_to_the_identity():
    layer = SerialLayer(6)
    scramble(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=1.0)
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))

    def distance():
        return (layer(logits) - logits).detach()

    before = distance()
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    torch.testing.assert_close(distance(), 0.9 * before)


def test_warm_up_is_the_common_schedule():
    warm_up = dict(type='mmkd.LinearWarmup', value=2.0, end=10, by_epoch=False)
    loss = build(LOSSES, AEKT | dict(weight=warm_up), 'model.losses.aekt')

    assert [loss.weight(Progress(iteration=i)) for i in (0, 5, 20)] == [0.0, 1.0, 2.0]


def test_head_without_labels_is_an_error(make_table, attach, step_of):
    table = make_table('softmax', labels=None)

    with pytest.raises(ValueError, match='AEKTLoss needs the class of every sample'):
        attach(AEKT, table)(step_of(table))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(temperature=0), r'model\.losses\.aekt\.temperature: 0 is not a positive number'),
        (
            dict(explicit='kl'),
            r"model\.losses\.aekt\.explicit: 'kl' is unknown: use one of relative_tckd",
        ),
        (dict(non_target='kd'), r"model\.losses\.aekt\.non_target: 'kd' is unknown"),
        (
            dict(serial='both'),
            r"model\.losses\.aekt\.serial: 'both' is unknown: use one of task_then_distill",
        ),
    ],
)
def test_wrong_options_are_named_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        build(LOSSES, AEKT | options, 'model.losses.aekt')


def test_options_that_mean_nothing_on_the_head_are_errors_before_training(distil):
    with pytest.raises(ValueError, match=r"AEKTLoss\.non_target: 'binary_kl'"):
        distil('faster_rcnn', **AEKT, non_target='binary_kl')
    with pytest.raises(ValueError, match=r"AEKTLoss\.rows: 'center' changes the scores"):
        distil('retinanet', **AEKT, rows='center')
