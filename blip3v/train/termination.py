"""SIGTERM as a flag, so that a run can finish its step and keep a checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_TERMINATED = 128 + signal.SIGTERM
"""The exit code that shells give a terminated process."""
ECHO = 5.0
"""Seconds in which further signals are the same wish: Slurm signals every process of a job, and torchrun
passes on to its processes the one that it got itself."""


@contextmanager
def termination_flag() -> Iterator[threading.Event]:
    """Set when SIGTERM arrives within; one that arrives more than `ECHO` seconds later kills.

    Only the main thread can catch signals. Worker processes made within inherit the handler.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = signal.getsignal(signal.SIGTERM)
    first: list[float] = []

    def handle(number: int, frame: Any) -> None:
        first.append(time.monotonic())
        flag.set()
        if first[-1] - first[0] > ECHO:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, previous)
