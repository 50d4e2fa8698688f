"""Tables in Markdown, and marked blocks of a document that a command rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is aligned as plain text, too: first column left, others right.

    Raises:
        ValueError: A row has another number of cells than ``header``.
    """
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return f'| {" | ".join([cells[0].ljust(widths[0]), *padded[1:]])} |'

    rule = '|'.join(['-' * (widths[0] + 2), *('-' * (width + 1) + ':' for width in widths[1:])])
    return '\n'.join([line(header), f'|{rule}|', *map(line, rows)])


def replace_block(document: str | Path, name: str, content: str) -> None:
    """Put ``content`` between the markers ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of a document.

    A document without them gets the block at its end; a document that does not exist is made.

    Raises:
        ValueError: The document has only one of the markers, or has them twice or in the wrong order.
    """
    path = Path(document)
    text = path.read_text(encoding='utf-8') if path.exists() else ''
    begin, end = f'<!-- begin {name} -->', f'<!-- end {name} -->'
    if begin not in text and end not in text:
        text = f'{text.rstrip()}\n\n'.lstrip() + f'{begin}\n{end}\n'
    before, _, inside = text.partition(begin)
    _, _, after = inside.partition(end)
    if text.count(begin) != 1 or text.count(end) != 1 or end in before:
        raise ValueError(f'{path}: needs {begin} and then {end}, once each')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{before}{begin}\n{content.strip()}\n{end}{after}', encoding='utf-8')
