from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from blip3v.train.metrics import read_log

PROGRAM = Path(__file__).with_name("killing.py")
KILLS, SEED, STEPS = 20, 6, 200


def _steps(folder: Path) -> dict[int, set[str]]:
    """What was written about each step, by every life that took it: its samples and its loss, bit for bit."""
    steps: dict[int, set[str]] = {}
    for line in (folder / "steps.txt").read_text().splitlines():
        number, rest = line.split(" ", 1)
        steps.setdefault(int(number), set()).add(rest)
    return steps


def test_killed_twenty_times_a_run_ends_as_if_it_never_was(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), str(tmp_path), str(KILLS), str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["in_writes"] >= 3  # five were aimed at
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    lives = (killed / "steps.txt").read_text().count("\n")
    assert lives > STEPS + KILLS  # steps were lost and taken again
    assert _steps(killed) == _steps(straight)
    assert sorted(_steps(killed)) == list(range(1, STEPS + 1))
    assert all(len(ways) == 1 for ways in _steps(killed).values())
    losses = [
        [(line["step"], line["loss"]) for line in read_log(run / "log.jsonl")] for run in (straight, killed)
    ]
    assert losses[0] == losses[1]
    # The checkpoint at the end: weights, moments and random state.
    last = [
        run / "checkpoints" / f"step-{STEPS:08d}" / "rank-00000.safetensors" for run in (straight, killed)
    ]
    assert last[0].read_bytes() == last[1].read_bytes()
    left = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert left == ["step-00000198", "step-00000200"]
