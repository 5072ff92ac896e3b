"""What a process of `run_isolated` does: it answers items, one after the other, until its pipe ends."""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from blip3v.data.memory_limit import limit_memory, ran_out_of_memory
from blip3v.errors import UserError

READY = b""
"""First message of a worker that can begin; any other text is the reason why it can not."""


class Answer(NamedTuple):
    """What a worker says of an item.

    Attributes:
        result: of the function.
        error: empty where it worked.
        seconds: in the function.
        out_of_memory: it failed for want of memory; the worker ends.
    """

    result: Any
    error: str
    seconds: float
    out_of_memory: bool = False


def serve(connection: Connection, function: bytes, timeout: float, memory: int | None) -> None:
    """Run in the worker: items come as pickles on the pipe and answers go back as pickles.

    Args:
        function: pickled.
        timeout: seconds per item. The parent watches it; an item that hangs when the parent is gone is ended
            by the system after twice that time.
        memory: bytes, see `limit_memory`.
    """
    # Ctrl-C reaches every process of a terminal; the parent is the one that acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _leave_no_core_dump()
    try:
        call = pickle.loads(function)
    except Exception as error:
        connection.send_bytes(one_line(error).encode())
        return
    if memory is not None:
        limit_memory(memory)
    connection.send_bytes(READY)
    out_of_memory = False
    while not out_of_memory:
        try:
            item = connection.recv_bytes()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout)
        message, out_of_memory = answer(call, item)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            # Bytes, made above: a result that cannot be pickled is an error of the item. And plainly pickled:
            # multiprocessing's own way lends tensors as shared memory, which would end with this process.
            connection.send_bytes(message)
        except OSError:
            return


def answer(function: Callable[[Any], Any], item: bytes) -> tuple[bytes, bool]:
    """A pickled `Answer` for a pickled item, and whether memory ran out."""
    begin = time.perf_counter()
    try:
        result = function(pickle.loads(item))
        said = Answer(result, "", time.perf_counter() - begin)
        return pickle.dumps(said, pickle.HIGHEST_PROTOCOL), False
    except Exception as error:  # whatever it is, it is this item's
        seconds, empty = time.perf_counter() - begin, ran_out_of_memory(error)
        return pickle.dumps(Answer(None, one_line(error), seconds, empty)), empty


def one_line(error: Exception) -> str:
    """The message of a UserError, which is a sentence; of any other exception with its type."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()) or type(error).__name__


def _leave_no_core_dump() -> None:
    # Crashes are expected here, and a core file for each would fill the disk.
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
