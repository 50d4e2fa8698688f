"""Mimic on the features of regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from mmkd.functional import mimic_loss
from mmkd.functional._regions import FINEST_SCALE
from mmkd.registry import LOSSES, MODELS
from mmkd.structures import FeaturePair, Logits, Request, Sources, Step

from .base import share
from .features import FeatureLoss
from .samplers import AllSamples


@LOSSES.register_module()
class MimicLoss(FeatureLoss):
    """Features of regions, pooled to one size (Mimic, Li et al., CVPR 2017): :func:`mmkd.functional.mimic_loss`.

    A region is pooled from one level, chosen by its size as RoI heads do, by RoIAlign (ours: published before FPN and
    with spatial pyramid sampling). The mean is over the regions of all processes.

    Args:
        regions: ``'rois'``: those that the student's RoI head sampled, of a cascade its first stage; the published
            regions are proposals. ``'objects'`` (default): the ground truth, which every detector has; ours.
        size: Cells of a pooled region along a side.
        **options: See :class:`mmkd.losses.FeatureLoss`. All levels need the same width.

    Raises:
        ValueError: An option is out of its range, or (by :meth:`attach`) the student samples no RoIs, as Sparse R-CNN,
            whose proposals are learned, or the teacher's levels differ in width.
    """

    function = staticmethod(mimic_loss)

    def __init__(
        self, regions: Literal['objects', 'rois'] = 'objects', size: int = 7, **options: Any
    ) -> None:
        super().__init__(**options)
        if regions not in ('objects', 'rois'):
            raise ValueError(f"MimicLoss.regions: {regions!r} is neither 'objects' nor 'rois'")
        if not (isinstance(size, int) and size >= 1):
            raise ValueError(f'MimicLoss.size: {size!r} is not a whole number, 1 or more')
        self.regions = regions
        self.size = size

    def requests(self) -> tuple[Request[Any], ...]:
        """The features, and the head that has the RoIs."""
        if self.regions == 'objects':
            return super().requests()
        return (*super().requests(), self._rois)

    @override
    def attach(self, sources: Sources) -> None:
        super().attach(sources)
        if self.regions == 'rois':
            adapter = sources.of(self._rois)
            if not adapter.has_rois:
                raise ValueError(
                    f"MimicLoss.regions: {type(adapter.student_head).__name__} samples no RoIs: set regions='objects'"
                )

    def _make_layers(self, channels: Mapping[int, tuple[int, int]]) -> None:
        """Check that a region has the same width whichever level it is pooled from."""
        super()._make_layers(channels)
        widths = [theirs for _, theirs in channels.values()]
        if len(set(widths)) > 1:
            raise ValueError(
                f"MimicLoss: the teacher's levels have {widths} channels, and regions "
                "are pooled from all of them: take levels of one width, at='neck', or one level, by strides"
            )

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """The mean over the regions."""
        regions = self._regions(step).to(pairs[0].student)
        strides = [pair.stride for pair in pairs if pair.stride is not None]  # as all maps have
        pool = MODELS.build(
            dict(
                type='mmdet.SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=self.size, sampling_ratio=0),
                out_channels=pairs[0].teacher.shape[1],
                featmap_strides=strides,
                finest_scale=FINEST_SCALE * strides[0],
            )
        )
        student, teacher = (
            pool(maps, regions)
            for maps in ([pair.student for pair in pairs], [pair.teacher for pair in pairs])
        )
        # Without a region the extractor leaves the graph where there is one level.
        value = self._call(student, teacher) + 0 * pairs[0].student.sum()
        return value * share(value.new_ones(len(regions)))

    def averaged_by(self, pairs: list[FeaturePair]) -> None:
        """None: :meth:`compute` averages over the regions of all processes."""

    @property
    def _rois(self) -> Logits:
        """What has the RoIs as places of its samples; it is not asked for their logits."""
        return Logits(self.teacher, samples=AllSamples())

    def _regions(self, step: Step) -> Tensor:
        """(N, 5) index of the image and xyxy box in pixels."""
        if self.regions == 'objects':
            boxes, images = step.objects
        else:
            table = step.sources.of(self._rois).sample_tables(step)[0]
            boxes, images = table.boxes(table.everything), table.image_ids
        return torch.cat([images[:, None].to(boxes), boxes], dim=1)
