"""Tables in Markdown, and marked blocks of a document that a command rewrites."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is aligned as plain text, too: first column left, others right.

    Args:
        header: names of the columns.
        rows: cells, as many per row as there are columns.

    Raises:
        ValueError: a row has another number of cells.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f'{len(header)} columns, but a row of {len(row)} cells: {list(row)}')
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    widths = [max(3, width) for width in widths]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return '| ' + ' | '.join([first, *others]) + ' |'

    rule = '|' + '|'.join(
        '-' * (width + 1) + (':' if index else '-') for index, width in enumerate(widths)
    )
    return '\n'.join([line(header), rule + '|', *map(line, rows)])


def replace_block(document: str | Path, name: str, content: str) -> None:
    """Put ``content`` between the markers of block ``name`` in a document.

    The markers are HTML comments, so a reader does not see them. A document without them gets the
    block at its end; a document that does not exist is made.

    Args:
        document: the file.
        name: letters, digits, ``-``, ``_`` and ``.``.
        content: Markdown.

    Raises:
        ValueError: the name has other characters, or the document has only one of the markers, or
            has them twice.
    """
    if not re.fullmatch(r'[\w.-]+', name):
        raise ValueError(f'a block is named with letters, digits, -, _ and ., not {name!r}')
    path = Path(document)
    text = path.read_text(encoding='utf-8') if path.exists() else ''
    begin, end = f'<!-- begin {name} -->', f'<!-- end {name} -->'
    block = f'{begin}\n{content.strip()}\n{end}'
    if begin not in text and end not in text:
        text = (text.rstrip('\n') + '\n\n' if text else '') + block + '\n'
    else:
        before, *inside = text.split(begin)
        after = inside[0].split(end) if len(inside) == 1 else []
        if len(after) != 2:
            raise ValueError(f'{path}: needs {begin} and then {end}, once each')
        text = before + block + after[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
