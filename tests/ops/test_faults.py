"""Seeded faults in the kernels, and that the simulator notices them. Takes minutes: `make faults`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.ops import faults_resampler_attention_backward, faults_resampler_attention_forward
from tests.sim.faults import Fault, Workshop

HERE = Path(__file__).parent
LISTS = {
    "forward": faults_resampler_attention_forward,
    "backward": faults_resampler_attention_backward,
}
FEWEST = 0.95
"""Share of the faults, those called invisible among them, that must be caught."""
EVERY = int(os.environ.get("BLIP3V_FAULTS_EVERY", "1"))
"""Every how many-th fault is tried."""


@pytest.mark.faults
@pytest.mark.parametrize("direction", LISTS)
def test_the_simulator_catches_seeded_faults(direction, tmp_path, capsys):
    kernel = LISTS[direction]
    runner, probe = HERE / "faulty_resampler_attention.cpp", HERE / "probe_resampler_attention.py"
    workshop = Workshop(tmp_path, kernel.SOURCES, runner, probe, [f"-D{direction.upper()}"])
    workshop.prepare()
    healthy = workshop.judge(Fault("none"))
    assert not healthy.caught, healthy.how
    outcomes = workshop.judge_all(kernel.FAULTS[::EVERY])
    caught = [outcome for outcome in outcomes if outcome.caught]
    with capsys.disabled():
        print(f"\n{direction}: {len(caught)} of {len(outcomes)} faults caught; not caught:")
        for outcome in outcomes:
            if not outcome.caught:
                print(f"  {outcome.fault.name}: {outcome.fault.invisible or 'NOT EXPLAINED'}")
    if report := os.environ.get("BLIP3V_FAULTS_REPORT"):
        rows = [{"fault": o.fault.name, "caught": o.caught, "how": o.how} for o in outcomes]
        Path(f"{report}_{direction}.json").write_text(json.dumps(rows, indent=2) + "\n")
    wrong = [o.fault.name for o in outcomes if o.caught is bool(o.fault.invisible)]
    assert not wrong, f"not as the list says: {wrong}"
    if EVERY == 1:
        assert len(caught) >= FEWEST * len(outcomes)
