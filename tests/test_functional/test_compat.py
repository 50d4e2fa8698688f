from __future__ import annotations

import pytest
import torch

from mmkd.functional.compat import autocast_dtype


@pytest.mark.parametrize('before_2_4', [False, True])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_the_dtype_of_autocast_is_known_while_it_is_on(before_2_4, monkeypatch):
    def found(device):
        with monkeypatch.context() as patch:
            if before_2_4:
                patch.delattr(torch, 'get_autocast_dtype', raising=False)
            return autocast_dtype(device)

    assert found('cpu') is None
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert found('cpu') == torch.bfloat16
        assert found('cuda') is None
        with torch.autocast('cpu', enabled=False):
            assert found('cpu') is None
