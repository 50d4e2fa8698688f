"""Ablations on the embedded digits: hundreds of small trainings in one process, by `mmkd.functional` in a plain loop.

A convolutional student of two layers learns from a wider teacher of the same kind. The students of a table are trained
side by side, as one network of separate groups: they share the images, and so most of the time that it takes. Recipes
and `tools/train.py` have no part in it: losses are compared. For recipes see tools/benchmark_methods.py.
"""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# Works from a clone as well, before `pip install -e .`.
sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.datasets.digits import photographs
from mmkd.functional import aekt_loss, ckd_loss, dist_loss, dkd_loss, kd_loss
from mmkd.losses.aekt import SerialLayer
from mmkd.report import mean_and_deviation, paired_difference, replace_block, table

TEACHER_WIDTH, STUDENT_WIDTH = 32, 4
BATCH_SIZE = 64
# The settings of configs/_base_/shapes_cls_methods.py.
CKD_WEIGHT = 10.0
KD_WEIGHT, KD_TASK_WEIGHT = 0.9, 0.1
DIST_WEIGHT = 2.0
TARGET_LOSS = dict(alpha=1.0, beta=2.0, temperature=4.0)
WARM_UP_EPOCHS = 1

Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Part:
    """One distillation loss of a student.

    Attributes:
        loss: of the student's logits, the teacher's and the labels.
        weight: its weight after the warm-up.
        warm_up: epochs in which the weight grows from 0.
        serial: where AEKT's serial layer is: 'none', 'task_then_distill' or 'distill_then_task'.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    weight: float = 1.0
    warm_up: int = 0
    serial: str = 'none'


@dataclass(frozen=True)
class Row:
    """One way to train the student; a row of the table."""

    name: str
    parts: tuple[Part, ...] = ()
    task_weight: float = 1.0
    batch_size: int = BATCH_SIZE


def unlabelled(loss: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
    return lambda student, teacher, labels: loss(student, teacher, **options)


def ckd(name: str = 'ckd', batch_size: int = BATCH_SIZE, **options: object) -> Row:
    return Row(name, (Part(unlabelled(ckd_loss, **options), CKD_WEIGHT),), batch_size=batch_size)


def aekt(name: str = 'aekt', serial: str = 'task_then_distill', **options: object) -> Row:
    loss = partial(aekt_loss, **TARGET_LOSS | options)
    return Row(name, (Part(loss, 1.0, WARM_UP_EPOCHS, serial),))


def dkd() -> Row:
    return Row('dkd', (Part(partial(dkd_loss, **TARGET_LOSS), 1.0, WARM_UP_EPOCHS),))


def method_rows() -> list[Row]:
    kd = Part(unlabelled(kd_loss, temperature=4.0), KD_WEIGHT)
    dist = Part(unlabelled(dist_loss, temperature=4.0), DIST_WEIGHT)
    return [
        Row('plain'),
        Row('kd', (kd,), KD_TASK_WEIGHT),
        dkd(),
        Row('dist', (dist,)),
        ckd(),
        aekt(),
        Row('ckd + aekt', ckd().parts + aekt().parts),
    ]


def aekt_rows() -> list[Row]:
    return [
        Row('plain'),
        aekt('neither (DKD)', serial='none', explicit='tckd'),
        aekt('serial layer only', explicit='tckd'),
        aekt('ratio term only', serial='none'),
        aekt('both (AEKT)'),
        aekt('both, distill_then_task', serial='distill_then_task'),
        aekt('both, explicit ratio', explicit='ratio'),
        aekt('both, explicit nkd', explicit='nkd'),
        aekt('both, gamma 2', gamma=2.0),
    ]


def ckd_rows(batch_size: int) -> list[Row]:
    forms: dict[str, dict[str, object]] = {
        'released': {},
        "paper's text": dict(negatives='student_student'),
        'symmetric': dict(symmetric=True),
    }
    return [
        Row('plain', batch_size=batch_size),
        *(
            ckd(f'{form}, τ {temperature:g}', batch_size, temperature=temperature, **options)
            for form, options in forms.items()
            for temperature in (0.1, 0.5, 1.0, 2.0)
        ),
    ]


TABLES: dict[str, Callable[[], list[Row]]] = {
    'methods': method_rows,
    'aekt': aekt_rows,
    'ckd-16': partial(ckd_rows, 16),
    'ckd-64': partial(ckd_rows, 64),
    'ckd-256': partial(ckd_rows, 256),
}


def network(width: int) -> nn.Sequential:
    # No biases before batch norm: their gradients are rounding errors, which AdamW would turn into steps of full size.
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


class Students(nn.Module):
    """A network for each row, all with the same weights at the start; no row has an influence on another.

    Args:
        rows: what they are trained by.
        start: :func:`network`, whose weights they start with.
    """

    def __init__(self, rows: Sequence[Row], start: nn.Sequential) -> None:
        super().__init__()
        count, width = len(rows), start[0].out_channels
        self.rows = rows
        self.features = nn.Sequential(
            nn.Conv2d(1, count * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(count * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(count * width, 2 * count * width, 3, padding=1, groups=count, bias=False),
            nn.BatchNorm2d(2 * count * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        for own, theirs in zip(self.features.parameters(), start.parameters(), strict=False):
            own.data = theirs.data.repeat(count, *[1] * (theirs.dim() - 1))
        self.weight = nn.Parameter(start[-1].weight.data.repeat(count, 1, 1))
        self.bias = nn.Parameter(start[-1].bias.data.repeat(count, 1, 1))
        self.serial = nn.ModuleList(
            nn.ModuleList(SerialLayer(10) for _ in row.parts) for row in rows
        )

    def logits(self, images: Tensor) -> Tensor:
        """(R, S, C) logits that are distilled."""
        features = self.features(images).view(len(images), len(self.rows), -1).transpose(0, 1)
        return torch.baddbmm(self.bias, features, self.weight.transpose(1, 2))

    def task_logits(self, row: int, logits: Tensor) -> Tensor:
        """(S, C) logits that a row predicts with, of those that are distilled."""
        for part, layer in zip(self.rows[row].parts, self.serial[row], strict=True):
            if part.serial == 'distill_then_task':
                logits = layer(logits)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """(R, S, C) logits that the rows predict with."""
        return torch.stack([self.task_logits(i, row) for i, row in enumerate(self.logits(images))])

    def loss(self, images: Tensor, labels: Tensor, teacher_logits: Tensor, epochs: float) -> Tensor:
        """The rows' losses, added up, after so many epochs of training."""
        total = images.new_zeros(())
        for i, (row, logits) in enumerate(zip(self.rows, self.logits(images), strict=True)):
            total = total + row.task_weight * F.cross_entropy(self.task_logits(i, logits), labels)
            for part, layer in zip(row.parts, self.serial[i], strict=True):
                warm = min(1.0, epochs / part.warm_up) if part.warm_up else 1.0
                distilled = layer(logits) if part.serial == 'task_then_distill' else logits
                total = total + warm * part.weight * part.loss(distilled, teacher_logits, labels)
        return total


