"""Every test here needs the simulator, in every schedule."""

from __future__ import annotations

from types import ModuleType

import pytest

from blip3v.testing import simulator

SCHEDULES = [("forward", 1), ("reverse", 1), *(("random", seed) for seed in range(1, 5))]


@pytest.fixture
def sim(simulator_module: ModuleType) -> ModuleType:
    """The module, with counters at zero."""
    simulator.reset_stats()
    return simulator_module


@pytest.fixture(params=SCHEDULES, ids=lambda schedule: f"{schedule[0]}{schedule[1]}")
def schedule(request: pytest.FixtureRequest, sim: ModuleType):
    """Runs the test in one schedule after the other."""
    with simulator.schedule(*request.param):
        yield request.param
