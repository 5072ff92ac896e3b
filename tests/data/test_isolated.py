from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip3v.data.isolated import Outcome, run_isolated
from blip3v.errors import UserError


def work(item: Any) -> Any:
    """What the processes of these tests do: a number is doubled, a word does its mischief."""
    if isinstance(item, int):
        return 2 * item
    if isinstance(item, tuple):  # (seconds, value)
        time.sleep(item[0])
        return item[1]
    if isinstance(item, Path):  # until it is there, and a moment longer
        while not item.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        return item.name
    return getattr(Mischief, item)()


class Mischief:
    @staticmethod
    def raises() -> None:
        raise KeyError("of\nnothing")

    @staticmethod
    def refuses() -> None:
        raise UserError("clip.mp4 is no video; leave it out")

    @staticmethod
    def crashes() -> None:
        ctypes.string_at(0)

    @staticmethod
    def aborts() -> None:
        os.abort()

    @staticmethod
    def exits() -> None:
        os._exit(3)

    @staticmethod
    def hangs() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        # In C, with the interpreter's lock held: nothing in Python gets a turn in this process.
        ctypes.PyDLL(None).sleep(60)

    @staticmethod
    def devours() -> Any:
        return np.ones(1 << 30, np.uint8)

    @staticmethod
    def devours_in_the_cause() -> Any:
        try:
            return np.ones(1 << 30, np.uint8)
        except MemoryError as error:
            raise UserError("cannot read it; replace it") from error

    @staticmethod
    def returns_a_function() -> Any:
        return lambda: None

    @staticmethod
    def returns_what_cannot_be_read_back() -> Any:
        return OnlyThere()

    @staticmethod
    def returns_pid() -> int:
        return os.getpid()

    @staticmethod
    def leaks() -> int:
        LEAKED.append(np.ones(150 << 20, np.uint8))
        return len(LEAKED)

    @staticmethod
    def spoils() -> None:
        SPOILED.append(1)

    @staticmethod
    def dies_where_spoiled() -> str:
        if SPOILED:
            os.abort()
        return "whole"


class OnlyThere:
    def __reduce__(self) -> Any:
        return int, ("no number",)


LEAKED: list[Any] = []
SPOILED: list[int] = []


def outcomes(items: Any, **options: Any) -> list[Outcome[Any, Any]]:
    return list(run_isolated(work, items, **{"timeout": 20.0, "memory": 256 << 20, **options}))


def children() -> list[Any]:
    return multiprocessing.active_children()


def test_outcomes_come_in_the_order_of_the_items() -> None:
    items = [(0.3, "slow"), *range(20), (0.1, "late")]
    found = outcomes(items, workers=3)
    assert [one.item for one in found] == items
    assert [one.result for one in found] == ["slow", *range(0, 40, 2), "late"]
    assert all(one.error == "" for one in found)
    assert 0.3 <= found[0].seconds < 5 and found[1].seconds < 0.3
    assert outcomes([]) == [] and children() == []


def test_items_are_drawn_as_they_are_needed(tmp_path: Path) -> None:
    drawn = []

    def draw() -> Iterator[Any]:
        for item in [tmp_path / "go on", *range(50)]:
            drawn.append(item)
            if len(drawn) == 2 * 3:
                (tmp_path / "go on").touch()
            yield item

    found = run_isolated(work, draw(), workers=2, ahead=3, memory=None)
    assert drawn == []
    assert next(found).result == "go on"
    assert len(drawn) == 2 * 3  # the other worker went on, but not beyond what may wait
    assert next(found).result == 0 and len(drawn) <= 2 * 3 + 1
    assert [one.item for one in found] == list(range(1, 50))


@pytest.mark.parametrize(
    ("mischief", "error"),
    [
        ("raises", r"^KeyError: 'of.*nothing'$"),
        ("refuses", "^clip.mp4 is no video; leave it out$"),
        ("crashes", r"^its process died \(signal 11\)$"),
        ("aborts", r"^its process died \(signal 6\)$"),
        ("exits", r"^its process died \(exit code 3\)$"),
        ("hangs", "^took longer than 1.5 s$"),
        ("devours", r"^asked for more than 0\.25 GiB of memory$"),
        ("devours_in_the_cause", r"^asked for more than 0\.25 GiB of memory$"),
        ("returns_a_function", r"^\w+: .*(pickle|local object)"),
        ("returns_what_cannot_be_read_back", r"^its result cannot be read back: ValueError: .*no number"),
    ],
)
def test_a_failure_costs_its_item_and_no_other(mischief: str, error: str) -> None:
    found = outcomes([0, 1, mischief, 2, 3, 4], timeout=1.5)
    assert [one.result for one in found] == [0, 2, None, 4, 6, 8]
    assert [one.error == "" for one in found] == [True, True, False, True, True, True]
    assert re.search(error, found[2].error), found[2].error
    assert found[2].seconds > (1.4 if mischief == "hangs" else 0) and found[2].seconds < 15
    assert children() == []


