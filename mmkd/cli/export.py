"""Export the student of a run: a checkpoint and a config for MMDetection or MMPretrain, without its teacher.

    mmkd export mmkd::ckd/retinanet_r101_r50.py work_dirs/ckd/retinanet_r101_r50/epoch_24.pth

writes NAME-HASH.pth and NAME.py into the folder `exported` beside the checkpoint. See docs/export.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkd.utils import CfgOptions, merge, read_config
from mmkd.utils.export import export_student, read_metrics


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='mmkd export',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='the recipe, or the config of a plain model')
    parser.add_argument('checkpoint', help='checkpoint of its training')
    parser.add_argument(
        '--out-dir', help='folder of the two files (default: exported, beside the checkpoint)'
    )
    parser.add_argument(
        '--name', help="beginning of their names (default: config's and checkpoint's)"
    )
    parser.add_argument('--half', action='store_true', help='write the weights as float16')
    parser.add_argument(
        '--metrics',
        metavar='FILE',
        help='JSON file of metrics to keep in the checkpoint, as `mmkd test` writes them',
    )
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='unpickle whatever the checkpoint holds, which can run code that is in it',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, help='override settings: KEY=VALUE'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Export; return the exit code: 0, or 2 if something is wrong with what was given."""
    args = parse_args(argv)
    out_dir = args.out_dir or Path(args.checkpoint).parent / 'exported'
    try:
        cfg = read_config(args.config)
        merge(cfg, args.cfg_options or {})
        metrics = read_metrics(args.metrics) if args.metrics else None
        student = export_student(
            cfg, args.checkpoint, out_dir, args.name, args.allow_pickle, args.half, metrics
        )
    except (OSError, RuntimeError, ValueError) as error:
        print(f'mmkd export: {error}', file=sys.stderr)
        return 2
    print(f'checkpoint: {student.checkpoint}\nconfig: {student.config}')
    return 0
