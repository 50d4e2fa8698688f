from __future__ import annotations

from pathlib import Path

import pytest

from mmkd.report import replace_block, table


def test_table_is_aligned_and_marks_its_columns() -> None:
    assert table(('', 'AP'), [('plain student', '9.5'), ('CKD', '10.25')]).splitlines() == [
        '|               |    AP |',
        '|---------------|------:|',
        '| plain student |   9.5 |',
        '| CKD           | 10.25 |',
    ]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match='shorter'):
        table(('', 'AP'), [('plain',)])


def test_a_block_is_made_then_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    document = tmp_path / 'docs' / 'results.md'
    replace_block(document, 'one', 'first')
    replace_block(document, 'two', 'second')
    document.write_text('# Title\n\n' + document.read_text() + '\nThe end.\n')
    replace_block(document, 'one', 'changed\n\nand longer\n')
    assert document.read_text() == (
        '# Title\n\n<!-- begin one -->\nchanged\n\nand longer\n<!-- end one -->\n\n'
        '<!-- begin two -->\nsecond\n<!-- end two -->\n\nThe end.\n'
    )


@pytest.mark.parametrize(
    'text',
    [
        '<!-- begin one -->\n',
        '<!-- end one -->\n<!-- begin one -->\n',
        '<!-- begin one -->\n<!-- end one -->\n<!-- begin one -->\n<!-- end one -->\n',
    ],
)
def test_damaged_markers_are_refused_and_the_document_kept(tmp_path: Path, text: str) -> None:
    document = tmp_path / 'results.md'
    document.write_text(text)
    with pytest.raises(ValueError, match='once each'):
        replace_block(document, 'one', 'content')
    assert document.read_text() == text
