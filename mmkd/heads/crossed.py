"""Passes the student's features through the rest of the teacher's head (CrossKD)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from typing_extensions import override

from mmkd.functional.compat import autocast_dtype
from mmkd.structures import FeaturePair, SampleTable, Step

from .base import DerivedAdapter, HeadAdapter
from .dense import BOX_TOWER, DenseHeadAdapter, DenseTable, with_towers

_TOWERS = ('cls_convs', BOX_TOWER)


class CrossedHeadAdapter(DerivedAdapter):
    """Tables of a dense head whose student outputs are computed by the *teacher's* head.

    The outputs of the first ``layer`` convolutions of the student's head, in both towers, go through the remaining
    convolutions and the last layers of the teacher's head, in eval mode. The gradient flows back through these layers
    into the student; the teacher's weights get none. Labels, weights and objects are the student's own.

    Args:
        own: The adapter of the pair.
        student: The student.
        teacher: The teacher's network.
        path: Attribute of the student's head.
        layer: Number of convolutions in each tower that are the student's.

    Raises:
        ValueError: A head has no such towers, or the towers differ in depth, width or normalisation.
    """

    own: DenseHeadAdapter

    def __init__(
        self, own: HeadAdapter, student: nn.Module, teacher: nn.Module, path: str, layer: int
    ) -> None:
        if not isinstance(own, DenseHeadAdapter):
            raise ValueError(
                f"the student's head is a {type(own.student_head).__name__}, the teacher's a "
                f"{type(own.teacher_head).__name__}: the student's features can go through the teacher's head only "
                'where both are dense heads: use a loss on logits'
            )
        super().__init__(student, teacher, path)
        self.own = own
        self.layer = layer
        ours, theirs = (_towers(head, layer) for head in (self.student_head, self.teacher_head))
        if ours != theirs:
            raise ValueError(
                f"the student's features cannot go through the teacher's head: behind convolution {layer} the student "
                f'({type(self.student_head).__name__}) has {ours}, the teacher ({type(self.teacher_head).__name__}) '
                f'{theirs}: give both heads the same stacked_convs, feat_channels and norm_cfg'
            )
        self._towers = [f'{path}.{name}.{layer - 1}' for name in _TOWERS]
        self.taps = {**own.taps, **{f'crossed at {tower}': tower for tower in self._towers}}

    @override
    def class_maps(self, step: Step) -> list[FeaturePair]:
        return self.own.class_maps(step)

    def tables(self, step: Step) -> list[SampleTable]:
        """The table of the pair's own adapter, with crossed outputs as the student's."""
        (table,) = self.own.sample_tables(step)
        assert isinstance(table, DenseTable)
        teacher = self.teacher_pass(step)
        levels = len(table.student.class_maps)
        towers = [step.record(f'crossed at {tower}')[:levels] for tower in self._towers]
        features = [torch.cat(level, dim=1) for level in zip(*towers, strict=True)]
        family = self.own.teacher_family

        def run(network: Any) -> Any:
            rest = self._rest(network.get_submodule(self.teacher_path))
            # The student's step may run under autocast where the teacher's head does not.
            autocast = autocast_dtype(step.inputs.device.type) is not None
            dtype = next(rest.parameters()).dtype
            return family.run(rest, features if autocast else [each.to(dtype) for each in features])

        outputs = self.own.aligned(teacher.run(run, gradient=True), teacher, table.student)
        return [
            replace(
                table,
                student=outputs,
                run_teacher=lambda: table.teacher,
                student_decoder=table.teacher_decoder,
            )
        ]

    def _rest(self, head: Any) -> Any:
        """A head without the first convolutions of its towers; its input is both towers' features, concatenated."""
        rest = {name: list(getattr(head, name)[self.layer :]) for name in _TOWERS}
        if not self.own.teacher_boxes:
            rest[BOX_TOWER] = []
        return with_towers(
            head, {name: [_Half(which), *rest[name]] for which, name in enumerate(_TOWERS)}
        )


class _Half(nn.Module):
    """Selects the channels of one tower."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, both: Tensor) -> Tensor:
        """(B, 2C, H, W) to (B, C, H, W)."""
        return both.chunk(2, dim=1)[self.which]


def _towers(head: Any, layer: int) -> dict[str, Any]:
    """Depth of both towers, and width and normalisation at the cut."""
    described = {}
    for name in _TOWERS:
        convolutions = getattr(head, name, None)
        if not isinstance(convolutions, nn.ModuleList) or not all(
            isinstance(each, ConvModule) for each in convolutions
        ):
            raise ValueError(
                f'{type(head).__name__} has no {name} that are shared by all levels: only heads with towers of '
                'convolutions (RetinaNet, ATSS, GFL, FCOS, VFNet, ...) can be crossed'
            )
        if not 1 <= layer <= len(convolutions):
            raise ValueError(
                f'{type(head).__name__} has {len(convolutions)} convolutions in {name}: the layer to cross at is one '
                f'of 1 to {len(convolutions)}, not {layer}'
            )
        cut = convolutions[layer - 1]
        norm = type(cut.norm).__name__ if cut.with_norm else 'no normalisation'
        described[name] = f'{len(convolutions)} convolutions, {cut.out_channels} channels, {norm}'
    return described
