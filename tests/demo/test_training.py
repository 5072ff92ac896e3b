from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from blip3v.demo.clips import ClipSet
from blip3v.demo.training import FEWEST_STEPS, Run, train_runs
from blip3v.inference.generate import load
from blip3v.train.metrics import read_log


def test_a_run_within_a_time(
    clip_set: ClipSet, feature_folder: Path, tmp_path: Path, report: Callable[..., None]
) -> None:
    threads = torch.get_num_threads()
    try:
        runs = [Run("mean_pool", 16), Run("max_pool", 16, steps=6)]
        timed, counted = train_runs(
            report, runs, clip_set, feature_folder, tmp_path, 0, deadline=time.time() + 4
        )
    finally:
        torch.set_num_threads(threads)
    assert timed["steps"]["questions"] >= FEWEST_STEPS
    assert counted["steps"] == {"captions": 2, "questions": 4}
    for row in (timed, counted):
        best = max(tried["mean"] for tried in row["validation"])
        assert [tried["mean"] for tried in row["validation"] if tried.get("chosen")] == [best]
        for stage, steps in row["steps"].items():
            assert read_log(tmp_path / row["encoder"] / f"demo-{stage}.jsonl")[-1]["step"] == steps
        model, processor = load(tmp_path / row["encoder"] / "model", device="cpu")
        assert model.config.temporal_encoder == row["encoder"]
        assert processor.video_tokens_for(8) == row["tokens"]
