"""Query heads, with one logit vector per query. A pair is the two queries matched with the same object."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_convert
from typing_extensions import override

from mmkd.structures import (
    Activation,
    ClassMap,
    Holding,
    Request,
    SampleTable,
    Step,
    StoredRows,
    TeacherPass,
)

from .base import HeadAdapter, adapter_class, register_head_adapter


@dataclass(frozen=True)
class Matches:
    """M predictions of a network that its own assigner matched with objects of an image.

    Attributes:
        logits: (M, C) classification logits.
        boxes: (M, 4) predicted xyxy boxes in pixels of the network's input.
        labels: (M,) classes of the objects, as the network numbers them.
        object_ids: (M,) indices of the objects among the image's ground truths.
    """

    logits: Tensor
    boxes: Tensor
    labels: Tensor
    object_ids: Tensor


@dataclass
class QueryTable(SampleTable):
    """Samples of one decoder layer: the objects that both networks matched with one of their queries.

    Attributes:
        student_rows: (N, C) logits of the student's matched queries.
        teacher_rows: (N, C) logits of the teacher's matched queries.
        student_box_rows: (N, 4) boxes that the student's matched queries predict, xyxy in input pixels.
        teacher_box_rows: (N, 4) boxes that the teacher's matched queries predict.
    """

    student_rows: Tensor
    teacher_rows: Tensor
    student_box_rows: Tensor
    teacher_box_rows: Tensor

    @override
    def student_logits(self, index: Tensor) -> Tensor:
        return self.student_rows[index]

    @override
    def teacher_logits(self, index: Tensor) -> Tensor:
        return self.teacher_rows[index]

    @override
    def teacher_confidence(self) -> Tensor:
        return self.highest_foreground(self.teacher_rows)

    def boxes(self, index: Tensor) -> Tensor:
        """(S, 4) boxes that the student's matched queries predict, without gradient."""
        return self.student_box_rows[index].detach()

    @override
    def student_boxes(self, index: Tensor) -> Tensor:
        return self.student_box_rows[index]

    @override
    def teacher_boxes(self, index: Tensor) -> Tensor:
        return self.teacher_box_rows[index]


