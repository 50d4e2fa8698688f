"""Queries that both networks answer: the teacher's own, and random ones (KD-DETR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from typing_extensions import override

from mmkd.structures import BoxPairs, Holding, Request, Sampler, SampleTable, Step, TeacherPass
from mmkd.structures.taps import Taps

from .base import DerivedAdapter, HeadAdapter
from .query import DETRHeadAdapter, QueryTable, head_of_another_kind

Queries = dict[str, Tensor]
Predictions = tuple[Tensor, Tensor]
_EPSILON = 1e-5  # MMDetection's, of the inverse of a sigmoid
_TAP = {'decoder': 'forward_decoder(...)'}


@dataclass(frozen=True)
class QueryForm:
    """What a query consists of in a kind of detector.

    Attributes:
        inputs: The inputs of the decoder that make up a query; both networks get the same.
        places: The input with the reference points, relative to the image size; None if positions are learned, too.
        unbounded: Whether ``places`` are given before the sigmoid.
    """

    inputs: tuple[str, ...]
    places: str | None = None
    unbounded: bool = False

    @property
    def learnt(self) -> bool:
        """Whether a query contains learned vectors, whose length is the width of the decoder."""
        return any(name != self.places for name in self.inputs)


_LEARNT = QueryForm(('query', 'query_pos'))
_FORMS = {
    'DETR': _LEARNT,
    'ConditionalDETR': _LEARNT,
    'DABDETR': QueryForm(('query_pos',), 'query_pos', unbounded=True),
    'DeformableDETR': QueryForm(('query', 'query_pos', 'reference_points'), 'reference_points'),
    'DINO': QueryForm(('query', 'reference_points'), 'reference_points'),
}
_TWO_STAGE = QueryForm(('reference_points',), 'reference_points')
_OTHERS = ('DDQDETR',)
"""Derived from one of these, but with other queries."""


@dataclass
class SharedQueryTable(QueryTable):
    """Both networks' answers to the same queries in one decoder layer; weights are the teacher's confidence."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weights = self.teacher_confidence()

    @override
    def box_pairs(self, sampler: Sampler, image_sizes: Tensor) -> BoxPairs:
        """With weights 1, because losses on boxes already weigh by the teacher's confidence."""
        pairs = super().box_pairs(sampler, image_sizes)
        return replace(pairs, weights=torch.ones_like(pairs.weights))


