"""`mmkd export`, from a clone: see ``python tools/export_student.py --help``."""

from mmkd.cli import run

if __name__ == '__main__':
    run('export')
