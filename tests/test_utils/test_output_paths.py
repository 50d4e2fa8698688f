from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmkd.utils.output_paths import paths_outside


def outside(
    work_dir: Path, settings: dict[str, Any], chosen: dict[str, Any] | None = None
) -> list[str]:
    return paths_outside(Config(dict(work_dir=str(work_dir), **settings)), chosen or {})


@pytest.mark.parametrize(
    ('key', 'path', 'settings'),
    [
        (
            'default_hooks.checkpoint.out_dir',
            '/elsewhere',
            dict(default_hooks=dict(checkpoint=dict(out_dir='/elsewhere'))),
        ),
        (
            'default_hooks.checkpoint.filename_tmpl',
            '../x_{}.pth',
            dict(default_hooks=dict(checkpoint=dict(filename_tmpl='../x_{}.pth'))),
        ),
        (
            'visualizer.vis_backends.0.save_dir',
            '/elsewhere',
            dict(visualizer=dict(vis_backends=[dict(save_dir='/elsewhere')])),
        ),
        (
            'test_evaluator.outfile_prefix',
            'results/a',
            dict(test_evaluator=dict(outfile_prefix='results/a')),
        ),
        (
            'custom_hooks.0.out_dir',
            'work/../../a',
            dict(custom_hooks=[dict(type='X', out_dir='work/../../a')]),
        ),
    ],
)
def test_a_path_outside_of_the_work_folder_is_named(
    key: str, path: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    (problem,) = outside(tmp_path / 'work', settings)
    assert problem.startswith(f'{key}: the config would write to ')
    assert f'--cfg-options {key}={path}' in problem
    assert outside(tmp_path / 'work', settings, chosen={key: path}) == []


def test_a_link_out_of_the_work_folder_is_seen(tmp_path: Path) -> None:
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'link').symlink_to(tmp_path)
    assert outside(tmp_path / 'work', dict(custom_hooks=[dict(out_dir=f'{tmp_path}/work/link')]))


def test_paths_inside_and_remote_ones_pass(tmp_path: Path) -> None:
    settings = dict(
        default_hooks=dict(checkpoint=dict(out_dir='s3://bucket/run', filename_tmpl='a_{}.pth')),
        visualizer=dict(save_dir=str(tmp_path / 'work' / 'pictures')),
        val_evaluator=[dict(ann_file='/data/annotations.json')],
    )
    assert outside(tmp_path / 'work', settings) == []


def test_a_folder_of_the_export_is_within_the_work_folder(tmp_path: Path) -> None:
    hook = dict(type='mmkd.ExportStudentHook', folder='for/others')
    assert outside(tmp_path / 'work', dict(custom_hooks=[hook])) == []