def test_fifty_crashes_among_two_hundred_items() -> None:
    kinds = ("crashes", "exits", "aborts", "raises", "refuses")
    items = [kinds[n // 4 % 5] if n % 4 == 1 else n for n in range(200)]
    found = outcomes(items)
    assert [one.item for one in found] == items
    assert [one.result for one in found] == [None if isinstance(item, str) else 2 * item for item in items]
    assert sum(one.error != "" for one in found) == 50


def test_an_item_does_not_pay_for_what_others_left_behind() -> None:
    found = outcomes(["leaks", "leaks", "leaks", "spoils", "dies_where_spoiled", 1], workers=1)
    assert [(one.result, one.error) for one in found] == [
        (1, ""), (1, ""), (1, ""), (None, ""), ("whole", ""), (2, ""),
    ]  # fmt: skip


def test_large_results_pass_in_linear_time() -> None:
    function = partial(np.full, fill_value=7, dtype=np.uint8)
    begin = time.perf_counter()
    found = [one.result for one in run_isolated(function, [100, 40 << 20, 40 << 20, 40 << 20])]
    assert all(result is not None and (result == 7).all() for result in found)
    assert [len(result) for result in found if result is not None] == [100, *[40 << 20] * 3]
    assert time.perf_counter() - begin < 10


def test_as_many_processes_as_there_is_work_for() -> None:
    items = ["returns_pid"] * 12
    assert len({one.result for one in outcomes(items, workers=1)}) == 1
    assert os.getpid() not in {one.result for one in outcomes(items)}
    found = run_isolated(work, items[:1], workers=8, memory=None)
    next(found)
    assert len(children()) == 1
    found.close()


def test_closing_ends_the_workers() -> None:
    found = run_isolated(work, [1, (60, "long"), (60, "long"), (60, "long")], workers=3, memory=None)
    begin = time.perf_counter()
    assert next(found).result == 2
    pids = [child.pid for child in children()]
    assert len(pids) >= 2
    found.close()
    assert children() == [] and time.perf_counter() - begin < 30
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_the_items_raise_comes_after_the_outcomes_before() -> None:
    def draw() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError("the list broke off")

    found = run_isolated(work, draw(), memory=None)
    assert [next(found).result for _ in range(3)] == [2, 4, 6]
    with pytest.raises(OSError, match="the list broke off"):
        next(found)
    assert children() == []


def test_an_item_that_cannot_be_sent_is_an_error_of_the_caller() -> None:
    with pytest.raises((TypeError, AttributeError), match="pickle"):
        list(run_isolated(work, [1, threading.Lock()], memory=None))
    assert children() == []


def test_workers_that_cannot_begin_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "gone", gone)
    monkeypatch.setattr(gone, "__qualname__", "Gone.gone")
    monkeypatch.setattr(sys.modules[__name__], "Gone", type("Gone", (), {"gone": gone}), raising=False)
    with pytest.raises(UserError, match=r"cannot import their function \(AttributeError.*Gone.*define it"):
        list(run_isolated(gone, [1]))
    assert children() == []


def gone(item: int) -> int:
    """Its qualified name is changed to one that only the tests' process knows."""
    return item


@pytest.mark.parametrize("options", [{"workers": 0}, {"ahead": 0}, {"timeout": 0.0}, {"memory": 0}])
def test_arguments_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        run_isolated(work, [1], **options)


ORPHANS = """
import signal, sys
from time import sleep
from blip3v.data.isolated import run_isolated
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
if __name__ == "__main__":
    timeout = 1.0 if sys.argv[1] == "kill" else 60.0
    found = run_isolated(sleep, [0, 50, 50], workers=2, timeout=timeout, memory=None)
    next(found)
    from multiprocessing import active_children
    print(*[child.pid for child in active_children()], flush=True)
    sleep(60) if sys.argv[1] == "kill" else next(found)
"""


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_workers_end_with_their_parent(how: str) -> None:
    """kill -9 of it: idle ones by the end of their pipe, one that hangs by its alarm; Ctrl-C: at once."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids
    if how == "kill":
        parent.kill()
    else:
        time.sleep(0.2)
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    _, errors = parent.communicate(timeout=20)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and any(_runs(pid) for pid in pids):
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in pids)
    assert errors.count("KeyboardInterrupt") == (how == "interrupt")


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
