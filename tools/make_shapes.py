"""`mmkd make-data`, from a clone: see ``python tools/make_shapes.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('make-data')
