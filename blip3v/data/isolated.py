"""A function applied to items in processes of their own, so that no item can stop the others.

Decoders are C code, and files are what people send: one may hang its decoder, crash it, or claim a size that
takes all memory. In a process with limits on time and memory that costs this item and nothing else. It is a
guard against faults, not against an attacker who takes the process over: it runs as the same user.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from blip3v.data.isolated_crew import Crew, Task
from blip3v.data.memory_limit import limit_memory
from blip3v.errors import UserError

__all__ = ["Outcome", "limit_memory", "run_isolated"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of an item.

    Attributes:
        item: as it was given.
        result: what the function returned; None where it failed (and where it returned None).
        error: why it failed, on one line; empty where it worked. The message of a UserError, "TypeName: text"
            of any other exception, "took longer than 60 s", "its process died (signal 11)", "asked for more
            than 4 GiB of memory".
        seconds: in the function; where its process did not answer, until the process was given up.
    """

    item: Item
    result: Result | None
    error: str
    seconds: float


def run_isolated(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = 2,
    timeout: float = 60.0,
    memory: int | None = 4 << 30,
    ahead: int = 4,
) -> Generator[Outcome[Item, Result], None, None]:
    """The outcomes of `function` for `items`, in their order.

    A worker that dies, hangs or runs out of memory is replaced. An item on which it died or ran out of memory
    is tried once more, in a process that has done nothing before: an earlier item may have leaked, or damaged
    the decoder's memory. So `function` may run twice for an item, the first time perhaps in part.

    The workers are given work, and looked after, while the iterator is asked for an outcome; in between each
    ends what it is at. Closing the iterator, or an exception in it (Ctrl-C), kills them. They end too when
    this process dies, in whatever way.

    Args:
        function: found by its name in a module that can be imported, or a `functools.partial` of such a one.
            The module is imported before any limit holds; what it imports only when called counts.
        items: read no further than there are workers to take them. What it raises is raised here, after the
            outcomes of the items before.
        workers: processes, started when there is work for them.
        timeout: seconds per item; the start of a process does not count.
        memory: bytes by which a worker may grow, see `limit_memory`; None for no limit, which a function that
            starts CUDA needs.
        ahead: outcomes per worker that may wait while an earlier one is not there yet.

    Raises:
        UserError: arguments that cannot work, or workers that cannot be started.
    """
    if workers < 1 or ahead < 1 or timeout <= 0 or (memory is not None and memory <= 0):
        raise UserError(
            f"workers {workers}, ahead {ahead}, timeout {timeout:g} and memory {memory} cannot be; each must "
            "be above 0 (memory may be None)"
        )
    # A fork of this process could inherit a lock that a thread of it holds; the server has no threads. It
    # imports the function's module once for all workers, if it was not at work before.
    context = multiprocessing.get_context("forkserver")
    module = _innermost(function).__module__
    context.set_forkserver_preload([__name__, *([] if module == "__main__" else [module])])
    return _outcomes(Crew(context, pickle.dumps(function), workers, timeout, memory), items, workers * ahead)


def _outcomes(crew: Crew, items: Iterable[Item], most: int) -> Generator[Outcome[Item, Result], None, None]:
    source: Iterator[Item] | None = iter(items)
    failure: Exception | None = None
    window: deque[Task] = deque()  # drawn and not yet handed on, in their order
    try:
        while True:
            while source is not None and len(window) < most and crew.has_room():
                try:
                    task = Task(next(source))
                except StopIteration:
                    source = None
                except Exception as error:
                    source, failure = None, error
                else:
                    window.append(task)
                    crew.take(task)
            if not window:
                break
            if window[0].answer is None:
                crew.look(wait=True)
            else:
                task = window.popleft()
                assert task.answer is not None
                yield Outcome(task.item, *task.answer)
                crew.look(wait=False)
        if failure is not None:
            raise failure
    finally:
        crew.kill()


def _innermost(function: Callable[..., object]) -> Callable[..., object]:
    while isinstance(function, partial):
        function = function.func
    return function
