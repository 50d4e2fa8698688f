"""Print the class pairs that a trained AEKT layer relates most.

AEKT's serial layer maps the student's logits s to the distilled logits W s + b, or with serial='distill_then_task' the
distilled logits to the task's; it starts with W = I. W[a, b] above 0 says that the logit of class b speaks for class a
behind the layer, below 0 that it speaks against. A pair is ranked by the mean of both directions.

    python tools/related_classes.py work_dirs/aekt/epoch_12.pth
    python tools/related_classes.py work_dirs/aekt/epoch_12.pth --top 50 --loss aekt

The layer is in the checkpoints of training (keys `distill.*`), not in an exported student.
"""

from __future__ import annotations

import argparse
import os.path as osp
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

# Works from a clone as well, before `pip install -e .`.
sys.path.append(osp.dirname(osp.dirname(osp.abspath(__file__))))

from torch import Tensor

from mmkd.checkpoints import load_checkpoint

KEY = re.compile(r'(?:module\.)?distill\.(.+)\.(?:serial|task)_layer\.offset')


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of a training with mmkd.AEKTLoss')
    parser.add_argument('--loss', help="the loss's name in model.losses, where there are several")
    parser.add_argument('--top', type=int, default=20, help='number of pairs (default: 20)')
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='unpickle whatever the checkpoint holds, which can run code that is in it',
    )
    args = parser.parse_args(arguments)
    if args.top < 1:
        parser.error(f'--top {args.top}: at least 1 pair')
    try:
        print(report(args.checkpoint, args.loss, args.top, args.allow_pickle))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'related_classes: {error}')


def report(path: str, loss: str | None, top: int, allow_pickle: bool = False) -> str:
    """The table of the most related pairs of a checkpoint.

    Raises:
        OSError, RuntimeError: The file cannot be read.
        ValueError: It has no such layer, or one that was never trained.
    """
    checkpoint = load_checkpoint(path, allow_pickle=allow_pickle, option='--allow-pickle')
    offset = find_layer(checkpoint.get('state_dict', checkpoint), loss)
    if not offset.any():
        raise ValueError(f'{path}: the layer is the identity still: nothing has been learned')
    names = class_names(checkpoint.get('meta') or {}, len(offset))
    strength = (offset + offset.T) / 2
    pairs = sorted(combinations(range(len(names)), 2), key=lambda pair: -strength[pair])[:top]
    width = max(len(names[index]) for pair in pairs for index in pair)
    lines = [f'{"class a":{width}}  {"class b":{width}}     mean  W[a, b]  W[b, a]']
    lines += [
        f'{names[a]:{width}}  {names[b]:{width}}  {strength[a, b]:+.4f}  {offset[a, b]:+.4f}  {offset[b, a]:+.4f}'
        for a, b in pairs
    ]
    return '\n'.join(lines)


def find_layer(state: Mapping[str, Tensor], loss: str | None) -> Tensor:
    """(C, C) W - I of the AEKT loss of this name, or of the only one."""
    found = {match[1]: state[key] for key in state if (match := KEY.fullmatch(key))}
    if not found:
        raise ValueError(
            'the checkpoint has no AEKT layer: take a checkpoint of the training itself (not an exported '
            "student) of a recipe with mmkd.AEKTLoss and another serial than 'none'"
        )
    if loss is None and len(found) > 1:
        raise ValueError(f'the checkpoint has several AEKT layers: choose --loss {"|".join(found)}')
    name = next(iter(found)) if loss is None else loss
    if name not in found:
        raise ValueError(f'--loss {name}: the checkpoint has the layers of {", ".join(found)}')
    return found[name].double()


def class_names(meta: Mapping[str, Any], num_logits: int) -> list[str]:
    """A name for every logit: the data set's classes, background where the head has a logit of it."""
    names = (meta.get('dataset_meta') or {}).get('classes')
    if names is None:
        return [f'class {number}' for number in range(num_logits)]
    names = [names] if isinstance(names, str) else list(names)
    if num_logits == len(names) + 1:
        names.append('background')
    if num_logits != len(names):
        raise ValueError(f'the checkpoint names {len(names)} classes, its layer has {num_logits}')
    return names


if __name__ == '__main__':
    main()
