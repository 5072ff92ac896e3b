"""Seeded faults in the kernels, and that the simulator notices them. Takes minutes: `make faults`."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.sim.faults import ROOT, Compiler, Fault, Workshop

HERE = Path(__file__).parent
KERNELS = sorted(path.stem.removeprefix("faults_") for path in HERE.glob("faults_*.py"))
"""<op>_<direction>; the list of its faults is tests/ops/faults_<op>_<direction>.py."""
FEWEST = 0.95
"""Share of the faults, those called invisible among them, that must be caught."""
EVERY = int(os.environ.get("BLIP3V_FAULTS_EVERY", "1"))
"""Every how many-th fault is tried."""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("simulator"))


def workshop(compiler: Compiler, op: str, direction: str, listed: ModuleType, folder: Path) -> Workshop:
    """A kernel behind its real binding; that of resampler_attention is called without, to compile less."""
    if op == "resampler_attention":
        probe = [str(HERE / f"probe_{op}.py"), direction]
        flags = [f"-D{direction.upper()}"]
        return Workshop(compiler, folder, listed.SOURCES, HERE / f"faulty_{op}.cpp", probe, flags)
    csrc = ROOT / "csrc" / op
    # Other units are linked only where the list of faults names them: the probe binds functions when it calls
    # them.
    others = [
        *csrc.glob(f"{direction}_*.cu"),
        *(csrc / f"{unit}.cu" for unit in getattr(listed, "UNITS", ())),
    ]
    probe = [str(HERE / "probe.py"), op, direction]
    once = (csrc / "bind.cpp", HERE / "faulty_op.cpp")
    unit = csrc / f"{direction}.cu"
    return Workshop(compiler, folder, listed.SOURCES, unit, probe, [f"-DOP={op}"], once, others)


@pytest.mark.faults
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_simulator_catches_seeded_faults(kernel, compiler, tmp_path, capsys):
    op, direction = kernel.rsplit("_", 1)
    listed = importlib.import_module(f"tests.ops.faults_{kernel}")
    bench = workshop(compiler, op, direction, listed, tmp_path)
    healthy = bench.judge(Fault("none"))
    assert not healthy.caught, healthy.how
    outcomes = bench.judge_all(listed.FAULTS[::EVERY])
    caught = [outcome for outcome in outcomes if outcome.caught]
    with capsys.disabled():
        print(f"\n{kernel}: {len(caught)} of {len(outcomes)} faults caught; not caught:")
        for outcome in outcomes:
            if not outcome.caught:
                print(f"  {outcome.fault.name}: {outcome.fault.invisible or 'NOT EXPLAINED'}")
    if report := os.environ.get("BLIP3V_FAULTS_REPORT"):
        rows = [{"fault": o.fault.name, "caught": o.caught, "how": o.how} for o in outcomes]
        Path(f"{report}_{kernel}.json").write_text(json.dumps(rows, indent=2) + "\n")
    wrong = [o.fault.name for o in outcomes if o.caught is bool(o.fault.invisible)]
    assert not wrong, f"not as the list says: {wrong}"
    if EVERY == 1:
        assert len(caught) >= FEWEST * len(outcomes)
