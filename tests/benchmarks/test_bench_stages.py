"""Stages agree with their peers, wrong ones show no time, and their work is that of the floors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.stages import peers as peers_module
from benchmarks.stages.bench_stages import StageSubject, stage_rows
from benchmarks.stages.peers import COMPILED, PEERS, PLAIN, SDPA, default_peers, peers_of
from benchmarks.stages.stage_modules import DEFAULT, NAMES, DecodeStep, stage_named
from benchmarks.stages.stage_work import stage_work
from blip3v.errors import UserError
from blip3v.models.temporal.token_learner import TokenLearnerEncoder

IDENTITY = ("level", "op", "case", "dtype", "direction", "backend")
TIMES = ("median_ms", "p20_ms", "p80_ms", "repeats", "clock", "flops", "bytes", "tflops", "gbytes_per_s")


def rows(stage: str, peers: tuple[str, ...] = (), **choices: Any) -> list[dict[str, Any]]:
    choices = {"cases": ["small_1_video"], "repeats": 1} | choices
    return list(stage_rows("small", "cpu", [stage], peers=peers, **choices))


@pytest.mark.parametrize("stage", DEFAULT)
def test_every_stage_has_rows_with_all_fields(stage: str) -> None:
    measured = rows(stage, ("blip3v", PLAIN, "einsum"))
    ways = {"forward", "forward+backward"} if stage_named(stage).trains else {"forward"}
    assert {row["direction"] for row in measured} == ways
    for row in measured:
        assert row["ok"] and row["error"] < 2e-6, row
        assert all(row[name] is not None for name in (*IDENTITY, *TIMES, "version", "command")), row
        assert row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert f"--op {stage} --case small_1_video" in row["command"]
        assert ("ran" in row) == (bool(stage_named(stage).ops) and row["backend"] != "einsum")


def test_the_row_says_which_backend_ran() -> None:
    (row,) = rows("resampler", ("blip3v",), directions=["forward"])
    assert row["ran"] == "resampler_attention: reference"


@pytest.mark.parametrize("stage", ["token_learner", "prefill"])
def test_bfloat16_has_times_too(stage: str) -> None:
    for row in rows(stage, ("blip3v", "einsum"), dtypes=["bfloat16"]):
        assert row["ok"] and 1e-4 < row["error"] < 0.05, row


@pytest.mark.parametrize("peer, reason", [("blip3v cuda", "cpu"), ("blip3v triton", "cpu")])
def test_peers_that_cannot_run_say_why(peer: str, reason: str) -> None:
    for row in rows("token_learner", (peer,)):
        assert reason in row["reason"] and "median_ms" not in row and "error" not in row


def test_a_package_that_is_not_installed_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "flash_attn", None)
    (row,) = rows("prefill", ("flash_attention_2",))
    assert "flash_attn" in row["reason"] and "median_ms" not in row


class Wrong(TokenLearnerEncoder):
    """Right but for one thing."""

    fault = ""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        learner = self.final_output
        if self.fault == "softmax over the wrong axis":
            tokens = x.flatten(1, 2)
            return learner.mlp(learner.norm(tokens)).softmax(dim=-1).transpose(1, 2) @ tokens
        out = super().forward(x, lengths)
        return out * 1.001 if self.fault == "an output is off by one part in a thousand" else out


FAULTS = (
    "softmax over the wrong axis",
    "an output is off by one part in a thousand",
    "a weight has no gradient",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_peer_is_failed_and_untimed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(stage: Any, module: Any, config: Any, like: Tensor) -> nn.Module:
        wrong = Wrong(config.vision_config.hidden_size, config.video_tokens, time_stamp=False)
        wrong.fault = fault
        wrong.load_state_dict(module.state_dict())
        if fault == "a weight has no gradient":
            wrong.final_output.mlp[3].weight.register_hook(torch.zeros_like)
        return wrong

    monkeypatch.setattr(peers_module, "einsum_module", build)
    forward, both = rows("token_learner", ("einsum",))
    failed = [both] if fault == FAULTS[2] else [forward, both]
    for row in failed:
        assert row["ok"] is False and "BAD" in row["reason"] and "median_ms" not in row, row
    if fault == FAULTS[2]:
        assert forward["ok"] and forward["median_ms"] > 0


def test_every_decode_step_is_the_same_step_with_either_cache() -> None:
    subject = StageSubject(stage_named("decode_step"), "small", 2, torch.float32, "cpu", backward=False)
    module = subject.module
    assert isinstance(module, DecodeStep)
    with torch.no_grad():
        module.prepare(subject.x, static=False)
        grown = [module(subject.x) for _ in range(3)]
        module.prepare(subject.x, static=True)
        kept = [module(subject.x) for _ in range(3)]
    assert all(torch.equal(grown[0], again) for again in grown[1:])
    assert all(torch.equal(kept[0], again) for again in kept[1:])
    torch.testing.assert_close(kept[0], grown[0])


def test_peers_that_would_be_the_same_are_left_out() -> None:
    assert not set(SDPA) & set(peers_of(stage_named("token_learner")))
    assert not {"blip3v cuda", "einsum"} & set(peers_of(stage_named("vit")))
    assert not {"blip3v cuda", "einsum"} & set(peers_of(stage_named("mean_pool")))
    assert set(peers_of(stage_named("resampler"))) <= set(PEERS)
    assert set(COMPILED) <= set(default_peers(stage_named("vit"), "cuda"))
    assert not set(COMPILED) & set(default_peers(stage_named("vit"), "cpu"))


@pytest.mark.parametrize(
    "stage, tera", [("vit", 5.32), ("resampler", 0.505), ("grouped_ttm", 0.60), ("prefill", 1.2)]
)
def test_counted_work_is_that_of_the_floors(stage: str, tera: float) -> None:
    chosen = stage_named(stage)
    flops, moved = stage_work(chosen, chosen.config("4b"), 1, 128, "forward", 2)
    assert flops / 1e12 == pytest.approx(tera, rel=0.03) and moved > 0


def test_a_training_pass_is_more_work_than_a_forward() -> None:
    stage = stage_named("resampler")
    forward, both = (
        stage_work(stage, stage.config("4b"), 1, 128, way, 2) for way in ("forward", "forward+backward")
    )
    # The media's key/value projection, half of the work, has no gradient of its input.
    assert 2 < both[0] / forward[0] < 3 and 2 < both[1] / forward[1] < 4


def test_unknown_names_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="vit, resampler"):
        next(stage_rows("small", "cpu", ["vision"]))
    with pytest.raises(UserError, match="small_4_videos"):
        next(stage_rows("small", "cpu", cases=["4b_1_video"]))
    assert set(DEFAULT) <= set(NAMES)
