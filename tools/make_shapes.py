"""Write the embedded detection data: ``python tools/make_shapes.py --help``."""

from mmkd.datasets.shapes import main

if __name__ == '__main__':
    main()
