"""`mmkd benchmark`, from a clone: see ``python tools/benchmark_speed.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('benchmark')
