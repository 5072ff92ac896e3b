"""From a file to words under pytest-benchmark: `pytest benchmarks/end_to_end --benchmark-json FILE`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.end_to_end.bench_end_to_end import DIRECTIONS, NEW_TOKENS, TOKENS, Asking, clip_of, row_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    preset = metafunc.config.getoption("--preset")
    rows = [(tokens, direction) for tokens in TOKENS[preset] for direction in DIRECTIONS]
    metafunc.parametrize("tokens, direction", rows, ids=[f"{t}_tokens-{way}" for t, way in rows])


def test_video_to_text(
    tokens: int,
    direction: str,
    device: str,
    repeats: int,
    pytestconfig: pytest.Config,
    tmp_path: Any,
    record: Callable[[dict[str, Any], Callable[[], Any]], None],
) -> None:
    preset = pytestconfig.getoption("--preset")
    asking = Asking(preset, tokens, device, clip_of(tmp_path).path)
    row = row_of(asking, tokens, "blip3v", direction, asking.verdicts("blip3v"), repeats)
    record(row, lambda: asking.answer(row.get("new_tokens", NEW_TOKENS[preset])))
