from __future__ import annotations

import pytest
import torch

from mmkd.functional import mgd_loss
from mmkd.functional.mgd import hide_cells


def test_it_is_the_sum_of_squares_of_an_image() -> None:
    noise = torch.Generator().manual_seed(0)
    generated, teacher = torch.randn(2, 3, 4, 6, 5, generator=noise, dtype=torch.float64)
    expected = sum(
        (ours - theirs) ** 2
        for ours, theirs in zip(
            generated.flatten().tolist(), teacher.flatten().tolist(), strict=True
        )
    )
    assert mgd_loss(generated, teacher).item() == pytest.approx(expected / 3, rel=1e-12)


@pytest.mark.parametrize('ratio', [0.0, 0.25, 0.65])
def test_the_share_of_cells_is_hidden_in_all_channels(ratio: float) -> None:
    features = 1 + torch.rand(2, 3, 50, 60)
    hidden = hide_cells(features, ratio, torch.Generator().manual_seed(0))
    kept = hidden != 0
    assert torch.equal(hidden[kept], features[kept])
    assert torch.equal(kept[:, :1].expand_as(kept), kept)
    assert 1 - kept.float().mean().item() == pytest.approx(ratio, abs=0.03)
    assert ratio == 0 or not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize('ratio', [-0.1, 1.0, float('nan'), '0.5'])
def test_other_shares_are_an_error(ratio: float) -> None:
    with pytest.raises(ValueError, match=r'ratio: .* is no share'):
        hide_cells(torch.zeros(1, 1, 1, 1), ratio)
