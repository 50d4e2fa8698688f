"""``python -m mmkd`` is the command `mmkd`, also where it is not on the path."""

from mmkd.cli import run

if __name__ == '__main__':
    run()
