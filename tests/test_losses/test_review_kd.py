from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmkd.functional import hcl_loss
from mmkd.losses import ReviewKDLoss
from mmkd.losses.review_kd import Fusion
from mmkd.structures import FeaturePair

CHANNELS = [(3, 5), (4, 6), (2, 7)]


@pytest.fixture
def loss():
    """Three levels whose widths all differ, float64."""
    torch.manual_seed(0)
    review_kd = ReviewKDLoss(mid_channels=4)
    review_kd._make_layers(dict(enumerate(CHANNELS)))
    return review_kd.double()


@pytest.fixture
def pairs():
    """Maps of 12, 6 and 3 pixels."""
    noise = torch.Generator().manual_seed(1)

    def maps(channels, size):
        return torch.randn(2, channels, size, size, generator=noise, dtype=torch.float64)

    return [
        FeaturePair(
            level, 8 << level, maps(ours, 12 >> level).requires_grad_(), maps(theirs, 12 >> level)
        )
        for level, (ours, theirs) in enumerate(CHANNELS)
    ]


def batch_norm(maps):
    """Over batch and space, as a fresh BatchNorm in training."""
    mean = maps.mean((0, 2, 3), keepdim=True)
    variance = maps.var((0, 2, 3), keepdim=True, unbiased=False)
    return (maps - mean) / (variance + 1e-5).sqrt()


def test_value_follows_the_papers_fusion_from_deep_to_shallow(loss, pairs):
    fused, review = [], None
    for pair, fusion in zip(pairs[::-1], list(loss.fusions)[::-1], strict=True):
        squeezed = batch_norm(
            torch.einsum('bchw,oc->bohw', pair.student, fusion.squeeze[0].weight[..., 0, 0])
        )
        if review is not None:
            doubled = review.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            both = torch.cat([squeezed, doubled], dim=1)
            gates = torch.einsum('bchw,oc->bohw', both, fusion.gates.weight[..., 0, 0])
            gates = (gates + fusion.gates.bias.view(1, 2, 1, 1)).sigmoid()
            squeezed = gates[:, :1] * squeezed + gates[:, 1:] * doubled
        review = squeezed
        fused.insert(0, batch_norm(F.conv2d(review, fusion.expand[0].weight, padding=1)))

    torch.testing.assert_close(
        loss.compute(pairs, None), hcl_loss(fused, [pair.teacher for pair in pairs])
    )


def test_shallow_levels_review_the_deep_ones_and_not_the_reverse(loss, pairs):
    shallow, deep = pairs[0].student, pairs[2].student
    loss.eval()  # without batch statistics a map's value depends on its own place only
    review = None
    outputs = []
    for pair, fusion in zip(pairs[::-1], list(loss.fusions)[::-1], strict=True):
        output, review = fusion(pair.student, review)
        outputs.append(output)

    (reviewed,) = torch.autograd.grad(outputs[-1].sum(), deep, retain_graph=True)
    (unseen,) = torch.autograd.grad(outputs[0].sum(), shallow, allow_unused=True)
    assert reviewed.any()
    assert unseen is None


def test_deepest_level_has_no_gates(loss):
    assert [fusion.gates is not None for fusion in loss.fusions] == [True, True, False]


def test_review_is_brought_to_sizes_that_are_no_multiple():
    fusion = Fusion(3, 4, 5, gated=True)

    output, review = fusion(torch.randn(2, 3, 7, 9), torch.randn(2, 4, 3, 5))

    assert output.shape == (2, 5, 7, 9)
    assert review.shape == (2, 4, 7, 9)


@pytest.mark.parametrize('detector', ['retinanet', 'faster_rcnn'])
def test_trains_the_student_and_every_fusion(distil, gradient_of_step, detector):
    model = distil(detector, type='mmkd.ReviewKDLoss')

    value, gradient = gradient_of_step(model)

    assert 0 < value < float('inf')
    assert gradient.isfinite().all()
    assert gradient.any()
    fusions = dict(model.distill.named_parameters())
    assert len(fusions) == 5 * 6 + 4 * 2  # 5 levels, gates at all but the deepest
    assert all(name.startswith('tested.fusions.') for name in fusions)
    for name, parameter in fusions.items():
        assert parameter.grad.isfinite().all(), name


def test_fusions_are_as_wide_as_the_teacher_unless_told(distil):
    def middle(**options):
        model = distil('retinanet', type='mmkd.ReviewKDLoss', **options)
        return {fusion.squeeze[0].out_channels for fusion in model.distill['tested'].fusions}

    assert middle() == {32}
    assert middle(mid_channels=8) == {8}


def test_students_own_weights_and_random_numbers_are_as_without(distil):
    with_fusions = distil('retinanet', type='mmkd.ReviewKDLoss')
    drawn = torch.rand(3)
    plain = distil('retinanet')
    assert torch.equal(drawn, torch.rand(3))

    state = with_fusions.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(
        key.startswith('distill.tested.') for key in state.keys() - plain.state_dict().keys()
    )


def test_necks_of_other_width_and_levels_need_no_connector():
    from zoo import batch, distiller, gradient, one_step, pair

    student, teacher = pair('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    teacher.neck.update(out_channels=48, num_outs=4)
    teacher.bbox_head.in_channels = 48
    for strides, levels in ((None, 4), ([8, 32], 2)):
        model = distiller(
            student, teacher, dict(review_kd=dict(type='mmkd.ReviewKDLoss', strides=strides))
        )
        fusions = model.distill['review_kd'].fusions
        assert [fusion.expand[0].out_channels for fusion in fusions] == [48] * levels
        assert one_step(model, batch(), of='loss_review_kd')['loss_review_kd'] > 0
        assert gradient(model.student.backbone).any()
        assert all(parameter.grad.isfinite().all() for parameter in fusions.parameters())


def test_levels_of_several_modules_are_reviewed_from_the_deepest_whichever_is_named_first(distil):
    at = ['backbone.layer2', 'backbone.layer3']
    models = [distil('retinanet', type='mmkd.ReviewKDLoss', at=each) for each in (at, at[::-1])]
    fusions = [model.distill['tested'].fusions for model in models]
    assert [fusion.gates is None for fusion in fusions[1]] == [False, True]
    for ours, theirs in zip(*fusions, strict=True):
        assert ours.squeeze[0].weight.shape == theirs.squeeze[0].weight.shape


def test_the_review_of_a_neck_that_lists_deep_levels_first_starts_at_the_deepest():
    from zoo import batch, distiller, one_step, pair

    configs = pair('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py')
    model = distiller(*configs, dict(review_kd=dict(type='mmkd.ReviewKDLoss')))
    reviewed = []
    for fusion in model.distill['review_kd'].fusions:
        fusion.register_forward_hook(
            lambda fusion, inputs, _: reviewed.append((inputs[0].shape[-1], fusion.gates is None))
        )
    assert one_step(model, batch(size=64))['loss_review_kd'] > 0
    assert reviewed == [(2, True), (4, False), (8, False)]


def test_a_batch_of_one_image_whose_deepest_level_is_one_cell_trains(distil):
    from zoo import batch, one_step

    model = distil('retinanet', type='mmkd.ReviewKDLoss')
    losses = one_step(model, batch(num_images=1, num_classes=4, boxes=(2,)), of='loss_tested')
    assert 0 < losses['loss_tested'] < float('inf')
    for name, parameter in model.distill.named_parameters():
        assert parameter.grad.isfinite().all(), name
