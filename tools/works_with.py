"""Take a training step of every method of `--losses` on a small model of each kind of head, and write what works.

python tools/works_with.py            # all methods, in docs/works_with.json and the tables made of it
python tools/works_with.py ckd pkd    # these rows only
"""

import argparse
import copy
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope

from mmkd.cli.benchmark import made_up_batch
from mmkd.cli.check import set_progress
from mmkd.report import replace_block, table
from mmkd.utils import PreflightError, quiet_packages, setting_at_fault
from mmkd.utils.recipe import make_recipe, method_names

REPOSITORY = Path(__file__).resolve().parent.parent
YES, NO = '✓', '–'
SUPERSCRIPT = str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹')
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    'classifier': (
        'mmpretrain::resnet/resnet18_8xb32_in1k.py',
        {'backbone.stem_channels': 16, 'backbone.base_channels': 16, 'head.in_channels': 128},
    ),
    'anchors': ('mmkd::shapes/retinanet_student.py', {'bbox_head.stacked_convs': 4}),
    'points': ('mmkd::shapes/fcos_student.py', {'bbox_head.stacked_convs': 4}),
    'GFL': ('mmkd::shapes/gfl_student.py', {'bbox_head.stacked_convs': 4}),
    'RoI': (
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        {'backbone.depth': 18, 'neck.in_channels': [64, 128, 256, 512]},
    ),
    'cascade': (
        'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
        {'backbone.depth': 18, 'neck.in_channels': [64, 128, 256, 512]},
    ),
    'DETR': (
        'mmdet::detr/detr_r50_8xb2-150e_coco.py',
        {'backbone.depth': 18, 'neck.in_channels': [512]},
    ),
    'DINO': ('mmkd::shapes/dino_student.py', {}),
}
"""By family: the config of a student, and what is changed in its model. CrossKD's published layer is the third."""
SMALL = {100: 20, 128: 32, 256: 64, 512: 64, 1024: 64, 2048: 64}
"""By the numbers of MMDetection's configs, widths and numbers of samples that make a step short."""

Row = dict[str, str | None]
"""By family: why a method does not work there, None if it does."""


def reason_against(method: str, family: str) -> str | None:
    """Why a method does not work on a family, as its error says it; None if it does.

    It works if it has a preset for the head, the pair is built, and the gradient of its losses reaches the student's
    backbone. The teacher is another copy of the student.
    """
    torch.manual_seed(0)
    cfg = copy.deepcopy(_student(family))
    teacher = dict(model=cfg.model.to_dict(), default_scope=cfg.default_scope)
    try:
        make_recipe(cfg, 'student', method, untrained=True)
        cfg.model.teacher.config = teacher
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            _step(cfg)
    except PreflightError as error:
        # Without what would change with every method: its name, and the hint that lists others.
        reason = error.problems[0].removeprefix(f'--losses: {method!r} ')
        return re.sub(r'; (there are|did you mean).*', '', reason)
    except Exception as error:
        return setting_at_fault(error) or f'{type(error).__name__}: {error}'
    return None


def _step(cfg: Config) -> None:
    """Build a pair and take a step.

    Raises:
        RuntimeError: A loss is not finite, or teaches the backbone nothing.
    """
    model = MODELS.build(cfg.model)
    model.train()
    set_progress(model, dict(max_epochs=12), epoch_length=100)
    options = argparse.Namespace(size=[96], batch=4, objects=4, device=torch.device('cpu'))
    losses = model.loss(*made_up_batch(model.student, options))
    ours = {name: losses[f'loss_{name}'] for name in model.distill_losses}
    if broken := [name for name, value in ours.items() if not torch.isfinite(value).all()]:
        raise RuntimeError(f'not finite: {", ".join(broken)}')
    weights = [each for each in model.backbone.parameters() if each.requires_grad]
    total = sum(ours.values())
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    if not any(each is not None and each.any() for each in gradients):
        raise RuntimeError('no gradient in the backbone')


@cache
def _student(family: str) -> Config:
    name, options = FAMILIES[family]
    cfg = get_config(name)
    if name.startswith('mmdet::'):
        cfg.model = _small(cfg.model.to_dict())
        cfg.model.backbone.init_cfg = None
    cfg.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    quiet_packages(cfg.default_scope)
    return cfg


def _small(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _small(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_small(value) for value in node]
    return SMALL.get(node, node) if type(node) is int else node


def read(file: Path) -> dict[str, Row]:
    """The committed rows by method; none if there is no such file."""
    return json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}


def write(file: Path, rows: Mapping[str, Row]) -> None:
    """Write the rows, a line for each, so that branches merge."""
    lines = ',\n'.join(
        f'{json.dumps(method)}: {json.dumps(row, ensure_ascii=False)}'
        for method, row in sorted(rows.items())
    )
    file.write_text(f'{{\n{lines}\n}}\n', encoding='utf-8')


def full_table(rows: Mapping[str, Row]) -> str:
    """A row for each method; dashes have the number of their reason in the list that follows."""
    reasons: dict[str, int] = {}

    def cell(reason: str | None) -> str:
        if reason is None:
            return YES
        number = str(reasons.setdefault(reason, len(reasons) + 1))
        return NO + number.translate(SUPERSCRIPT)

    lines = [(method, *map(cell, row.values())) for method, row in rows.items()]
    listed = '\n'.join(f'{number}. `{reason}`' for reason, number in reasons.items())
    return f'{table(("method", *FAMILIES), lines)}\n\n{listed}'


def short_table(rows: Mapping[str, Row]) -> str:
    """A row for all methods that work on the same families."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for method, row in rows.items():
        marks = tuple(YES if reason is None else NO for reason in row.values())
        shared.setdefault(marks, []).append(method)
    most_first = sorted(shared.items(), key=lambda each: -each[0].count(YES))
    return table(('method', *FAMILIES), [(', '.join(names), *marks) for marks, names in most_first])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('methods', nargs='*', metavar='METHOD', help='default: all')
    parser.add_argument('--folder', type=Path, default=REPOSITORY, help='of README.md and docs/')
    args = parser.parse_args(argv)
    known = method_names()
    if unknown := set(args.methods) - set(known):
        parser.error(f'no method of --losses: {", ".join(sorted(unknown))}')
    MMLogger.get_current_instance().setLevel('ERROR')
    file = args.folder / 'docs/works_with.json'
    rows = {method: row for method, row in read(file).items() if method in known}
    for method in args.methods or known:
        rows[method] = {family: reason_against(method, family) for family in FAMILIES}
        marks = (NO if reason else YES for reason in rows[method].values())
        print(f'{method:20}', *itertools.chain(*zip(FAMILIES, marks, strict=True)), flush=True)
    rows = dict(sorted(rows.items()))
    write(file, rows)
    replace_block(args.folder / 'docs/works_with.md', 'works_with', full_table(rows))
    replace_block(args.folder / 'README.md', 'works_with', short_table(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
