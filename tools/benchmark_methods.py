"""`mmkd compare`, from a clone: see ``python tools/benchmark_methods.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('compare')
