from __future__ import annotations

import os
import signal

import pytest

from mmkd.utils import Stopping, command_line


@pytest.mark.parametrize(
    ('number', 'said'), [(signal.SIGINT, 'Ctrl-C'), (signal.SIGTERM, 'SIGTERM')]
)
def test_a_signal_ends_the_block_with_a_line(
    number: signal.Signals, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with Stopping('none') as stop:
        stop.outlook = lambda: 'Nothing is left.'
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise RuntimeError('a worker ended with the run') from None
    assert stop.exit_code == 128 + number
    assert capsys.readouterr().err == f'\nStopped by {said}. Nothing is left.\n'
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_errors_are_left_alone() -> None:
    with pytest.raises(ValueError, match='anything'), Stopping('none'):
        raise ValueError('anything')


def test_only_the_first_process_of_a_run_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('RANK', '1')
    with Stopping('pytorch'):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_command_is_the_one_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ['a b.py', '--amp']
    assert command_line('train', argv, 'none') == "mmkd train 'a b.py' --amp"

    monkeypatch.setenv('LOCAL_WORLD_SIZE', '8')
    argv = ['c.py', '--launcher', 'pytorch', '--amp']
    assert command_line('train', argv, 'pytorch') == 'mmkd dist-train c.py 8 --amp'
