"""The stage level under pytest-benchmark: `pytest benchmarks/stages --benchmark-json F`: tests are rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.ceilings import Ceilings
from benchmarks.device import device_of
from benchmarks.measure import measure, reason
from benchmarks.presets import VIDEOS, dtype_of, videos_case
from benchmarks.rows import DIRECTIONS, DTYPES
from benchmarks.stages.bench_stages import StageSubject, version_of_peer
from benchmarks.stages.peers import default_peers
from benchmarks.stages.stage_modules import DEFAULT, stage_named


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    preset, device = metafunc.config.getoption("--preset"), device_of(metafunc.config.getoption("--device"))
    rows = [
        (name, videos, peer, direction)
        for name in DEFAULT
        for videos in VIDEOS[preset]
        for peer in default_peers(stage_named(name), device)
        for direction in DIRECTIONS
        if direction == "forward" or stage_named(name).trains
    ]
    metafunc.parametrize(
        "stage, videos, peer, direction", rows, ids=["-".join(map(str, row)) for row in rows]
    )


@functools.lru_cache(maxsize=1)
def subject_of(stage: str, preset: str, videos: int, device: str) -> StageSubject:
    """The rows of one case follow each other and share it."""
    dtype = DTYPES[dtype_of(device)]
    return StageSubject(stage_named(stage), preset, videos, dtype, device, backward=True)


def test_stage(
    stage: str,
    videos: int,
    peer: str,
    direction: str,
    device: str,
    repeats: int,
    pytestconfig: pytest.Config,
    ceilings: Ceilings,
    record: Callable[[dict[str, Any], Callable[[], Any]], None],
) -> None:
    preset, dtype = pytestconfig.getoption("--preset"), dtype_of(device)
    subject = subject_of(stage, preset, videos, device)
    try:
        calls = subject.calls(peer)
    except Exception as error:  # a peer may refuse in any way
        pytest.skip(reason(error))
    row = {"level": "stages", "op": stage, "case": videos_case(preset, videos), "dtype": dtype}
    row |= {"direction": direction, "backend": peer, "version": version_of_peer(peer)}
    times = subject.repeats(repeats)
    row |= measure(calls, subject, peer, direction, device, dtype, times, ceilings)
    record(row, calls.call(direction))
