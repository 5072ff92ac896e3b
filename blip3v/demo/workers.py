"""Work in several processes, with their progress in one place and their errors in the parent."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import wait
from typing import Any

from blip3v.errors import UserError

Report = Callable[[str, float, float, str], None]
"""Called with (task, done, total, a few words)."""


@dataclass(frozen=True)
class Job:
    """`function(report, *arguments)`, run in a process of its own; both must be importable from there."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class WorkerError(RuntimeError):
    """A worker failed; the message holds its traceback, or the signal that ended it."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Neighbouring stretches of about equal length, none of them empty."""
    parts = max(1, min(parts, len(items)))
    bounds = [len(items) * part // parts for part in range(parts + 1)]
    return [items[begin:end] for begin, end in pairwise(bounds)]


def run_jobs(jobs: Sequence[Job], report: Report) -> list[Any]:
    """Run every job at once, one process each, and return their results in order.

    Raises:
        UserError: one of them raised it.
        WorkerError: one of them failed otherwise.

    Whatever ends this early, Ctrl-C among it, ends the other workers too.
    """
    # One server imports torch and transformers once; its forks start at once and share those pages.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["blip3v.demo.training"])
    messages = context.Queue()
    processes = [
        context.Process(target=_work, args=(messages, number, job), daemon=True)
        for number, job in enumerate(jobs)
    ]
    results: dict[int, Any] = {}
    try:
        for process in processes:
            process.start()
        while len(results) < len(jobs):
            for sort, number, content in _drain(messages):
                if sort == "progress":
                    report(*content)
                elif sort == "result":
                    results[number] = content
                else:
                    raise (UserError if sort == "refusal" else WorkerError)(content)
            for number, process in enumerate(processes):
                if process.exitcode and number not in results and messages.empty():
                    raise WorkerError(
                        f"a worker ended with exit code {process.exitcode} and no word; out of memory?"
                    )
        for process in processes:
            process.join()
        return [results[number] for number in range(len(jobs))]
    finally:
        _end(processes)


def _drain(messages: Any) -> list[tuple[str, int, Any]]:
    """Everything that has arrived, after waiting for it a little."""
    found = []
    try:
        found.append(messages.get(timeout=0.5))
        while True:
            found.append(messages.get_nowait())
    except queue.Empty:
        return found


def _end(processes: Sequence[Any]) -> None:
    running = [process for process in processes if process.pid is not None and process.is_alive()]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + 5
    while running and time.monotonic() < deadline:
        wait([process.sentinel for process in running], timeout=0.5)
        running = [process for process in running if process.is_alive()]
    for process in running:
        process.kill()


def _work(messages: Any, number: int, job: Job) -> None:
    """The body of a worker process."""
    # Ctrl-C reaches every process of the terminal; the parent alone decides and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def report(task: str, done: float, total: float, words: str = "") -> None:
        if parent is not None and not parent.is_alive():
            os._exit(1)
        messages.put(("progress", number, (task, done, total, words)))

    try:
        messages.put(("result", number, job.function(report, *job.arguments)))
    except UserError as error:
        messages.put(("refusal", number, str(error)))
        sys.exit(1)
    except BaseException:
        messages.put(("error", number, traceback.format_exc()))
        sys.exit(1)