class SharedQueryAdapter(DerivedAdapter):
    """Gives both decoders the same queries (KD-DETR, CVPR 2024), so that they need no matching.

    The teacher's own queries go through its decoder as usual, and in a separate pass through the student's, with the
    keys and values of its training step. Random queries go through both in a separate pass, too. The gradient flows
    through the student's decoder into its encoder.

    Both networks get the same reference points and, if queries have learned contents, the teacher's. The content of a
    random query is that of one of the teacher's queries (our choice, not the paper's). In DAB-DETR and two-stage
    Deformable DETR, a query is a reference point only. Samples have no label and no object; their weight is the
    teacher's confidence.

    Args:
        own: The adapter of the pair.
        student: The student.
        teacher: The teacher's network.
        random: Number of random queries per image.

    Raises:
        ValueError: The two networks' queries are not of the same kind.
    """

    own: DETRHeadAdapter
    has_labels = False

    def __init__(
        self, own: HeadAdapter, student: nn.Module, teacher: nn.Module, random: int
    ) -> None:
        if not isinstance(own, DETRHeadAdapter):
            kind = type(head_of_another_kind(own)).__name__
            raise ValueError(
                f'samples=mmkd.SharedQueries: {kind} has no queries that go through a decoder, as '
                'DETR and detectors derived from it have: use another sampler'
            )
        super().__init__(student, teacher, own.path)
        self.own = own
        self.student: Any = student
        self.random = random
        self.form = _common_form(student, teacher)
        if random and self.form.places is None:
            raise ValueError(
                f'samples=mmkd.SharedQueries.random: the queries of {type(student).__name__} have no reference points '
                'to draw at random: set random=0'
            )
        self.taps = {**own.taps, **_TAP}

    @override
    def to_store(self, request: Request[Any]) -> Holding:
        raise ValueError(
            'shared queries go through both decoders in every step: no store holds them'
        )

    def tables(self, step: Step) -> list[SampleTable]:
        """One table per wanted decoder layer, with all queries of every image, the random ones last."""
        teacher = self.teacher_pass(step)
        features = teacher.features
        queries, theirs = teacher.run(lambda network: self._ask_teacher(network, features, step))
        inputs = step.record('decoder')[0]
        ours = [self._decode(self.student, self.student_head, inputs, each) for each in queries]
        layers = zip(self._layers(ours), self._layers(theirs), strict=True)
        return [self._table(*layer, step, teacher) for layer in layers]

    def _ask_teacher(
        self, network: Any, features: Sequence[Tensor], step: Step
    ) -> tuple[list[Queries], list[Predictions]]:
        """The sets of queries, and the teacher's predictions for each."""
        head = network.get_submodule(self.teacher_path)
        taps = Taps(network, _TAP)
        try:
            with taps.recording() as records:
                outputs = network.forward_transformer(features, step.data_samples)
        finally:
            taps.detach()
        inputs = records['decoder'][0]
        queries = [{name: inputs[name] for name in self.form.inputs}]
        predictions = [head(**outputs)]
        if self.random:
            queries.append(self._draw(queries[0], step.generator))
            predictions.append(self._decode(network, head, inputs, queries[1]))
        return queries, predictions

    def _draw(self, own: Queries, generator: torch.Generator) -> Queries:
        """Random queries: reference points of any position and size, with the teacher's contents in turn."""
        form = self.form
        assert form.places is not None
        like = own[form.places]
        places = torch.rand(
            len(like), self.random, like.shape[-1], generator=generator, device=like.device
        )
        turn = torch.arange(self.random, device=like.device) % like.shape[1]
        drawn = {name: own[name][:, turn] for name in form.inputs}
        return drawn | {form.places: places.logit(_EPSILON) if form.unbounded else places}

    def _decode(
        self, network: Any, head: Any, inputs: Mapping[str, Any], queries: Queries
    ) -> Predictions:
        """A network's predictions for queries; ``inputs`` are its decoder's inputs for its own queries."""
        like = inputs['memory']
        made = {name: each.to(like) for name, each in queries.items()}
        if self.form is _TWO_STAGE:
            embedded = network.get_proposal_pos_embed(made['reference_points'].logit(_EPSILON))
            embedded = network.pos_trans_norm(network.pos_trans_fc(embedded))
            made['query_pos'], made['query'] = embedded.chunk(2, dim=-1)
        elif 'query' not in made:  # DAB-DETR's contents start at 0
            made['query'] = like.new_zeros(*made['query_pos'].shape[:2], like.shape[-1])
        arguments = {**inputs, **made}
        if 'dn_mask' in arguments:  # there is nothing to denoise
            arguments['dn_mask'] = None
        return head(**network.forward_decoder(**arguments))

    def _layers(self, predictions: Sequence[Predictions]) -> list[Predictions]:
        """(B, Q, C) logits and (B, Q, 4) boxes of every wanted layer, for all sets of queries."""
        logits, boxes = (torch.cat(each, dim=2).float() for each in zip(*predictions, strict=True))
        return [(logits[layer], boxes[layer]) for layer in self.own.wanted(len(logits))]

    def _table(
        self, ours: Predictions, theirs: Predictions, step: Step, teacher: TeacherPass
    ) -> SharedQueryTable:
        (student_logits, student_boxes), (teacher_logits, teacher_boxes) = (
            (logits.flatten(0, 1), _in_pixels(boxes, step.image_sizes))
            for logits, boxes in (ours, theirs)
        )
        images, queries = ours[0].shape[:2]
        count = len(student_logits)
        return SharedQueryTable(
            activation=self.activation,
            num_classes=self.num_classes,
            samples_per_image=[queries] * images,
            labels=None,
            weights=student_boxes.new_ones(count),
            object_ids=torch.full((count,), -1, device=student_boxes.device),
            student_rows=student_logits,
            teacher_rows=teacher.classes.logits(teacher_logits),
            student_box_rows=student_boxes,
            teacher_box_rows=teacher_boxes,
        )


def _in_pixels(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """(B * Q, 4) xyxy boxes in pixels from (B, Q, 4) centres and sizes relative to the images."""
    return (box_convert(boxes, 'cxcywh', 'xyxy') * image_sizes.repeat(1, 2)[:, None]).flatten(0, 1)


def _common_form(student: Any, teacher: Any) -> QueryForm:
    """The form of both networks' queries.

    Raises:
        ValueError: The forms differ, or queries contain learned vectors and the decoders differ in width.
    """
    forms = [_form(detector) for detector in (student, teacher)]
    for form, detector in zip(forms, (student, teacher), strict=True):
        if form is None:
            raise ValueError(
                f'samples=mmkd.SharedQueries: queries of {type(detector).__name__} cannot be shared; those of '
                f'{", ".join(_FORMS)} can (DAB-DETR without patterns): use another sampler'
            )
    if _family(student) != _family(teacher) or forms[0] is not forms[1]:
        raise ValueError(
            f'samples=mmkd.SharedQueries: the student ({type(student).__name__}) cannot use queries of the teacher '
            f'({type(teacher).__name__}): the two are of different kinds (or stages): use another sampler'
        )
    assert forms[0] is not None
    if forms[0].learnt and student.embed_dims != teacher.embed_dims:
        raise ValueError(
            f"samples=mmkd.SharedQueries: embed_dims: the teacher's queries have width {teacher.embed_dims}, "
            f"the student's decoder {student.embed_dims}: give both the same width, or use another sampler"
        )
    return forms[0]


def _family(detector: Any) -> str | None:
    names = [kind.__name__ for kind in type(detector).__mro__]
    return next((name for name in names if name in _FORMS or name in _OTHERS), None)


def _form(detector: Any) -> QueryForm | None:
    family = _family(detector)
    if family == 'DeformableDETR' and detector.as_two_stage:
        return _TWO_STAGE
    if family == 'DABDETR' and detector.num_patterns:
        return None
    return _FORMS.get(family) if family is not None else None
