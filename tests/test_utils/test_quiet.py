from __future__ import annotations

import subprocess
import sys
import warnings

from mmkd.utils import quiet_packages

IMPORT = """
import sys
from mmkd.utils import quiet_packages
for scope in ('mmdet', 'mmpretrain'):
    quiet_packages(scope)
    assert f'{scope}.datasets' in sys.modules
"""


def test_packages_are_imported_in_silence() -> None:
    run = subprocess.run([sys.executable, '-c', IMPORT], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ''


def test_other_warnings_are_left_alone() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        quiet_packages(None)
        for text, module in (('old', 'torch.amp'), ('old', 'mine'), ('odd', 'torchmine')):
            warnings.warn_explicit(text, FutureWarning, 'file.py', 1, module=module)
        warnings.warn_explicit('slow', UserWarning, 'file.py', 1, module='mmdet.models')
    assert [str(warning.message) for warning in said] == ['old', 'odd', 'slow']