def load(split: str) -> Images:
    images, labels = photographs(split)
    return torch.from_numpy(images)[:, None].float() / 127.5 - 1, torch.from_numpy(labels)


def train(
    width: int,
    rows: Sequence[Row],
    data: Images,
    epochs: int,
    seed: int,
    teacher: Students | None = None,
) -> Students:
    """Train a network for each row; all see the same batches."""
    images, labels = data
    torch.manual_seed(seed)
    students = Students(rows, network(width))
    (batch_size,) = {row.batch_size for row in rows}
    optimizer = torch.optim.AdamW(students.parameters(), lr=0.01, weight_decay=0.05)
    steps = math.ceil(len(images) / batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    # Nothing augments the images, so the teacher says the same of them every time.
    with torch.no_grad():
        answers = images.new_zeros(len(images), 10) if teacher is None else teacher(images)[0]
    order = torch.Generator().manual_seed(seed)  # the same, however many students there are
    students.train()
    for epoch in range(epochs):
        batches = torch.randperm(len(images), generator=order).split(batch_size)
        for step, batch in enumerate(batches):
            progress = epoch + step / steps
            loss = students.loss(images[batch], labels[batch], answers[batch], progress)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return students.eval()


@torch.no_grad()
def accuracies(students: Students, data: Images) -> list[float]:
    """Top-1 accuracy of each row in points."""
    images, labels = data
    right = (students(images).argmax(dim=2) == labels).float()
    return (100 * right.mean(dim=1)).tolist()


def run(
    rows: Sequence[Row], seeds: Sequence[int], epochs: int, teacher: Students
) -> dict[str, dict[int, float]]:
    """Top-1 accuracy on the validation images by row and seed."""
    data, validation = load('train'), load('val')
    results: dict[str, dict[int, float]] = {row.name: {} for row in rows}
    for seed in seeds:
        started = time.perf_counter()
        students = train(STUDENT_WIDTH, rows, data, epochs, 1000 + seed, teacher)
        for row, top_1 in zip(rows, accuracies(students, validation), strict=True):
            results[row.name][seed] = top_1
        last = ', '.join(f'{row.name} {results[row.name][seed]:.1f}' for row in rows)
        print(f'seed {seed} in {time.perf_counter() - started:.0f} s: {last}', flush=True)
    return results


def summarize(results: Mapping[str, Mapping[int, float]]) -> str:
    """The table: mean ± standard deviation over the seeds, and the paired difference from the plain student."""
    lines = []
    for name, by_seed in results.items():
        mean, deviation = mean_and_deviation(list(by_seed.values()))
        spread = f'{mean:.1f}' if math.isnan(deviation) else f'{mean:.1f} ± {deviation:.1f}'
        difference = '–'
        if name != 'plain':
            paired = paired_difference(by_seed, results['plain'])
            difference = f'{paired.mean:+.1f}'
            if not math.isnan(paired.low):
                difference += f' [{paired.low:+.1f}, {paired.high:+.1f}]'
        lines.append((name, spread, difference, str(len(by_seed))))
    return table(('', 'top-1', '− plain [95 %]', 'Seeds'), lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('tables', nargs='+', choices=tuple(TABLES), help='what is compared')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4], metavar='SEED')
    parser.add_argument('--epochs', type=int, default=10, help='default: 10')
    parser.add_argument(
        '--write',
        type=Path,
        metavar='FILE.md',
        help='put each table into its block of this document, too',
    )
    args = parser.parse_args(argv)
    if args.epochs < 1:
        parser.error(f'--epochs must be 1 or more, not {args.epochs}')
    if len(set(args.seeds)) < len(args.seeds):
        parser.error('--seeds: each one once')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)  # the networks are too small for more
    teacher = train(TEACHER_WIDTH, [Row('teacher')], load('train'), args.epochs, seed=0)
    (top_1,) = accuracies(teacher, load('val'))
    for name in args.tables:
        text = summarize(run(TABLES[name](), args.seeds, args.epochs, teacher))
        words = [name, '--seeds', *map(str, args.seeds), '--epochs', str(args.epochs)]
        text += f'\n\nTeacher: {top_1:.1f}. Made by `python tools/ablate_digits.py {shlex.join(words)}`.'
        print(f'\n{text}\n', flush=True)
        if args.write is not None:
            replace_block(args.write, f'digits-{name}', text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
