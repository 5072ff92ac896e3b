"""The op level under pytest-benchmark: `pytest benchmarks/ops --benchmark-json FILE`. A test is a row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.ceilings import Ceilings
from benchmarks.levels import bench_of
from benchmarks.measure import Calls, measure, reason, version_of
from benchmarks.rows import DIRECTIONS, DTYPES
from benchmarks.subject import Subject
from blip3v.ops.registry import OPS

DTYPE = "bfloat16"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    preset = metafunc.config.getoption("--preset")
    rows = [
        (op, case, peer, direction)
        for op in OPS
        for case in bench_of(op).presets[preset]
        for peer in bench_of(op).default_peers(preset)
        for direction in DIRECTIONS
    ]
    metafunc.parametrize("op, case, peer, direction", rows, ids=["-".join(row) for row in rows])


@functools.lru_cache(maxsize=1)
def subject_of(op: str, case: str, device: str) -> Subject:
    """The rows of one case follow each other and share it."""
    return bench_of(op).build(bench_of(op).cases[case], DTYPES[DTYPE], device)


def test_op(
    op: str,
    case: str,
    peer: str,
    direction: str,
    device: str,
    repeats: int,
    ceilings: Ceilings,
    record: Callable[[dict[str, Any], Callable[[], Any]], None],
) -> None:
    subject = subject_of(op, case, device)
    try:
        calls = Calls(subject.peer(peer), subject)
    except Exception as error:  # a peer may refuse in any way
        pytest.skip(reason(error))
    names = {"level": "ops", "op": op, "case": case, "dtype": DTYPE, "direction": direction, "backend": peer}
    measured = measure(calls, subject, peer, direction, device, DTYPE, repeats, ceilings)
    record(names | {"version": version_of(peer)} | measured, calls.call(direction))
