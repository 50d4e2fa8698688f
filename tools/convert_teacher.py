"""`mmkd convert-teacher`, from a clone: see ``python tools/convert_teacher.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('convert-teacher')
