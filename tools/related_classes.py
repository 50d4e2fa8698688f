"""Print the class pairs that a trained AEKT layer relates most.

AEKT's serial layer maps the student's logits s to the distilled logits W s + b, or with serial='distill_then_task' the
distilled logits to the task's; it starts with W = I. W[a, b] above 0 says that the logit of class b speaks for class a
behind the layer, below 0 that it speaks against. A pair is ranked by the mean of both directions.

    python tools/related_classes.py work_dirs/aekt/epoch_12.pth --top 50

The layer is in the checkpoints of training (keys `distill.*`), not in an exported student.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from mmkd.checkpoints import load_checkpoint
from mmkd.report import table

KEY = re.compile(r'(?:module\.)?distill\.(.+)\.(?:serial|task)_layer\.offset')


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of a training with mmkd.AEKTLoss')
    parser.add_argument('--loss', help="the loss's name in model.losses, where there are several")
    parser.add_argument('--top', type=int, default=20, help='number of pairs (default: 20)')
    args = parser.parse_args(arguments)
    try:
        print(related(load_checkpoint(args.checkpoint), args.loss, args.top))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'related_classes: {error}')


def related(checkpoint: Mapping[str, Any], loss: str | None, top: int) -> str:
    """The most related pairs of a checkpoint's layer W = I + offset, as a table.

    Raises:
        ValueError: It has no such layer, or one that was never trained.
    """
    found = {match[1]: key for key in checkpoint['state_dict'] if (match := KEY.fullmatch(key))}
    name = next(iter(found), None) if loss is None else loss
    if name not in found or (loss is None and len(found) > 1):
        raise ValueError(
            f'--loss {loss}: the checkpoint has the AEKT layers of: {", ".join(found) or "no loss"}. A training with '
            'mmkd.AEKTLoss has one unless serial is none; an exported student has none'
        )
    offset = checkpoint['state_dict'][found[name]].double()
    if not offset.any():
        raise ValueError('the layer is the identity still: nothing has been learned')
    names = (checkpoint.get('meta', {}).get('dataset_meta') or {}).get('classes')
    # A softmax detector has a logit of the background, too.
    names = [*names, 'background'] if names else [f'class {i}' for i in range(len(offset))]
    strength = (offset + offset.T) / 2
    pairs = sorted(combinations(range(len(offset)), 2), key=lambda pair: -strength[pair])[:top]
    rows = [
        (
            f'{names[a]}, {names[b]}',
            *(f'{w:+.4f}' for w in (strength[a, b], offset[a, b], offset[b, a])),
        )
        for a, b in pairs
    ]
    return table(('a, b', 'mean', 'W[a, b]', 'W[b, a]'), rows)


if __name__ == '__main__':
    main()
