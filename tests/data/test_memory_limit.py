"""Each test limits a process of its own."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from blip3v.data.memory_limit import keeps_memory, ran_out_of_memory

BEGIN = """
import numpy as np
from blip3v.data.memory_limit import keeps_memory, limit_memory, ran_out_of_memory
kept = np.ones(300 << 20, np.uint8)  # what is there does not count
limit_memory(200 << 20)
"""


def limited(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_allowance_can_be_used_and_not_exceeded() -> None:
    assert limited(
        """
a = np.ones(150 << 20, np.uint8)
print(keeps_memory())
try:
    b = np.ones(100 << 20, np.uint8)
except MemoryError as error:
    print(ran_out_of_memory(error))
del a
b = np.ones(90 << 20, np.uint8)
print(keeps_memory())
"""
    ).split() == ["True", "True", "False"]


def test_pyav_and_its_like_are_told_apart_from_other_errors() -> None:
    assert limited(
        """
import av
try:
    av.VideoFrame(20000, 5000, "rgb24")
except Exception as error:
    print(ran_out_of_memory(error))
"""
    ) == "True"  # fmt: skip


def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    code = f'print(np.memmap({str(tmp_path / "large")!r}, np.uint8, "r").shape)'
    assert limited(code) == f"({1 << 30},)"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "x"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (ValueError("x"), False),
        (None, False),
    ],
)
def test_what_is_about_memory(error: Exception | None, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected
    raised = ValueError("cannot read it")
    raised.__cause__ = error
    assert ran_out_of_memory(raised) is expected


def test_a_process_without_a_limit_keeps_nothing() -> None:
    assert not keeps_memory()
