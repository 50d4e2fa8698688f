"""`mmkd quickstart`, from a clone: see ``python tools/quickstart.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('quickstart')
