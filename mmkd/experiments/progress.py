"""Progress of trainings as one line: read from MMEngine's log, shown in a terminal or a file."""

from __future__ import annotations

import math
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

_TRAIN_LINE = re.compile(
    r'Epoch\(train\)\s+\[(?P<epoch>\d+)\]\[\s*(?P<batch>\d+)/(?P<batches>\d+)\].*?'
    r'\sloss: (?P<loss>\S+)'
)
_VAL_LINE = re.compile(r'Epoch\(val\)\s+\[\d+\]')
# By what the metric is called in a line of status: how MMEngine logs it, and how many digits are of use.
_METRICS = {
    'mAP': (re.compile(r'coco/bbox_mAP: (\S+)'), 3),
    'top-1': (re.compile(r'accuracy/top1: (\S+)'), 1),
}
_QUIET_SECONDS = 30.0


@dataclass
class Progress:
    """How far a training is, as told by its log.

    Attributes:
        epochs: length of the training.
        done: epochs trained so far, with the part of the current one.
        loss: the last loss.
        metric: the last validation's COCO mAP or top-1 accuracy, in words.
        validating: whether a validation is going on.
    """

    epochs: int
    done: float = 0.0
    loss: str | None = None
    metric: str | None = None
    validating: bool = False
    _origin: tuple[float, float] | None = None

    def read(self, line: str, now: float) -> bool:
        """Take in one line of the log.

        Args:
            line: a line as MMEngine writes it.
            now: the time of reading, in seconds.

        Returns:
            Whether the line ends an epoch's validation.
        """
        if match := _TRAIN_LINE.search(line):
            self.done = int(match['epoch']) - 1 + int(match['batch']) / int(match['batches'])
            self.loss = match['loss']
            self.validating = False
            if self._origin is None:
                self._origin = (now, self.done)
        elif _VAL_LINE.search(line):
            self.validating = True
            for name, (pattern, digits) in _METRICS.items():
                if match := pattern.search(line):
                    self.metric = f'{name} {float(match[1]):.{digits}f}'
                    self.validating = False
                    return True
        return False

    def seconds_left(self, now: float) -> float | None:
        """The rest at the mean speed so far, validations included; None before it is known."""
        if self._origin is None or self.done <= self._origin[1]:
            return None
        start, first = self._origin
        return (now - start) / (self.done - first) * (self.epochs - self.done)

    def describe(self, now: float) -> str:
        """``epoch 3/8, loss 0.812, mAP 0.213, 2:10 left``, as far as it is known."""
        if self._origin is None:
            return 'starting'
        parts = [f'epoch {math.ceil(self.done)}/{self.epochs}']
        if self.validating:
            parts.append('validating')
        if self.loss is not None:
            parts.append(f'loss {float(self.loss):.3f}')
        if self.metric is not None:
            parts.append(self.metric)
        left = self.seconds_left(now)
        if left is not None:
            parts.append(f'{clock(left)} left')
        return ', '.join(parts)


class LogFollower:
    """Reads the lines that are added to a file, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new_lines(self) -> list[str]:
        """The lines since the last call; lines from before the follower was made are left out."""
        if not self._path.exists():
            return []
        with self._path.open('rb') as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b'\n') + 1]
        self._offset += len(whole)
        return whole.decode(errors='replace').splitlines()


class Display:
    """Messages, and below them one line of status: rewritten in a terminal, rare in a file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._status_is_shown = False
        self._last_written = float('-inf')

    def say(self, message: str) -> None:
        """Write a line that stays."""
        self._clear()
        self._write(message + '\n')

    def status(self, text: str) -> None:
        """Show what is going on now."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write('\r\x1b[K' + text[:width])
            self._status_is_shown = True
        elif time.monotonic() - self._last_written > _QUIET_SECONDS:
            self._write(text + '\n')

    def close(self) -> None:
        """Remove the line of status."""
        self._clear()

    def _clear(self) -> None:
        if self._status_is_shown:
            self._write('\r\x1b[K')
            self._status_is_shown = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
        self._last_written = time.monotonic()


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'
