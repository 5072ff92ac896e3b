"""The parent's side of `run_isolated`: it starts workers, hands them items, and replaces those that fail."""

from __future__ import annotations

import pickle
import signal
import time
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from blip3v.data.isolated_worker import READY, Answer, one_line, serve
from blip3v.errors import UserError

START_SECONDS, START_TRIES = 300.0, 3
"""A worker imports the function's module, which may bring torch with it from a slow disk. One that is not
ready after so many seconds, or so many in a row that die before, will not come."""


@dataclass(eq=False)
class Task:
    """An item and, once it is there, its answer: result, error, seconds."""

    item: Any
    answer: tuple[Any, str, float] | None = None


@dataclass(eq=False)
class _Worker:
    """A process. It is idle without a task; with one it is starting until it is `ready`, then at work."""

    process: BaseProcess
    pipe: connection.Connection
    task: Task | None
    deadline: float
    ready: bool = False
    used: bool = False  # has done an item before


class Crew:
    """Up to `size` workers.

    Args:
        context: by which processes are started.
        function: pickled.
        timeout: seconds per item.
        memory: bytes by which each may grow; None for no limit.
    """

    def __init__(
        self, context: BaseContext, function: bytes, size: int, timeout: float, memory: int | None
    ) -> None:
        self._context, self._function, self._size = context, function, size
        self._timeout, self._memory = timeout, memory
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def has_room(self) -> bool:
        """Whether a task would be begun at once."""
        return len(self._workers) < self._size or any(worker.task is None for worker in self._workers)

    def take(self, task: Task) -> None:
        """Give a task to an idle worker, or to a new one; only with `has_room`."""
        idle = next((worker for worker in self._workers if worker.task is None), None)
        if idle is None:
            self._start(task)
        else:
            idle.task = task
            self._send(idle)

    def look(self, wait: bool) -> None:
        """Note what workers have answered, and whom they lost; with `wait`, until there is something.

        Raises:
            UserError: workers that cannot be started.
        """
        at_work = [worker for worker in self._workers if worker.task is not None]
        if not at_work:
            return
        seconds = min(worker.deadline for worker in at_work) - time.monotonic() if wait else 0.0
        # The sentinel as well: a process that the function left behind would hold the pipe open.
        watched = [x for worker in at_work for x in (worker.pipe, worker.process.sentinel)]
        speaking = set(connection.wait(watched, max(0.0, seconds)))
        now = time.monotonic()
        for worker in at_work:
            if worker.pipe in speaking:
                self._hear(worker)
            elif worker.process.sentinel in speaking:
                self._lose(worker)
            elif now >= worker.deadline:
                self._give_up(worker)

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.kill()
        while self._workers:
            self._dismiss(self._workers[-1])

    def _start(self, task: Task) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._function, self._timeout, self._memory)
        # A daemon: ended with this process where nobody closes the iterator.
        process = self._context.Process(target=serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        process.start()
        theirs.close()  # or the pipe would not end with the worker
        self._workers.append(_Worker(process, ours, task, time.monotonic() + START_SECONDS))

    def _send(self, worker: _Worker) -> None:
        assert worker.task is not None
        item = pickle.dumps(worker.task.item, pickle.HIGHEST_PROTOCOL)
        worker.deadline = time.monotonic() + self._timeout
        try:
            worker.pipe.send_bytes(item)
        except OSError:
            self._lose(worker)

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._lose(worker)
            return
        if not worker.ready:
            if message != READY:
                raise UserError(
                    f"worker processes cannot import their function ({message.decode()}); define it at the "
                    "top of a module that can be imported"
                )
            self._failed_starts, worker.ready = 0, True
            self._send(worker)
            return
        said = _unpacked(message, self._seconds(worker))
        if said.out_of_memory:
            self._blame(
                worker, f"asked for more than {(self._memory or 0) / 2**30:.3g} GiB of memory", said.seconds
            )
            return
        assert worker.task is not None
        worker.task.answer = (said.result, said.error, said.seconds)
        worker.task, worker.used = None, True

    def _lose(self, worker: _Worker) -> None:
        """A worker that died, or whose pipe broke."""
        worker.process.join(1.0)
        code = worker.process.exitcode
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_TRIES:
                raise UserError(
                    f"{START_TRIES} worker processes died before they could begin ({_cause(code)}); see "
                    'above, and keep what a script does under `if __name__ == "__main__":`'
                )
            self._again(worker)
        elif code == -signal.SIGALRM:  # the system was faster than we (see `serve`)
            self._give_up(worker)
        else:
            self._blame(worker, f"its process died ({_cause(code)})", self._seconds(worker))

    def _give_up(self, worker: _Worker) -> None:
        """A worker beyond its time."""
        if not worker.ready:
            raise UserError(
                f"a worker process did not start within {START_SECONDS:g} s; look at the machine's load"
            )
        self._close(worker, f"took longer than {self._timeout:g} s", self._seconds(worker))

    def _blame(self, worker: _Worker, error: str, seconds: float) -> None:
        """The item did it, if its process had done nothing before."""
        if worker.used:
            self._again(worker)
        else:
            self._close(worker, error, seconds)

    def _close(self, worker: _Worker, error: str, seconds: float) -> None:
        assert worker.task is not None
        worker.task.answer = (None, error, seconds)
        self._dismiss(worker)

    def _again(self, worker: _Worker) -> None:
        assert worker.task is not None
        self._dismiss(worker)
        self._start(worker.task)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join(10.0)  # not for ever: a process that waits for a dead disk cannot be killed
        worker.pipe.close()

    def _seconds(self, worker: _Worker) -> float:
        return time.monotonic() - worker.deadline + self._timeout


def _unpacked(message: bytes, seconds: float) -> Answer:
    try:
        return Answer(*pickle.loads(message))
    except Exception as error:
        return Answer(None, f"its result cannot be read back: {one_line(error)}", seconds)


def _cause(code: int | None) -> str:
    if code is None:
        return "its pipe broke"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
