"""Runs a function in several processes that find each other as torchrun's do, in about a second.

The processes are forked from a server that has imported torch and transformers already, and meet through a
store that the test holds, so no port can be taken by somebody else in between.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

from torch.distributed import TCPStore

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["blip3v.train.loop", "torch.distributed.fsdp"])


def run_in_processes(
    function: Callable[..., Any],
    *args: Any,
    processes: int = 2,
    per_node: int | None = None,
    timeout: float = 90.0,
) -> list[Any]:
    """What `function(*args)` returns in each of `processes`, in order of rank.

    Args:
        function: a function of a module; it, its arguments and what it returns are pickled (no tensors).
        per_node: processes that torchrun calls one node; None puts all on one.

    Raises:
        AssertionError: with the traceback of the first process that failed, or naming those that hang.
    """
    per_node = per_node or processes
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    started, pipes = [], []
    for rank in range(processes):
        environment = {
            "RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank % per_node,
            "LOCAL_WORLD_SIZE": per_node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True, "OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        here, there = _SERVER.Pipe(duplex=False)
        variables = {name: str(value) for name, value in environment.items()}
        process = _SERVER.Process(target=_run, args=(there, variables, function, args), daemon=True)
        process.start()
        there.close()
        started.append(process)
        pipes.append(here)
    try:
        return _results(pipes, time.monotonic() + timeout)
    finally:
        for process in started:
            process.join(5)
            if process.is_alive():
                process.kill()


def _run(pipe: Connection, variables: dict[str, str], function: Callable[..., Any], args: Any) -> None:
    os.environ.update(variables)
    try:
        outcome = (True, function(*args))
    except BaseException:
        outcome = (False, traceback.format_exc())
    pipe.send_bytes(pickle.dumps(outcome))


def _results(pipes: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        pending = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(pending, timeout=max(0.0, deadline - time.monotonic()))
        hanging = [rank for rank in range(len(pipes)) if rank not in results]
        assert ready, f"processes {hanging} hang"
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                good, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                good, value = False, "it died without a word"
            assert good, f"process {rank}: {value}"
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]
