"""Jobs live in a module of their own, because the worker processes import them by name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from blip3v.demo.workers import Job, WorkerError, run_jobs, spread
from blip3v.errors import UserError

JOBS = """
import os, signal, time
from blip3v.errors import UserError

def double(report, number):
    time.sleep(0.3 / number)
    report("double", number, 10, "words")
    return 2 * number

def fail(report):
    raise ZeroDivisionError("no such clip 17")

def refuse(report):
    raise UserError("give another clip")

def die(report):
    os.kill(os.getpid(), signal.SIGKILL)

def linger(report, path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    report("linger", 0, 1, "")
    time.sleep(60)
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "jobs_of_this_test.py").write_text(JOBS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import jobs_of_this_test  # type: ignore[import-not-found]

    return jobs_of_this_test


def ignore(*progress: Any) -> None:
    pass


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_keep_their_order_and_progress_arrives(jobs: Any) -> None:
    seen: list[tuple[Any, ...]] = []
    found = run_jobs([Job(jobs.double, (number,)) for number in (1, 2, 3)], lambda *row: seen.append(row))
    assert found == [2, 4, 6]
    assert sorted(seen) == [("double", number, 10, "words") for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("fail", WorkerError, "ZeroDivisionError: no such clip 17"),
        ("refuse", UserError, "^give another clip$"),
        ("die", WorkerError, "exit code -9"),
    ],
)
def test_a_failure_reaches_the_parent_and_ends_the_others(
    jobs: Any, tmp_path: Path, name: str, error: type[Exception], words: str
) -> None:
    noted = tmp_path / "pid"
    begin = time.monotonic()
    with pytest.raises(error, match=words):
        run_jobs([Job(jobs.linger, (str(noted),)), Job(getattr(jobs, name), ())], ignore)
    assert time.monotonic() - begin < 30
    assert not noted.exists() or not is_running(int(noted.read_text()))


def test_an_interrupt_ends_the_workers(jobs: Any, tmp_path: Path) -> None:
    noted = tmp_path / "pid"

    def interrupt(*progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([Job(jobs.linger, (str(noted),))], interrupt)
    assert not is_running(int(noted.read_text()))


def test_items_are_spread_evenly() -> None:
    assert spread([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert spread([1], 4) == [[1]]
