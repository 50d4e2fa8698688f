"""Pages that are made while the site is built: one for each method and package, and the index of trained networks."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mmkd.registry import CONFIGS, LOSSES
from mmkd.report import cell_text, comparable, family_table, points, read_rows, table
from mmkd.report.comparison import PLAIN, TEACHER
from mmkd.utils.recipe import method_names, named

DOCS = Path(__file__).resolve().parents[1]
SEEDS = 5
"""Of a complete row of the comparison."""

CONTENTS = {
    'Start': 'install quickstart own_data commands which_method coming_from',
    'Methods': 'methods methods/index works_with aekt box_losses ckd_chunks',
    'Heads and pairs': 'heads_dense heads_roi heads_query heads_classifier other_pairs',
    'Recipes and results': (
        'recipes classification benchmark benchmark_classification models embedded_data'
    ),
    'Training': 'hooks resume_and_faults many_gpus precision speed stored_teacher views export',
    'Develop': 'design extending api/index contributing changelog',
}
"""The pages by the captions of the sidebar."""

PACKAGES = {
    'functional': 'The losses as plain functions of tensors',
    'losses': 'Registered losses, samplers, schedules',
    'connectors': 'Layers between the networks of a pair',
    'heads': 'Adapters of heads, features at any module',
    'structures': 'Requests, the step, samples and pairs',
    'teachers': 'Frozen, stored, averaged and peer teachers',
    'distillers': 'The Distiller',
    'hooks': 'Hooks of MMEngine',
    'models': 'Backbones that MMPretrain lacks',
    'datasets': 'The embedded data, seeded views',
    'checkpoints': 'Reading and writing checkpoints',
    'registry': 'The registries',
    'utils': 'What the commands share',
    'experiments': 'Comparisons',
    'report': 'Tables and pictures of results',
}
"""What has a page of the API reference, in the order of its index."""


def setup(app: Any) -> dict[str, Any]:
    """Make the pages before Sphinx looks for documents."""
    app.connect('config-inited', lambda *_: write_all())
    return {'parallel_read_safe': True, 'parallel_write_safe': True}


def write_all(folder: Path = DOCS) -> None:
    """Write all pages, and remove those of methods and packages that are gone."""
    tree = '\n'.join(_toctree(names.split(), caption) for caption, names in CONTENTS.items())
    pages = {
        'index.md': f'{of_repository("README.md")}\n{tree}',
        'contributing.md': of_repository('CONTRIBUTING.md'),
        'changelog.md': of_repository('CHANGELOG.md'),
        'models.md': models(),
        'methods/index.md': methods_index(),
        'api/index.md': api_index(),
    }
    pages |= {f'methods/{name}.md': method(name) for name in method_names()}
    pages |= {f'api/{name}.md': package(name) for name in PACKAGES}
    for made in ('methods', 'api'):
        for file in (folder / made).glob('*.md'):
            if f'{made}/{file.name}' not in pages:
                file.unlink()
    for name, text in pages.items():
        file = folder / name
        # What did not change keeps its date, and is not read again.
        if not file.exists() or file.read_text(encoding='utf-8') != text:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding='utf-8')


def of_repository(name: str) -> str:
    """A page of the repository's root, with links as seen from the folder of the site's pages."""
    text = (DOCS.parent / name).read_text(encoding='utf-8')
    text = re.sub(r'\]\((?!https?:|#|docs/)', '](../', text)
    text = re.sub(r'\[docs/\w+\.md\]\(', '[](', text)  # the title of the page in place of its path
    pages = {
        'CHANGELOG.md': 'changelog.md',
        'CONTRIBUTING.md': 'contributing.md',
        'README.md': 'index.md',
    }
    for page, made in pages.items():
        text = text.replace(f'](../{page}', f']({made}')
    return text.replace('](docs/', '](')


# --- Methods ------------------------------------------------------------------------------------


def methods_index() -> str:
    """All methods, in a line each."""
    lines = [
        (f'[`{name}`]({name}.md)', ', '.join(f'`mmkd.{kind.__name__}`' for kind in losses_of(name)))
        for name in method_names()
    ]
    return f"""# Method by method

What `--losses METHOD` takes. Side by side they are in [Methods](../methods.md) and
[What works with what](../works_with.md).

{table(('method', 'losses'), lines)}

{_toctree(method_names())}"""


def method(name: str) -> str:
    """A method's page: its docstrings, its presets, where it works, and its results."""
    parts = [f'# {name}', f'    mmkd train CONFIG --teacher TEACHER --losses {name}']
    for kind in losses_of(name):
        parts.append(_described('class', f'mmkd.losses.{kind.__name__}'))
        function = getattr(kind, 'function', None)
        if function is not None:
            parts.append(_described('function', f'mmkd.functional.{function.__name__}'))
    parts.append('## Settings')
    for file, source in presets(name):
        parts.append(f'`configs/_base_/methods/{file}`:\n\n```python\n{source}\n```')
    if row := json.loads((DOCS / 'works_with.json').read_text(encoding='utf-8')).get(name):
        works = table(tuple(row), [tuple('–' if reason else '✓' for reason in row.values())])
        parts.append(
            f'## Heads\n\n{works}\n\nThe reasons: [What works with what](../works_with.md).'
        )
    parts.append(f'## Results\n\n{results(name)}')
    return '\n\n'.join(parts) + '\n'


