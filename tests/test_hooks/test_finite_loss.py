from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmkd.hooks import FiniteLossHook

FINE = dict(loss=torch.tensor(1.0), loss_cls=torch.tensor(1.0))
BROKEN = dict(
    loss=torch.tensor(float('nan')),
    loss_cls=torch.tensor(float('nan')),
    loss_bbox=torch.tensor(1.0),
)


def after(hook: FiniteLossHook, outputs: dict[str, torch.Tensor], **optim_wrapper: object) -> None:
    runner = SimpleNamespace(iter=7, epoch=1, optim_wrapper=SimpleNamespace(**optim_wrapper))
    hook.after_train_iter(runner, 0, outputs=outputs)  # type: ignore[arg-type]


def test_the_loss_and_the_iteration_are_named() -> None:
    hook = FiniteLossHook()
    after(hook, FINE)
    with pytest.raises(
        FloatingPointError, match=r'loss_cls is nan at iteration 7 \(epoch 1\)'
    ) as raised:
        after(hook, BROKEN)
    assert 'loss_bbox' not in str(raised.value)


def test_lost_weights_are_not_saved() -> None:
    """The loss was finite, and the step of it was too large; or another process had the loss that was not."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    runner = SimpleNamespace(iter=7, epoch=1, model=model)
    hook = FiniteLossHook()
    model[1].running_var.fill_(float('inf'))
    hook.before_save_checkpoint(runner, {})  # type: ignore[arg-type]
    with torch.no_grad():
        model[0].bias[1] = float('inf')
    with pytest.raises(FloatingPointError, match=r'1 weights, 0\.bias first, .* at iteration 7'):
        hook.before_save_checkpoint(runner, {})  # type: ignore[arg-type]


def test_a_gradient_scaler_is_left_alone_for_a_while() -> None:
    hook = FiniteLossHook(patience=3)
    for outputs in (BROKEN, BROKEN, FINE, BROKEN, BROKEN):
        after(hook, outputs, loss_scaler=None)
    with pytest.raises(FloatingPointError, match='loss_cls is nan'):
        after(hook, BROKEN, loss_scaler=None)
