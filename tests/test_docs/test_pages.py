"""The pages that docs/_ext makes while the site is built."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from result_rows import row

from mmkd.report import record
from mmkd.utils.recipe import method_names

EXTENSIONS = Path(__file__).resolve().parents[2] / 'docs' / '_ext'


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'mmkd_docs_{name}', EXTENSIONS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def pages() -> ModuleType:
    return load('pages')


def test_a_method_has_its_classes_and_its_presets_with_what_is_said_of_them(pages) -> None:
    assert [kind.__name__ for kind in pages.losses_of('kd_detr')] == [
        'QFLKDLoss',
        'BoxL1Loss',
        'BoxGIoULoss',
    ]
    files = [file for file, _ in pages.presets('ckd')]
    assert {'ckd_rcnn.py', 'ckd_sigmoid.py', 'classifiers.py'} <= set(files)
    page = pages.method('dkd')
    assert 'autoclass:: mmkd.losses.DKDLoss' in page
    assert 'autofunction:: mmkd.functional.dkd_loss' in page
    assert 'dkd_rcnn = dict(dkd=dict(type=' in page
    assert '# DKD as published for Faster R-CNN' in page
    assert 'dkd_lskd' not in page  # another method


def test_every_method_has_a_class(pages) -> None:
    assert all(pages.losses_of(name) for name in method_names())


def test_results_of_a_method_stand_beside_plain_training(pages, tmp_path: Path) -> None:
    for method in ('teacher', 'plain', 'ckd', 'ckd+aekt', 'dkd'):
        record(tmp_path, row(method, 0, 20.0))
    text = pages.results('ckd', tmp_path)
    assert '### retinanet' in text
    assert all(f'| {method} ' in text for method in ('teacher', 'plain', 'ckd', 'ckd+aekt'))
    assert 'dkd' not in text
    assert 'None yet' in pages.results('kd', tmp_path)


def test_pages_of_what_is_gone_are_removed_and_others_keep_their_date(pages, tmp_path) -> None:
    (tmp_path / 'methods').mkdir()
    (tmp_path / 'methods/gone.md').touch()
    pages.write_all(tmp_path)
    before = (tmp_path / 'methods/kd.md').stat().st_mtime_ns
    pages.write_all(tmp_path)
    assert not (tmp_path / 'methods/gone.md').exists()
    assert (tmp_path / 'methods/kd.md').stat().st_mtime_ns == before
    assert 'retinanet_teacher' in (tmp_path / 'models.md').read_text()


def test_indices_stay_beside_their_letters_and_large_brackets_are_known() -> None:
    pytest.importorskip('sphinx', reason='requirements/docs.txt is not installed')
    from docutils import nodes

    text = load('mathml')._mathml(r'\Big( \hat s_i \Big)', nodes.math(), block=False)
    assert '<msub>' in text
    assert 'munder' not in text
