"""How much memory a process that reads untrusted files may take, before it is refused more."""

from __future__ import annotations

import errno
from pathlib import Path

_beginning = 0
_allowance: int | None = None


def limit_memory(allowance: int) -> None:
    """This process may grow by `allowance` bytes from here on; beyond that every allocation of it fails.

    NumPy and Python raise MemoryError then, FFmpeg answers ENOMEM, and C++ that does not look for it aborts.

    What counts is private writable memory (VmData in /proc/self/status, RLIMIT_DATA in setrlimit(2)): heap,
    arrays, decoded frames and stacks of threads, touched or not. Code, mapped files and what is shared with
    other processes does not, nor address space that is merely reserved, as malloc does 64 MiB at a time for
    every thread and RLIMIT_AS would charge.

    The limit is relative because a process has hundreds of MiB as soon as its libraries are loaded, and a
    fork of a training process has that process's. CUDA takes much for itself when it starts: a process that
    starts it after this call should have no limit. (How much of that counts was not measured.)

    Linux 4.7 or newer; elsewhere nothing is limited.
    """
    global _allowance, _beginning
    size = _data_size()
    if size is None:
        return
    import resource

    limit, (_, most) = size + allowance, resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    _beginning, _allowance = size, allowance


def keeps_memory() -> bool:
    """Whether this process holds more than half of its allowance; between two samples that is a leak."""
    size = _data_size()
    return _allowance is not None and size is not None and 2 * (size - _beginning) > _allowance


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or the one it was raised from, is about memory, whatever library raised it."""
    while error is not None:
        # PyAV passes FFmpeg's error number on; torch has the system's text in a RuntimeError.
        if (
            isinstance(error, MemoryError)
            or getattr(error, "errno", None) == errno.ENOMEM
            or "allocate memory" in str(error)
        ):
            return True
        error = error.__cause__
    return False


def _data_size() -> int | None:
    """Bytes of private writable memory, None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmData:")), None)
    return None if kib is None else 1024 * int(kib)
