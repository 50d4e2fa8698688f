"""`mmkd train`, from a clone: see ``python tools/train.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('train')
