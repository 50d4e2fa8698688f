"""`mmkd test`, from a clone: see ``python tools/test.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('test')