class QueryHeadAdapter(HeadAdapter):
    """The base class for heads that predict a set: query i of the student is unrelated to query i of the teacher.

    The ground truth aligns them. Each network's own assigner matches every object of an image with one query; for the
    student this is the match that its own loss used. The two queries of an object are a pair, so a table has one sample
    per object, and the numbers of queries may differ. If an image has more objects than queries, unmatched objects have
    no pair. Unmatched queries have no counterpart and are never samples.

    Args:
        student: The student, whose head is at ``path``.
        teacher: The teacher's network, whose head is at ``path`` too.
        path: Attribute of the head.
        layers: ``'last'``: one table, of the last decoder layer (or stage) of each network. ``'all'``: one table per
            layer; both networks need the same number of layers.

    Raises:
        ValueError: Activation, padding of the input or, with ``'all'``, the number of layers differ; the teacher has no
            assigner; ``layers`` is unknown.
    """

    assigner_name: ClassVar[str]
    """Attribute of the head that holds its assigner."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        path: str,
        *,
        layers: Literal['last', 'all'] = 'last',
    ) -> None:
        super().__init__(student, teacher, path)
        if layers not in ('last', 'all'):
            raise ValueError(f"model.head.layers: {layers!r} is neither 'last' nor 'all'")
        self.layers = layers
        self.num_layers = self.count_layers(student, self.student_head)
        ours, theirs = self.classifier(self.student_head), self.classifier(self.teacher_head)
        _require_equal(
            'activation',
            _activation(ours),
            _activation(theirs),
            'use the same kind of loss_cls in both heads',
        )
        if layers == 'all':
            _require_equal(
                'decoder layers',
                self.num_layers,
                self.count_layers(teacher, self.teacher_head),
                "set model.head=dict(layers='last')",
            )
        if not getattr(self.teacher_head, self.assigner_name, None):
            raise ValueError(
                f"the teacher's {path} ({type(self.teacher_head).__name__}) has no assigner, which matches its "
                'queries with the ground truth: keep model.train_cfg in model.teacher.config'
            )
        padding = [
            int(getattr(model.data_preprocessor, 'pad_size_divisor', 1))
            for model in (student, teacher)
        ]
        if padding[0] % padding[1]:
            raise ValueError(
                f"pad_size_divisor: the student's data_preprocessor has {padding[0]}, the teacher's {padding[1]}: "
                "make the student's a multiple of the teacher's, so that both see an image of the same size"
            )

    @property
    @override
    def activation(self) -> Activation:
        return _activation(self.classifier(self.student_head))

    @property
    @override
    def num_classes(self) -> int:
        return int(self.classifier(self.student_head).num_classes)

    @property
    @override
    def num_teacher_classes(self) -> int:
        return int(self.classifier(self.teacher_head).num_classes)

    @property
    @override
    def num_logits(self) -> int:
        return self.num_classes + (self.activation == 'softmax')

    @override
    def check_boxes(self, distributions: bool = False) -> None:
        if distributions:
            raise ValueError(
                f'{type(self.student_head).__name__} predicts boxes as four numbers, not as distributions: use '
                'mmkd.BoxL1Loss and mmkd.BoxGIoULoss'
            )

    @classmethod
    @abstractmethod
    def classifier(cls, head: Any) -> Any:
        """The module of ``head`` that has ``num_classes`` and ``loss_cls``."""

    @classmethod
    @abstractmethod
    def count_layers(cls, detector: Any, head: Any) -> int:
        """How many sets of predictions the head of ``detector`` makes for an image."""

    @abstractmethod
    def student_matches(self, step: Step) -> list[list[Matches]]:
        """Matches of every wanted layer, for each image, read from the taps."""

    @abstractmethod
    def teacher_matches(
        self, teacher: Any, features: Sequence[Tensor], step: Step
    ) -> list[list[Matches]]:
        """Matches of every wanted layer, for each image.

        Args:
            teacher: The teacher's network.
            features: The output of its ``extract_feat`` for the step's images.
            step: The step.
        """

    def stored_matches(self, images: list[StoredRows], step: Step) -> list[list[Matches]]:
        """Matches of every wanted layer, for each image, from stored rows."""
        raise NotImplementedError(f'{type(self).__name__} stores nothing')

    def tables(self, step: Step) -> list[SampleTable]:
        """One table per wanted layer, of the objects that both networks matched."""
        teacher = self.teacher_pass(step)
        matches = teacher.outputs(
            lambda model, features: self.teacher_matches(model, features, step),
            lambda images: self.stored_matches(images, step),
        )
        layers = zip(self.student_matches(step), matches, strict=True)
        return [self._table(ours, theirs, teacher.classes) for ours, theirs in layers]

    def student_tables(self, step: Step) -> list[SampleTable]:
        """One table per wanted layer, of the objects that the student matched, with itself as the teacher."""
        return [self._table(ours, ours, ClassMap()) for ours in self.student_matches(step)]

    def wanted(self, num_layers: int) -> range:
        """Indices of the layers that get a table."""
        return range(num_layers)[-1:] if self.layers == 'last' else range(num_layers)

    def _table(
        self, ours: Sequence[Matches], theirs: Sequence[Matches], classes: ClassMap
    ) -> QueryTable:
        kept, kept_theirs = [], []
        for student, teacher in zip(ours, theirs, strict=True):
            same_object = student.object_ids[:, None] == teacher.object_ids
            at_student, at_teacher = same_object.nonzero(as_tuple=True)
            kept.append(at_student)
            kept_theirs.append(at_teacher)
        student_rows = _pick(ours, 'logits', kept)
        return QueryTable(
            activation=self.activation,
            num_classes=self.num_classes,
            samples_per_image=[len(at) for at in kept],
            labels=_pick(ours, 'labels', kept),
            weights=student_rows.new_ones(len(student_rows)),
            object_ids=_pick(ours, 'object_ids', kept),
            num_foreground=len(student_rows),  # each is of an object
            student_rows=student_rows,
            teacher_rows=classes.logits(_pick(theirs, 'logits', kept_theirs)),
            student_box_rows=_pick(ours, 'boxes', kept),
            teacher_box_rows=_pick(theirs, 'boxes', kept_theirs),
        )


@register_head_adapter('DETRHead')
class DETRHeadAdapter(QueryHeadAdapter):
    """DETR and detectors derived from it: Conditional, DAB and Deformable DETR, DINO, DDQ.

    The student's head calls its assigner once per image for every decoder layer, then, in two-stage variants, for the
    encoder's proposals. Only matching queries go through the assigner: denoising queries (DINO, DDQ) and dense ones
    (DDQ) have their targets by construction. So the assigner's inputs and outputs are all that a pair needs.

    The teacher runs in eval mode, where it has no denoising or dense queries.
    """

    # The tap on the arguments has to come before the one on the results.
    taps: Mapping[str, str] = {
        'predictions': 'bbox_head.assigner.assign(...)',
        'assignments': 'bbox_head.assigner.assign()',
    }
    assigner_name = 'assigner'

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        path: str,
        *,
        layers: Literal['last', 'all'] = 'last',
    ) -> None:
        for role, detector in (('student', student), ('teacher', teacher)):
            if hasattr(detector, 'language_model'):
                raise ValueError(
                    f'the {role} ({type(detector).__name__}) classifies by the words of a prompt; its logits have '
                    'no fixed classes to align. Use a detector with a fixed set of classes'
                )
        super().__init__(student, teacher, path, layers=layers)

    @classmethod
    def classifier(cls, head: Any) -> Any:
        """The head itself."""
        return head

    @classmethod
    def count_layers(cls, detector: Any, head: Any) -> int:
        """Number of decoder layers whose queries reach the head."""
        return detector.decoder.num_layers if detector.decoder.return_intermediate else 1

    @override
    def student_matches(self, step: Step) -> list[list[Matches]]:
        predictions, assignments = step.record('predictions'), step.record('assignments')
        return [
            [
                _matches(
                    predictions[call]['pred_instances'],
                    predictions[call]['gt_instances'],
                    assignments[call],
                )
                for call in calls
            ]
            for calls in self._student_calls(step)
        ]

    def student_predictions(self, step: Step) -> list[list[Any]]:
        """``scores`` and ``bboxes`` of all of the student's queries: of every wanted layer, in turn of every image."""
        predictions = step.record('predictions')
        return [
            [predictions[call]['pred_instances'] for call in calls]
            for calls in self._student_calls(step)
        ]

    def _student_calls(self, step: Step) -> list[range]:
        """Of every wanted layer, which of the assigner's calls were for its images."""
        assignments = step.record('assignments')
        images = len(step.data_samples)
        if len(assignments) not in (self.num_layers * images, (self.num_layers + 1) * images):
            raise RuntimeError(
                f'{type(self.student_head).__name__} called its assigner {len(assignments)} times for {images} '
                f'images and {self.num_layers} decoder layers: an unknown order of targets. Derive an adapter '
                'from DETRHeadAdapter and implement student_matches() for this head'
            )
        return [
            range(layer * images, (layer + 1) * images) for layer in self.wanted(self.num_layers)
        ]

    @override
    def teacher_matches(
        self, teacher: Any, features: Sequence[Tensor], step: Step
    ) -> list[list[Matches]]:
        layers = self.teacher_predictions(teacher, features, step.data_samples)
        return [self._match(layer, step) for layer in layers]

    @override
    def to_store(self, request: Request[Any]) -> Holding:
        """All queries and their boxes, which are matched in training."""
        return Holding(boxes=True, layers=self.layers)

    @override
    def teacher_rows(
        self,
        teacher: TeacherPass,
        student: Any,
        data_samples: Sequence[Any],
        holding: Holding,
    ) -> list[StoredRows]:
        features = teacher.features
        layers = teacher.run(lambda model: self.teacher_predictions(model, features, data_samples))
        rows = []
        for image in range(len(data_samples)):
            queries = [layer[image] for layer in layers]
            rows.append(
                {
                    'logits': torch.cat([each.scores for each in queries]).half(),
                    'boxes': torch.cat([each.bboxes for each in queries]),
                    'layer': torch.cat(
                        [
                            torch.full((len(each),), number, dtype=torch.int16)
                            for number, each in enumerate(queries)
                        ]
                    ),
                }
            )
        return rows

    @override
    def stored_matches(self, images: list[StoredRows], step: Step) -> list[list[Matches]]:
        return [self._match(layer, step) for layer in self.stored_predictions(images, step)]

    def stored_predictions(self, images: list[StoredRows], step: Step) -> list[list[InstanceData]]:
        """What :meth:`teacher_predictions` gave before it was kept."""
        device = step.inputs.device
        layers: list[list[InstanceData]] = []
        for number in self.wanted(int(images[0]['layer'].max()) + 1):
            layers.append([])
            for rows in images:
                own = rows['layer'] == number
                logits, boxes = (
                    rows[name][own].to(device, non_blocking=True).float()
                    for name in ('logits', 'boxes')
                )
                layers[-1].append(InstanceData(scores=logits, bboxes=boxes))
        return layers

    def teacher_predictions(
        self, teacher: Any, features: Sequence[Tensor], data_samples: Sequence[Any]
    ) -> list[list[InstanceData]]:
        """Logits and boxes, in pixels, of the teacher's queries, for every wanted layer and image."""
        head = teacher.get_submodule(self.teacher_path)
        queries = teacher.forward_transformer(features, data_samples)
        logits, boxes = (
            values.float() for values in head(**queries)
        )  # matching costs need float32's range
        layers: list[list[InstanceData]] = []
        for layer in self.wanted(len(logits)):
            layers.append([])
            for image, sample in enumerate(data_samples):
                distinct = _distinct_queries(head, layer, image)
                height, width = sample.metainfo['img_shape'][:2]
                scale = boxes.new_tensor([width, height, width, height])
                layers[-1].append(
                    InstanceData(
                        scores=logits[layer, image][distinct],
                        bboxes=box_convert(boxes[layer, image], 'cxcywh', 'xyxy')[distinct] * scale,
                    )
                )
        return layers

    def _match(self, predictions: Sequence[InstanceData], step: Step) -> list[Matches]:
        """Match the predictions of every image with the teacher's assigner."""
        classes = self.teacher_pass(step).classes
        matches = []
        for found, sample in zip(predictions, step.data_samples, strict=True):
            objects, assignment = self.assign_to_teacher(found, sample, classes)
            matches.append(_matches(found, objects, assignment))
        return matches

    def assign_to_teacher(self, found: Any, sample: Any, classes: ClassMap) -> tuple[Any, Any]:
        """The objects of an image in the teacher's classes, and to which queries its assigner gives them."""
        objects = _teachers_objects(sample, classes)
        assignment = self.teacher_head.assigner.assign(
            pred_instances=found, gt_instances=objects, img_meta=sample.metainfo
        )
        return objects, assignment


