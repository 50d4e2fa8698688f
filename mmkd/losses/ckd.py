"""CKD on the logits of any head."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from mmkd.functional import ckd_loss
from mmkd.functional.box import overlapping
from mmkd.functional.processes import world_size
from mmkd.registry import LOSSES
from mmkd.structures import Activation, Boxes, LogitPairs, Request, Sources, Step

from .logits import LogitLoss, Rows
from .samplers import TeacherTopK

_MOST_SAMPLES_AT_ONCE = 32768  # 4 GiB of similarities in float32


@LOSSES.register_module()
class CKDLoss(LogitLoss):
    """Sample-wise contrastive KD (Zhu et al., arXiv 2404.14109): InfoNCE between teacher and student logit vectors.

    All picked samples of the batch form one contrastive set: a sample's positive is the other network's vector of the
    same sample, its negatives are those of the other samples. See :func:`mmkd.functional.ckd_loss`.

    The batch is that of all processes, so that a run on several GPUs has the loss and gradient of one GPU with the
    whole batch. The released code contrasts the samples of each GPU among themselves: ``gather=False``.

    On softmax heads and classifiers this is the published loss. On sigmoid heads nothing is published: there rows are
    centred by default, because background rows are nearly parallel, and the samples are by default those of
    ``mmkd.TeacherTopK`` with k 64.

    Args:
        same_object: ``'mask'`` leaves pairs of samples that the student assigned to the same object out of the
            negatives, ``'keep'`` keeps them. Samples that it assigned to none, as many of a dense teacher's top k are,
            stay negatives even where they overlap, but for ``mask_iou``.
        mask_iou: Also leave out pairs of one image whose boxes, as the teacher predicts them, have an IoU above this
            number, such as 0.5: they show the same object. None: no boxes are compared.
        gather: Contrast with the samples of all processes; False: with those of the same process only.
        **options: See :class:`mmkd.losses.LogitLoss` and :func:`mmkd.functional.ckd_loss`.

    Raises:
        ValueError: An option is unknown or out of its range, or (by :meth:`attach`) the head has a single class, or
            two and their rows are centred.
    """

    function = staticmethod(ckd_loss)
    samples_of_sigmoid_heads = TeacherTopK(k=64)

    def __init__(self, same_object: str = 'mask', gather: bool = True, **options: Any) -> None:
        if same_object not in ('mask', 'keep'):
            raise ValueError(f"CKDLoss.same_object: {same_object!r} is neither 'mask' nor 'keep'")
        super().__init__(gather=gather, **options)
        self.mask_same_object = same_object == 'mask'

    def requests(self) -> tuple[Request[Any], ...]:
        """The logits at the samples that the sampler picks; with ``mask_iou`` also their boxes."""
        logits = super().requests()
        if self.options['mask_iou'] is None:
            return logits
        return (*logits, Boxes(self.teacher, self.crossed, samples=self.sampler))

    @override
    def attach(self, sources: Sources) -> None:
        """Check that the loss means something on this head.

        Raises:
            ValueError: The head has so few logits that their direction has no gradient, or no boxes for ``mask_iou``.
        """
        super().attach(sources)
        head = sources.of(self.requests()[0])
        if self.options['mask_iou'] is not None:
            try:
                head.check_boxes()
            except ValueError as error:
                raise ValueError(f'CKDLoss.mask_iou: {error}, or leave mask_iou out') from None
        rows = self.rows or self.default_rows(head.activation)
        # A single number has a sign only; so has the difference that centring leaves of two.
        if head.num_logits < (2 if rows == 'raw' else 3):
            fix = (
                "Set rows='raw'"
                if head.num_logits == 2
                else 'Use mmkd.QFLKDLoss, or a loss on boxes or features'
            )
            raise ValueError(
                f'CKDLoss compares directions, and that of {head.num_logits} logit(s) with rows={rows!r} has no '
                f'gradient: nothing would be learned. {fix}'
            )

    def default_rows(self, activation: Activation) -> Rows:
        """Centred on sigmoid heads, as they are on softmax heads (the published form)."""
        return 'center' if activation == 'sigmoid' else 'raw'

    def averaged_by(self, pairs: LogitPairs) -> None:
        """None: every sample is compared with the others, and the function gathers those itself."""

    @override
    def same_object(self, pairs: LogitPairs, picked: Tensor) -> Tensor:
        """With ``mask_iou`` also samples whose boxes overlap."""
        same, iou = super().same_object(pairs, picked), self.options['mask_iou']
        if iou is None or pairs.teacher_boxes is None:
            return same
        boxes, images = pairs.teacher_boxes[picked].float(), pairs.image_ids[picked]
        return same | (overlapping(boxes, boxes, iou) & (images[:, None] == images))

    @override
    def compute(self, student: Tensor, teacher: Tensor, pairs: LogitPairs, step: Step) -> Tensor:
        """The loss of these samples.

        Raises:
            ValueError: The similarities of so many samples would fill the memory.
        """
        similarities = len(student) ** 2 * (world_size() if self.options['gather'] else 1)
        if self.options['chunk_size'] is None and similarities > _MOST_SAMPLES_AT_ONCE**2:
            raise ValueError(
                f'CKDLoss: {len(student)} samples would need a matrix of {similarities * 4 / 2**30:.0f} GiB: '
                "choose some of them, samples=dict(type='mmkd.TeacherTopK', k=64), or set chunk_size=1024"
            )
        given: dict[str, Any] = {'groups': pairs.object_groups if self.mask_same_object else None}
        if self.options['mask_iou'] is not None:
            given |= {'boxes': pairs.teacher_boxes, 'images': pairs.image_ids}
        return self._call(student, teacher, **given)
