"""`mmkd cache`, from a clone: see ``python tools/cache_teacher.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('cache')