@register_head_adapter('SparseRoIHead')
class SparseRoIHeadAdapter(QueryHeadAdapter):
    """Sparse R-CNN and QueryInst: queries are learned proposals, layers are the stages of the RoI head."""

    taps: Mapping[str, str] = {'stages': 'roi_head.bbox_loss()'}
    assigner_name = 'bbox_assigner'

    @classmethod
    def classifier(cls, head: Any) -> Any:
        """The last stage's box head."""
        return head.bbox_head[-1]

    @classmethod
    def count_layers(cls, detector: Any, head: Any) -> int:
        """Number of stages of the RoI head."""
        return head.num_stages

    @override
    def student_matches(self, step: Step) -> list[list[Matches]]:
        stages = step.record('stages')
        return [_stage_matches(stages[stage]) for stage in self.wanted(len(stages))]

    @override
    def teacher_matches(
        self, teacher: Any, features: Sequence[Tensor], step: Step
    ) -> list[list[Matches]]:
        head = teacher.get_submodule(self.teacher_path)
        classes = self.teacher_pass(step).classes
        proposals = teacher.rpn_head.predict(features, step.data_samples)
        query_features = torch.stack([proposal.features for proposal in proposals])
        stages = []
        for stage in range(head.num_stages):
            # The head has no method that predicts and matches but does not compute the loss.
            outputs = head.bbox_loss(
                stage=stage,
                x=features,
                results_list=proposals,
                object_feats=query_features,
                batch_img_metas=[sample.metainfo for sample in step.data_samples],
                batch_gt_instances=[
                    _teachers_objects(sample, classes) for sample in step.data_samples
                ],
            )
            stages.append(outputs)
            proposals, query_features = outputs['results_list'], outputs['object_feats']
        return [_stage_matches(stages[stage]) for stage in self.wanted(len(stages))]


