"""The command `mmkd`: a module for each of its commands, whose ``main`` takes arguments and returns the exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

COMMANDS = {
    'train': ('mmkd.cli.train', 'train a student with its teacher, or a plain config'),
    'test': ('mmkd.cli.test', 'evaluate a checkpoint'),
    'dist-train': ('mmkd.cli.launch:train', 'train with several processes'),
    'dist-test': ('mmkd.cli.launch:test', 'evaluate with several processes'),
    'check': ('mmkd.cli.check', 'say what a training by a recipe would do'),
    'export': ('mmkd.cli.export', "write the student's checkpoint and config, without mmkd"),
    'cache': ('mmkd.cli.cache', "keep a teacher's outputs on disk"),
    'benchmark': ('mmkd.cli.benchmark', 'time the steps of a recipe'),
    'convert-teacher': ('mmkd.cli.convert_teacher', "make a teacher of another library's weights"),
    'recipes': ('mmkd.cli.recipes', 'list the pairs, and the methods of --losses'),
    'quickstart': ('mmkd.cli.quickstart', 'in a clone: show a distillation on the embedded data'),
    'compare': ('mmkd.cli.compare', 'in a clone: compare methods over families and seeds'),
    'make-data': ('mmkd.datasets.shapes', 'write the embedded data'),
}
"""What `mmkd NAME` calls (``module``, or ``module:function`` where it is not ``main``), and what it does."""


def run(command: str | None = None) -> NoReturn:
    """Run the command that ``sys.argv`` names, or ``command`` with the arguments in it, and end the process."""
    arguments = sys.argv[1:]
    code = main(arguments if command is None else [command, *arguments])
    if 'WORLD_SIZE' in os.environ:  # set by all launchers
        from mmkd.utils.processes import leave

        leave(code)
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Run ``argv``, a command's name and its arguments; return the exit code, 2 if there is no such command."""
    if not argv or argv[0] in ('-h', '--help'):
        print(usage())
        return 0 if argv else 2
    name, *arguments = argv
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f'did you mean {near[0]}?' if near else usage()
        print(f'mmkd: there is no command {name!r}; {hint}', file=sys.stderr)
        return 2
    module, _, function = COMMANDS[name][0].partition(':')
    return getattr(importlib.import_module(module), function or 'main')(arguments) or 0


def usage() -> str:
    """The commands, one in a line."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {what}' for name, (_, what) in COMMANDS.items()]
    return '\n'.join(['usage: mmkd COMMAND ... (mmkd COMMAND --help lists its options)', *lines])
