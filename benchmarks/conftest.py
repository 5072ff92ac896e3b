"""`pytest benchmarks`: the same rows under pytest-benchmark, with its statistics, storage and comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.ceilings import Ceilings, measure_ceilings
from benchmarks.device import device_of, preset_of
from benchmarks.rows import PRESETS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("blip3v")
    group.addoption("--device", help="cpu, cuda, cuda:1; a GPU where there is one")
    group.addoption("--preset", choices=PRESETS, help="by the device if not given")
    group.addoption("--repeats", type=int, default=20, help="timed calls a row")


def pytest_configure(config: pytest.Config) -> None:
    device = device_of(config.getoption("--device"))
    config.option.device = device
    config.option.preset = config.getoption("--preset") or preset_of(device)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--device"))


@pytest.fixture(scope="session")
def repeats(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--repeats"))


@pytest.fixture(scope="session")
def ceilings(device: str) -> Ceilings:
    return measure_ceilings(device)


@pytest.fixture(autouse=True)
def memory_is_given_back() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture
def record(benchmark: Any, device: str) -> Callable[[dict[str, Any], Callable[[], Any]], None]:
    """Takes a measured row and the call that it measured.

    A row that is wrong fails and one that cannot run is skipped, each with its reason. `extra_info` holds the
    row: on a GPU its times come from CUDA events, while pytest-benchmark's own are those of a caller that
    waits for every call, launches included.
    """

    def take(row: dict[str, Any], call: Callable[[], Any]) -> None:
        if not row.get("ok", True):
            pytest.fail(f"wrong, so not timed: {row['reason']}")
        if "median_ms" not in row:
            pytest.skip(row["reason"])
        benchmark.group = f"{row['op']} {row['case']} {row['direction']}"
        benchmark.extra_info.update(row)

        def waited_for() -> None:
            call()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()

        benchmark.pedantic(waited_for, rounds=row["repeats"], warmup_rounds=1)

    return take
