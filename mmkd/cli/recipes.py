"""List the pairs of this package and the methods that `--losses` knows, as tables for Markdown.

    mmkd recipes
    mmkd recipes --write docs/recipes.md docs/classification.md

`--write` renews the tables in files, each between the lines `<!-- mmkd recipes NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from mmengine.config import Config

from mmkd.registry import CONFIGS
from mmkd.utils.recipe import head_kinds, preset, presets_of

HEADS = {
    'dense, sigmoid (RetinaNet, FCOS, ATSS, GFL, RTMDet)': ('dense', 'detector', 'sigmoid'),
    'RoI, softmax (Faster and Mask R-CNN)': ('rcnn', 'detector', 'softmax'),
    'query, sigmoid (DINO)': ('query', 'detector', 'sigmoid'),
    'query, softmax (DETR)': ('query', 'detector', 'softmax'),
    'classifier': ('classifier', 'softmax'),
}
_PLACE = re.compile(r'(<!-- mmkd recipes (\w+) -->\n).*?(?=<!-- end -->)', re.DOTALL)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='mmkd recipes',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--write', nargs='+', metavar='FILE', help='renew the tables in files')
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Print or write the tables; return the exit code."""
    args = parse_args(argv)
    tables = {
        'methods': methods(),
        'coco': pairs('_base_/pairs/*.py', 'mmdet'),
        'ckd_paper': pairs('ckd_paper/*/ckd_review_kd.py', 'mmdet'),
        'classification': pairs('_base_/pairs/*.py', 'mmpretrain'),
    }
    for file in map(Path, args.write or ()):
        file.write_text(_PLACE.sub(lambda place: place[1] + tables[place[2]], file.read_text()))
    if not args.write:
        print('\n'.join(tables.values()))
    return 0


def methods() -> str:
    """The methods of every kind of head."""
    rows = ([head, ', '.join(presets_of(kinds))] for head, kinds in HEADS.items())
    return _table(['head', 'METHOD'], rows)


def pairs(files: str, scope: str) -> str:
    """The pairs in configs that match a pattern, with what the comment at their top says."""
    classifiers = scope == 'mmpretrain'
    columns = ['weight, temperature of CKD', 'beta of DKD', 'batch, learning rate']

    def rows() -> Iterator[list[str]]:
        for path in sorted(CONFIGS.glob(files)):
            config = _load(path)
            if config.default_scope != scope or 'teacher' not in config.model:
                continue
            name = path.relative_to(CONFIGS).as_posix()
            row = [f'`mmkd::{name}`', _comment(path)]
            if classifiers:
                own = config.get('presets') or {}
                chosen = preset(['ckd', 'dkd'], config.model.student, scope, own)
                ckd, beta = chosen['ckd'], chosen['dkd']['beta']
                rate = config.optim_wrapper.optimizer.lr
                row += [
                    f'{ckd["weight"]:g}, {ckd["temperature"]:g}',
                    f'{beta:g}',
                    f'{config.train_dataloader.batch_size}, {rate:g}',
                ]
            else:
                row.append(head_kinds(config.model.student, scope)[0])
            yield row

    return _table(['pair', 'what', *(columns if classifiers else ['head'])], rows())


@cache
def _load(path: Path) -> Config:
    return Config.fromfile(path)


def _comment(path: Path) -> str:
    """The comment at the top of a file, in one line."""
    lines = itertools.takewhile(lambda line: line.startswith('#'), path.read_text().splitlines())
    return ' '.join(line.removeprefix('#').strip() for line in lines)


def _table(columns: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [columns, ['---'] * len(columns), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
