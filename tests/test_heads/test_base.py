"""Which adapter serves a head, and what is said when none does."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from torch import nn
from zoo import distiller, pair

from mmkd.heads import HeadAdapter, build_head_adapter, register_head_adapter
from mmkd.structures import SampleTable, Step


class FamilyHeadForTests(nn.Module):
    """Head of a known family."""


class ChildHead(FamilyHeadForTests):
    """No adapter of its own."""


class OtherHeadForTests(nn.Module):
    """Head of another known family."""


class UnknownHead(nn.Module):
    """Head of no known family."""


class Nothing(HeadAdapter):
    """Shared by the adapters below."""

    taps: ClassVar[dict[str, str]] = {}

    def tables(self, step: Step) -> list[SampleTable]:
        return []


@register_head_adapter('FamilyHeadForTests')
class FamilyAdapter(Nothing):
    """Takes an option."""

    def __init__(self, student: Any, teacher: Any, path: str, *, layers: str = 'last') -> None:
        super().__init__(student, teacher, path)
        self.layers = layers


@register_head_adapter('OtherHeadForTests')
class OtherAdapter(Nothing):
    """Takes none."""


class Model(nn.Module):
    """A model with these children."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def test_a_head_is_served_by_its_family() -> None:
    student, teacher = Model(bbox_head=ChildHead()), Model(bbox_head=FamilyHeadForTests())
    adapter = build_head_adapter(student, teacher)
    assert type(adapter) is FamilyAdapter
    assert adapter.student_head is student.bbox_head
    assert adapter.teacher_head is teacher.bbox_head


def test_the_nearest_base_class_wins() -> None:
    @register_head_adapter('GrandchildHead')
    class GrandchildAdapter(Nothing):
        pass

    class GrandchildHead(ChildHead):
        pass

    model = Model(bbox_head=GrandchildHead())
    assert type(build_head_adapter(model, model)) is GrandchildAdapter


@pytest.mark.parametrize('path', ['bbox_head', 'head', 'roi_head'])
def test_the_head_is_found_where_models_keep_it(path: str) -> None:
    model = Model(**{path: ChildHead()})
    assert build_head_adapter(model, model).student_head is getattr(model, path)


def test_a_model_without_a_head_lists_where_one_was_looked_for() -> None:
    with pytest.raises(ValueError, match=r'Model has none of .*bbox_head'):
        build_head_adapter(Model(), Model())


@pytest.mark.parametrize(
    ('config', 'part'),
    [
        ('mmdet::solo/solo_r50_fpn_1x_coco.py', r'mask_head \(SOLOHead\): take .*PKDLoss'),
        (
            'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
            r'panoptic_head \(Mask2FormerHead\), .*: take a student',
        ),
    ],
)
def test_a_detector_of_masks_alone_is_told_what_it_can_have(config: str, part: str) -> None:
    """SOLO has a bbox_head that is None; Mask2Former has no neck."""
    with pytest.raises(ValueError, match=rf'has none of .*; no adapter serves its {part}'):
        distiller(*pair(config))


def test_an_unknown_head_lists_the_families_and_what_to_implement() -> None:
    model = Model(bbox_head=UnknownHead())
    message = (
        r'no head adapter serves UnknownHead; known families: .*AnchorHead.*HeadAdapter, implement '
        r"tables\(\) and register it with @register_head_adapter\('UnknownHead'\)"
    )
    with pytest.raises(ValueError, match=message):
        build_head_adapter(model, model)


@pytest.mark.parametrize(
    ('teacher', 'found'),
    [
        (Model(bbox_head=OtherHeadForTests()), 'OtherHeadForTests'),
        (Model(), 'no head'),
    ],
)
def test_a_teacher_that_cannot_be_aligned_names_both(teacher: nn.Module, found: str) -> None:
    with pytest.raises(ValueError, match=rf'ChildHead.*{found}.*[Uu]se a teacher'):
        build_head_adapter(Model(bbox_head=ChildHead()), teacher)


def test_options_reach_the_adapter() -> None:
    model = Model(bbox_head=ChildHead())
    assert build_head_adapter(model, model).layers == 'last'
    assert build_head_adapter(model, model, dict(layers='all')).layers == 'all'


def test_an_unknown_option_lists_the_options() -> None:
    model = Model(bbox_head=ChildHead())
    with pytest.raises(
        TypeError, match=r'model\.head: FamilyAdapter.*ChildHead.*layer; its options are: layers'
    ):
        build_head_adapter(model, model, dict(layer='all'))
    other = Model(bbox_head=OtherHeadForTests())
    with pytest.raises(TypeError, match=r'OtherAdapter.*its options are: none'):
        build_head_adapter(other, other, dict(layers='all'))
