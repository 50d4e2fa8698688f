from __future__ import annotations

import shutil
from pathlib import Path

from mmkd.cli import recipes

DOCS = Path(__file__).resolve().parents[2] / 'docs'


def test_the_tables_of_the_docs_are_what_the_command_writes(tmp_path: Path) -> None:
    pages = [shutil.copy(DOCS / name, tmp_path) for name in ('recipes.md', 'classification.md')]
    assert recipes.main(['--write', *map(str, pages)]) == 0
    for page in map(Path, pages):
        assert page.read_text() == (DOCS / page.name).read_text()
        assert 'mmkd::_base_/pairs/' in page.read_text()
