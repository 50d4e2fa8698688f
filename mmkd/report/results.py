"""Finished cells of comparisons: one row each in ``FOLDER/FAMILY.json``, which is committed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """What came out of one cell.

    Attributes:
        family: Name of the pair of teacher and student.
        method: ``'plain'``, a method such as ``'ckd+aekt'``, the name of a variant, or ``'teacher'``.
        seed: Of the training.
        split: What it was evaluated on: ``'test'`` or ``'val'``.
        metrics: All that the evaluator gave, by MMEngine's names.
        seconds: How long the training took, None for a teacher that was there.
        settings: Digest of the config and the data: rows with different ones are not comparable.
        commit: The code's; several, separated by spaces, if the cell was begun with one and finished with another.
        date: When it was finished.
        commands: What repeats it, in order.
    """

    family: str
    method: str
    seed: int
    split: str
    metrics: dict[str, float]
    seconds: float | None
    settings: str
    commit: str
    date: str
    commands: list[str]

    @property
    def cell(self) -> tuple[str, str, int]:
        """What tells it from the other rows of its family."""
        return self.split, self.method, self.seed


def read_rows(folder: str | Path, family: str) -> list[Row]:
    """The rows of a family; none if there is no such file.

    Raises:
        ValueError: The file does not hold rows.
    """
    path = Path(folder) / f'{family}.json'
    if not path.exists():
        return []
    try:
        return [Row(**entry) for entry in json.loads(path.read_text(encoding='utf-8'))]
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: no rows of results: {error}') from error


def record(folder: str | Path, row: Row) -> None:
    """Add a row to its family's file, in place of that of the same cell. Several processes may do so."""
    folder = Path(folder)
    with locked(folder):
        others = [other for other in read_rows(folder, row.family) if other.cell != row.cell]
        rows = sorted([*others, row], key=lambda row: row.cell)
        # A line for each: what changed is seen at once, and two branches merge.
        lines = ',\n'.join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
        partial = folder / f'.{row.family}.json.partial'
        partial.write_text(f'[\n{lines}\n]\n', encoding='utf-8')
        os.replace(partial, folder / f'{row.family}.json')


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder if it is not there, and keep other processes that ask for it waiting."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
