"""setup.py's choice about blip3v._sim."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module; it calls setup() only as a script."""
    spec = importlib.util.spec_from_file_location("blip3v_setup_sim", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, build: ModuleType, tmp_path: Path) -> dict[str, str]:
    """A machine with CUDA 13 and CUTLASS; gives the environment that finds them."""
    toolkit, cutlass = tmp_path / "cuda", tmp_path / "cutlass"
    for file in (
        toolkit / "bin/nvcc",
        toolkit / "include/cuda_runtime.h",
        cutlass / "include/cutlass/version.h",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build, "inspect_toolkit", lambda nvcc: build.Toolkit(nvcc, (13, 0)))
    return {"CUDA_HOME": str(toolkit), "CUTLASS_PATH": str(cutlass)}


@pytest.mark.parametrize("env", [{}, {"BLIP3V_SIM": ""}, {"BLIP3V_SIM": "0"}])
def test_a_plain_install_has_no_simulator(build: ModuleType, env: dict[str, str]) -> None:
    assert build.choose_simulator(env) == (None, "BLIP3V_SIM=0")


@pytest.mark.parametrize("wish", ["auto", "1"])
def test_built_where_the_headers_are(build: ModuleType, machine: dict[str, str], wish: str) -> None:
    simulator, reason = build.choose_simulator({**machine, "BLIP3V_SIM": wish})
    assert reason == ""
    assert simulator.cuda_include == Path(machine["CUDA_HOME"]) / "include"
    assert simulator.cutlass == Path(machine["CUTLASS_PATH"]).resolve()


def test_unknown_values_are_refused(build: ModuleType) -> None:
    with pytest.raises(build.BuildError, match="BLIP3V_SIM=yes is not understood: use auto, 0 or 1"):
        build.choose_simulator({"BLIP3V_SIM": "yes"})


def no_nvcc(monkeypatch: pytest.MonkeyPatch, build: ModuleType, machine: dict[str, str]) -> str:
    monkeypatch.setattr(build, "find_nvcc", lambda env: None)
    return "no CUDA headers, because no nvcc"


def old_toolkit(monkeypatch: pytest.MonkeyPatch, build: ModuleType, machine: dict[str, str]) -> str:
    monkeypatch.setattr(build, "inspect_toolkit", lambda nvcc: build.Toolkit(nvcc, (11, 8)))
    return "is CUDA 11.8: the simulator needs the headers of 12.3"


def no_headers(monkeypatch: pytest.MonkeyPatch, build: ModuleType, machine: dict[str, str]) -> str:
    (Path(machine["CUDA_HOME"]) / "include/cuda_runtime.h").unlink()
    return "holds no include/cuda_runtime.h"


def no_cutlass(monkeypatch: pytest.MonkeyPatch, build: ModuleType, machine: dict[str, str]) -> str:
    (Path(machine["CUTLASS_PATH"]) / "include/cutlass/version.h").unlink()
    return "is it a CUTLASS checkout"


def other_system(monkeypatch: pytest.MonkeyPatch, build: ModuleType, machine: dict[str, str]) -> str:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    return "x86-64 Linux only"


@pytest.mark.parametrize("missing", [no_nvcc, old_toolkit, no_headers, no_cutlass, other_system])
def test_auto_skips_with_the_reason_and_1_stops(
    build: ModuleType, machine: dict[str, str], monkeypatch: pytest.MonkeyPatch, missing
) -> None:
    reason = missing(monkeypatch, build, machine)
    simulator, given = build.choose_simulator({**machine, "BLIP3V_SIM": "auto"})
    assert simulator is None and reason in given and not given.startswith("blip3v")
    with pytest.raises(build.BuildError, match=reason):
        build.choose_simulator({**machine, "BLIP3V_SIM": "1"})
