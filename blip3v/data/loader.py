"""Batches made ahead by worker processes, which may die, hang or meet broken samples without ending the run.

What happens, each with a test:

- A sample that cannot be read (any exception): it is left out and reported, and a sample without labels
  stands in its place (see `Guard`). More than a fifth of at least 200 samples broken: the run stops.
- A worker dies (kill -9, out of memory): stderr says so, the workers are started again at the first batch
  that was not delivered, and the order of batches is what it would have been. A sample on which a worker died
  twice counts as broken. So does one that takes longer than `timeout` seconds; its worker is killed.
- A sample asks for more than `memory`: that is a sample that cannot be read, or a worker that dies where the
  decoder does not look for it. A worker that has filled up over many samples ends itself, which costs none.
- Workers that die again and again without a batch in between: the run stops.
- With 0 workers samples are made in the main process, where one that hangs or crashes takes the run along.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from blip3v.data.batches import Place
from blip3v.data.guard import Blackboard, Delivery, Guard, Samples
from blip3v.data.memory_limit import limit_memory
from blip3v.errors import UserError

POLL = 0.5
"""Seconds between two looks at the workers while the next batch is waited for."""
BROKEN_SHARE, BROKEN_FROM = 0.2, 200
"""A larger share of broken samples stops the run, once so many have been seen."""


class SampleLoader:
    """An iterator over the batches of `batches`, in their order.

    Args:
        dataset: samples by `Place`; each has "labels".
        batches: the places of each batch; read once, as far ahead as the workers are.
        collate: list of samples -> batch.
        workers: processes; 0 makes batches when they are asked for.
        prefetch: batches that each worker makes ahead.
        pin_memory: have batches in page-locked memory, from which a GPU copies while it computes.
        seed: of the workers' own random generators; datasets here do not use them.
        on_skip: called in this process with the place of a broken sample and the reason, as its batch is
            delivered.
        timeout: seconds that one sample may take in a worker.
        restarts: times that the workers may die before a batch is delivered again.
        memory: bytes by which a worker may grow beyond what it has when it starts (see `limit_memory`); None
            for no limit. With 0 workers there is none.

    Attributes:
        stall_seconds: time that `next` has waited, in sum.
        skipped: broken samples so far.

    Raises:
        UserError: too many broken samples, workers that do not stay alive, samples that do not make a batch.
    """

    def __init__(
        self,
        dataset: Samples,
        batches: Iterable[Sequence[Place]],
        collate: Callable[[list[Any]], dict[str, Any]],
        workers: int = 0,
        prefetch: int = 4,
        pin_memory: bool = False,
        seed: int = 0,
        on_skip: Callable[[Place, str], None] | None = None,
        timeout: float = 120.0,
        restarts: int = 5,
        memory: int | None = 8 << 30,
    ) -> None:
        self.workers, self.prefetch, self.pin_memory, self.seed = workers, prefetch, pin_memory, seed
        self.on_skip, self.timeout, self.restarts, self.memory = on_skip, timeout, restarts, memory
        self.stall_seconds, self.skipped = 0.0, 0
        self._dataset, self._collate = dataset, collate
        self._to_draw = iter(batches)
        self._undelivered: deque[Sequence[Place]] = deque()
        self._banned: dict[Place, str] = {}
        self._deaths: Counter[Place] = Counter()
        self._seen = self._failures = 0
        self._reason = ""
        self._waiting_since = 0.0
        self._board = Blackboard(workers)
        self._running: Iterator[Delivery] | None = None

    def __iter__(self) -> SampleLoader:
        return self

    def __next__(self) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            delivery = self._delivery()
        finally:
            self.stall_seconds += time.perf_counter() - began
        self._seen += len(self._undelivered.popleft())
        self._failures = 0
        for place, reason in delivery.skipped:
            self.skipped, self._reason = self.skipped + 1, reason
            if self.on_skip is not None:
                self.on_skip(place, reason)
        if delivery.batch is None:
            raise UserError(delivery.error)
        if self._seen >= BROKEN_FROM and self.skipped > BROKEN_SHARE * self._seen:
            raise UserError(
                f"{self.skipped} of {self._seen} samples cannot be read, the last because of: "
                f"{self._reason}; check the data with `blip3v data check`"
            )
        return delivery.batch

    def close(self) -> None:
        """End the workers; the loader can not be used afterwards."""
        self._kill_workers()
        self._to_draw = iter(())
        self._undelivered.clear()

    def _delivery(self) -> Delivery:
        self._waiting_since = time.monotonic()
        while True:
            if self._running is None:
                self._running = self._start()
            try:
                return next(self._running)
            except StopIteration:
                self.close()
                raise
            except Exception as error:
                # What samples raise comes as a delivery: this is a worker that died or a queue that broke, or
                # nothing but a look at the clock (see `_start`).
                if self.workers == 0:
                    raise
                self._look_after_workers(error)

    def _start(self) -> Iterator[Delivery]:
        """Workers, or this process, at work from the first batch that was not delivered."""
        drawn = list(self._undelivered)
        self._board = Blackboard(self.workers)
        guard = Guard(self._dataset, self._collate, self._board, dict(self._banned))
        if self.workers == 0:
            return map(guard, self._places(drawn))
        loader = DataLoader(
            # The "dataset" of torch's loader is indexed by whole batches.
            cast("torch.utils.data.Dataset[Any]", _Indexed(guard)),
            sampler=cast(Any, self._places(drawn)),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=self.prefetch,
            pin_memory=self.pin_memory,
            collate_fn=cast(Any, _as_it_is),
            worker_init_fn=partial(_begin_worker, self._board, self.memory),
            # So long at most does `next` wait before it raises, and may be called again.
            timeout=POLL,
            # Its own: a loader draws a seed at its start, which must not move the model's dropout.
            generator=torch.Generator().manual_seed(self.seed),
        )
        iterator = iter(loader)
        _leave_dead_workers_to_us()
        return cast("Iterator[Delivery]", iterator)

    def _places(self, drawn: list[Sequence[Place]]) -> Iterator[Sequence[Place]]:
        yield from drawn
        for places in self._to_draw:
            self._undelivered.append(places)
            yield places

    def _look_after_workers(self, error: Exception) -> None:
        """Nothing came for a moment: go on waiting, or start again without what is dead or hangs."""
        alive = {process.pid for process in multiprocessing.active_children()}
        at_work = self._board.at_work()
        dead = [pid for pid in self._board.pids() if pid not in alive]
        hanging = [(pid, place) for pid, place, seconds in at_work if pid in alive and seconds > self.timeout]
        # A worker that is in no sample joins samples to a batch; or there is no one left to hand it over.
        stuck = not at_work and time.monotonic() - self._waiting_since > self.timeout
        if not dead and not hanging and not stuck and "timed out" in str(error):
            return
        for _, place in hanging:
            self._banned[place] = f"took longer than {self.timeout:g} seconds"
        for pid, place, _ in at_work:
            if pid in dead:
                self._deaths[place] += 1
                if self._deaths[place] > 1:
                    self._banned[place] = "a worker died on it twice"
        what = f"{len(dead)} died" if dead else f"{len(hanging)} hung" if hanging else f"no batch ({error})"
        self._failures += 1
        print(f"WARNING: data workers: {what}; starting them again", file=sys.stderr, flush=True)
        self._kill_workers()
        if self._failures > self.restarts:
            raise UserError(
                f"data workers failed {self._failures} times in a row ({what}); look for too little memory "
                "or use fewer workers"
            ) from error

        self._waiting_since = time.monotonic()

    def _kill_workers(self) -> None:
        pids = set(self._board.pids())
        for process in multiprocessing.active_children():
            if process.pid in pids:
                process.kill()
                process.join()
        self._running = None


class _Indexed:
    """A function as a dataset."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __getitem__(self, places: Sequence[Place]) -> Delivery:
        return self._guard(places)


def _begin_worker(board: Blackboard, memory: int | None, worker: int) -> None:
    """Called in each worker, once."""
    board.take_row(worker)
    if memory is not None:
        limit_memory(memory)


def _as_it_is(delivery: Delivery) -> Delivery:
    """In the place of torch's conversion to tensors."""
    return delivery


def _leave_dead_workers_to_us() -> None:
    """Take away the handler by which torch raises, wherever the program is, as soon as a worker dies."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", "").startswith("torch.utils.data"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