def head_of_another_kind(own: HeadAdapter) -> nn.Module:
    """Of a pair that is not both of DETR's kin the head that is not; of two such the student's."""
    return next(
        head
        for head in (own.student_head, own.teacher_head)
        if not issubclass(adapter_class(head) or object, DETRHeadAdapter)
    )


def _teachers_objects(sample: Any, classes: ClassMap) -> Any:
    """The ground truth of an image with the teacher's class numbers."""
    objects = sample.gt_instances.new()
    objects.labels = classes.labels(objects.labels)
    return objects


def _matches(predictions: Any, objects: Any, assignment: Any) -> Matches:
    """The queries of an image that an assigner matched. ``gt_inds`` counts objects from 1; 0 is no object."""
    query = (assignment.gt_inds > 0).nonzero().flatten()
    object_ids = assignment.gt_inds[query] - 1
    return Matches(
        logits=predictions.scores[query],
        boxes=predictions.bboxes[query],
        labels=objects.labels[object_ids],
        object_ids=object_ids,
    )


def _stage_matches(outputs: Mapping[str, Any]) -> list[Matches]:
    """Matches of every image, from the output of ``SparseRoIHead.bbox_loss``."""
    images = zip(
        outputs['cls_score'],
        outputs['decoded_bboxes'].view(*outputs['cls_score'].shape[:2], 4),
        outputs['sampling_results'],
        strict=True,
    )
    return [
        Matches(
            logits=logits[sampling.pos_inds],
            boxes=boxes[sampling.pos_inds],
            labels=sampling.pos_gt_labels,
            object_ids=sampling.pos_assigned_gt_inds,
        )
        for logits, boxes, sampling in images
    ]


def _pick(matches: Sequence[Matches], field: str, kept: Sequence[Tensor]) -> Tensor:
    """A field of the kept matches of every image, image by image."""
    return torch.cat([getattr(match, field)[at] for match, at in zip(matches, kept, strict=True)])


def _distinct_queries(head: Any, layer: int, image: int) -> Tensor | slice:
    """The distinct queries that DDQ's decoder selected before this layer: its loss and prediction use only these."""
    if layer == 0 or not hasattr(head, 'cache_dict'):
        return slice(None)
    masks = head.cache_dict['distinct_query_mask'][layer - 1]
    return masks[image * head.cache_dict['num_heads'], 0]


def _activation(classifier: Any) -> Activation:
    return 'sigmoid' if classifier.loss_cls.use_sigmoid else 'softmax'


def _require_equal(what: str, student: Any, teacher: Any, fix: str) -> None:
    if student != teacher:
        raise ValueError(f'{what}: the student has {student}, the teacher {teacher}: {fix}')
