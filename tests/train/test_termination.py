from __future__ import annotations

import os
import signal
import threading

import pytest

from blip3v.train import termination
from blip3v.train.termination import termination_flag


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_and_its_echo_set_the_flag_and_the_handler_goes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with termination_flag() as flag:
        assert not flag.is_set()
        _terminate()
        _terminate()  # by Slurm and by torchrun
        assert flag.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_wish_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(termination, "ECHO", 0.0)  # the second comes too late to be an echo
    child = os.fork()
    if child == 0:
        with termination_flag() as flag:
            _terminate()
            if flag.is_set():
                _terminate()
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_another_thread_gets_a_flag_that_nobody_sets() -> None:
    flags = []

    def run() -> None:
        with termination_flag() as flag:
            flags.append(flag)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not flags[0].is_set()