def losses_of(name: str) -> list[type]:
    """The classes that a method's presets name."""
    LOSSES.import_from_location()
    found: dict[type, None] = {}
    for _, source in presets(name):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.keyword) and node.arg == 'type':
                kind = LOSSES.get(ast.literal_eval(node.value))
                if kind is not None:
                    found[kind] = None
    return list(found)


def presets(name: str) -> Iterator[tuple[str, str]]:
    """A method's presets: the file's name, and the source with the comment above it."""
    for file in sorted((CONFIGS / '_base_/methods').glob('*.py')):
        text = file.read_text(encoding='utf-8')
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                variable = node.targets[0].id
                if named(file.stem, variable)[0] == name:
                    first = node.lineno - 1
                    while first and lines[first - 1].startswith('#'):
                        first -= 1
                    yield file.name, '\n'.join(lines[first : node.end_lineno])


def results(name: str, folder: Path = DOCS / 'results') -> str:
    """The rows of a method, alone and with others, beside teacher and plain student, for each family that has some."""
    tables = []
    for file in sorted(folder.glob('*.json')):
        rows, _ = comparable(read_rows(folder, file.stem), 'test')
        own = sorted({row.method for row in rows if name in row.method.split('+')})
        if own:
            text = family_table(rows, [TEACHER, PLAIN, *own], SEEDS)
            tables.append(f'### {file.stem}\n\n{text}')
    how = '[Does it help?](../benchmark.md) says how rows are made.'
    return '\n\n'.join([*tables, how] if tables else [f'None yet. {how}'])


# --- Trained networks ---------------------------------------------------------------------------


def models() -> str:
    """The networks that come with the repository, from what their files say."""
    lines = []
    for file in sorted(CONFIGS.glob('*/weights/*.pth')):
        checkpoint = torch.load(file, map_location='cpu', weights_only=True)
        meta, weights = checkpoint['meta'], checkpoint['state_dict']
        name = file.stem.rpartition('-')[0]
        lines.append(
            (
                f'`{name}`',
                f'`{file.parent.parent.name}/{name}.py`',
                f'{sum(each.numel() for each in weights.values()) / 1e6:.2f}\u00a0M',
                f'{file.stat().st_size / 1e6:.1f}\u00a0MB',
                str(len(meta['dataset_meta']['classes'])),
                str(meta['epoch']),
                ', '.join(
                    f'{key} {cell_text(value)}' for key, value in points(meta['metrics']).items()
                ),
            )
        )
    header = ('network', 'config', 'parameters', 'file', 'classes', 'epochs', 'on the test images')
    return f"""# Model index

The trained networks that come with the repository, as float16 weights in `configs/*/weights`; the numbers are those
that the files carry. [The embedded data](embedded_data.md#trained-networks-that-come-with-it) says where they come from
and how to train them again, the [benchmark](benchmark.md) what students learn from them.

{table(header, lines)}

Evaluate one, or give it to a student of another config:

    mmkd test mmkd::shapes/retinanet_teacher.py configs/shapes/weights/retinanet_teacher-*.pth
    mmkd train mmkd::shapes/fcos_student.py --losses ckd \\
        --teacher mmkd::shapes/fcos_teacher.py=$(ls configs/shapes/weights/fcos_teacher-*.pth)
"""


# --- API ----------------------------------------------------------------------------------------


def api_index() -> str:
    """The packages that have a page."""
    lines = [(f'[`mmkd.{name}`]({name}.md)', what) for name, what in PACKAGES.items()]
    return f'# API reference\n\n{table(("package", "what"), lines)}\n\n{_toctree(PACKAGES)}'


def package(name: str) -> str:
    """All that a package names in ``__all__``, or what a module defines, from the docstrings."""
    module = importlib.import_module(f'mmkd.{name}')
    intro = inspect.getdoc(module) or ''
    members = getattr(module, '__all__', None) or sorted(_public(vars(module), module.__name__))
    parts = [f'.. module:: mmkd.{name}', intro]
    for member in members:
        kind = getattr(module, member)
        if inspect.isclass(kind):
            parts.append(f'.. autoclass:: mmkd.{name}.{member}\n   :members:')
        elif inspect.isroutine(kind):
            parts.append(f'.. autofunction:: mmkd.{name}.{member}')
        else:  # of a value Python knows the docstring of its type only
            parts.append(f'.. py:data:: mmkd.{name}.{member}')
    body = '\n\n'.join(parts)
    return f'# mmkd.{name}\n\n```{{eval-rst}}\n{body}\n```\n'


def _public(names: Mapping[str, Any], module: str) -> list[str]:
    return [
        name
        for name, what in names.items()
        if not name.startswith('_') and getattr(what, '__module__', None) == module
    ]


def _described(what: str, name: str) -> str:
    return f'```{{eval-rst}}\n.. auto{what}:: {name}\n   :no-index:\n```'


def _toctree(names: Iterable[str], caption: str | None = None) -> str:
    options = ':hidden:' if caption is None else f':hidden:\n:caption: {caption}'
    listed = '\n'.join(names)
    return f'```{{toctree}}\n{options}\n\n{listed}\n```\n'
