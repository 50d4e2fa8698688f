"""CRD on the pooled features of classifiers, with its memory banks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.functional import crd_loss, unit_rows
from mmkd.functional.processes import gather_rows
from mmkd.registry import LOSSES
from mmkd.structures import FeaturePair, Step

from .features import FeatureLoss

_NO_CLASS = -1


@LOSSES.register_module()
class CRDLoss(FeatureLoss):
    """The teacher's embedding of an image against those of many others (CRD, Tian et al., ICLR 2020).

    The features that the class layers read, ``at='pre_logits'``, are embedded by a linear layer of each network. Two
    banks hold an embedding of every training sample, of the student and of the teacher; each network's new embedding is
    contrasted with the other's bank (:func:`mmkd.functional.crd_loss`), and then moves the own one. Negatives are drawn
    from all other samples, anew for each; those known to be of the same class do not count (published: as many drawn
    from the other classes alone).

    Layers and banks are trained and kept under ``distill.<name>.*`` and so resumed exactly; an export leaves them out.
    The banks take ``8 * num_samples * width`` bytes in memory and in each checkpoint, 1.3 GB on ImageNet. The batch is
    that of all processes.

    It has to know which sample an image is: the training data set is wrapped in ``mmkd.SeededViews``.

    Args:
        num_samples: Number of training samples.
        width: Width of the embeddings. Published: 128.
        negatives: Negatives of each image. Published: 16384.
        momentum: What remains of a sample's entry in a bank at a new embedding. Published: 0.5.
        temperature: See the function. Published: 0.07.
        **options: See :class:`mmkd.losses.FeatureLoss`. Published weight: 0.8.

    Raises:
        ValueError: An option is out of its range, or (in the first step) the data samples do not say which they are, or
            are of another number than ``num_samples``.
    """

    gathers = True
    pooled = True
    any_width = True
    student_bank: Tensor
    teacher_bank: Tensor
    classes: Tensor
    log_means: Tensor

    def __init__(
        self,
        num_samples: int,
        width: int = 128,
        negatives: int = 16384,
        momentum: float = 0.5,
        temperature: float = 0.07,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, value, least in (
            ('num_samples', num_samples, 2),
            ('width', width, 1),
            ('negatives', negatives, 1),
        ):
            if not (isinstance(value, int) and value >= least):
                raise ValueError(f'CRDLoss.{name}: {value!r} is no whole number from {least} on')
        if not (isinstance(momentum, int | float) and 0 <= momentum < 1):
            raise ValueError(f'CRDLoss.momentum: {momentum!r} is not at least 0 and less than 1')
        if not (isinstance(temperature, int | float) and temperature > 0):
            raise ValueError(f'CRDLoss.temperature: {temperature!r} is not a positive number')
        if len(self.at) != 1:
            raise ValueError(f'CRDLoss.at: {self.at} are several places: name one')
        self.num_samples = num_samples
        self.width = width
        self.num_negatives = negatives
        self.momentum = momentum
        self.temperature = temperature

    def compute(self, pairs: list[FeaturePair], step: Step) -> Tensor:
        """Contrast both networks with the other's bank, then move the banks."""
        (pair,) = pairs
        student = self.student_layer(pair.student)
        teacher = self.teacher_layer(pair.teacher)
        index, classes = gather_rows(self._identities(step))[0].unbind(1)
        drawn = torch.randint(
            self.num_samples - 1,
            (len(index), self.num_negatives),
            generator=step.shared_generator,
            device=index.device,
        )
        drawn += drawn >= index[:, None]  # any sample but this
        other = self.classes[drawn] != classes[:, None]
        counted = other | (classes[:, None] == _NO_CLASS)
        values = [
            crd_loss(
                embeddings,
                bank[index],
                bank,
                drawn,
                self.temperature,
                counted,
                self.log_means[side],
            )
            for side, (embeddings, bank) in enumerate(
                ((student, self.teacher_bank), (teacher, self.student_bank))
            )
        ]
        with torch.no_grad():
            self.classes[index] = classes
            for bank, embeddings in ((self.student_bank, student), (self.teacher_bank, teacher)):
                bank[index] = unit_rows(bank[index].lerp(unit_rows(embeddings), 1 - self.momentum))
        return torch.stack(values).sum()

    def _make_layers(self, channels: Mapping[int, tuple[int, int]]) -> None:
        ((ours, theirs),) = channels.values()
        self.student_layer = nn.Linear(ours, self.width)
        self.teacher_layer = nn.Linear(theirs, self.width)
        for name in ('student_bank', 'teacher_bank'):
            self.register_buffer(name, unit_rows(torch.randn(self.num_samples, self.width)))
        self.register_buffer('classes', torch.full((self.num_samples,), _NO_CLASS))
        self.register_buffer('log_means', torch.full((2, 1), torch.nan))

    def _identities(self, step: Step) -> Tensor:
        """(B, 2) which sample an image is, and its class where it has a single one."""
        identities = [_identity(sample, self.num_samples) for sample in step.data_samples]
        numbers = torch.tensor(identities, dtype=torch.long).view(-1, 1)
        numbers = numbers.to(step.inputs.device, non_blocking=True)
        return torch.cat([numbers, _classes(step.data_samples, numbers)], dim=1)


def _identity(sample: Any, num_samples: int) -> int:
    if 'sample_index' not in sample.metainfo:
        raise ValueError(
            'train_dataloader.dataset: CRDLoss needs data samples that say which they are: wrap the data set, '
            "dict(type='mmkd.SeededViews', dataset=dict(...))"
        )
    if sample.metainfo.get('num_samples', num_samples) != num_samples:
        raise ValueError(
            f'CRDLoss.num_samples: {num_samples}, and the training data have {sample.metainfo["num_samples"]} samples: '
            'set it to that'
        )
    return int(sample.metainfo['sample_index'])


def _classes(samples: Sequence[Any], numbers: Tensor) -> Tensor:
    """(B, 1) classes of the images, -1 where they have no single one."""
    labels = [sample.get('gt_label') for sample in samples]
    if any(label is None or len(label) != 1 for label in labels):
        return torch.full_like(numbers, _NO_CLASS)
    return torch.stack(labels).to(numbers) if labels else torch.zeros_like(numbers)
