"""Training rows: real steps, the formula of MFU, and no time for a wrong gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.ceilings import Ceilings
from benchmarks.train import bench_train, steps
from benchmarks.train.bench_train import SIZES, case_of, train_rows
from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.cost import training_flops
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.ops.token_learner import reference

CEILINGS = Ceilings({"float32": 1e12}, 1e11, {}, None, "made up")
FIELDS = [
    "level", "op", "case", "dtype", "direction", "backend", "version", "error", "ok", "median_ms",
    "p20_ms", "p80_ms", "repeats", "clock", "flops", "tflops", "samples_per_s", "tokens_per_s", "mfu",
    "mfu_peak", "floor_ms", "bound", "roofline_share", "data_stall_ms", "batch", "tokens", "command",
]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest model in place of the small one, whose step takes a second."""
    monkeypatch.setattr(bench_train, "config_with_tokens", lambda preset, tokens: blip3_video_tiny())


def rows(*peers: str, case: str = "small_8_tokens_batch_3", **choices: Any) -> list[dict[str, Any]]:
    return list(train_rows("small", "cpu", [case], peers, repeats=2, ceilings=CEILINGS, **choices))


@pytest.mark.parametrize("peer", ["blip3v", "eager reference"])
def test_a_row_has_all_fields_and_its_numbers_agree(peer: str) -> None:
    (row,) = rows(peer)
    assert [name for name in FIELDS if name not in row] == []
    assert row["ok"] and row["error"] < 1e-5 and row["repeats"] == 2
    assert row["case"] == case_of("small", 8, 3) and row["batch"] == 3
    seconds = row["median_ms"] / 1e3
    assert row["samples_per_s"] == pytest.approx(3 / seconds)
    assert row["tokens_per_s"] == pytest.approx(3 * (8 + 16) / seconds)
    flops = training_flops(blip3_video_tiny(), text_tokens=16, batch=3)
    assert row["flops"] == flops
    assert row["mfu"] == pytest.approx(flops / seconds / 1e12) and row["mfu_peak_is"] == "measured product"


def test_the_data_sheet_is_the_peak_where_it_is_known() -> None:
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    timing = steps.Timing(2.0, 2.0, 2.0, 5, "")
    known = Ceilings({"float32": 1e12}, 1e11, {"float32": 4e12}, 1e12, "")
    row = bench_train._speed(model, "small", 3, timing, known)
    assert row["mfu_peak"] == 4e12 and row["mfu_peak_is"] == "data sheet, dense"


def test_a_peer_that_cannot_run_is_a_row_with_a_reason() -> None:
    (row,) = rows("blip3v cuda")
    assert "cpu" in row["reason"] and "median_ms" not in row


def test_a_wrong_step_is_failed_and_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.pool

    def wrong(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        out = right(x, *rest)
        return out if x.dtype == torch.float64 else out + 0.1 * out.detach()

    monkeypatch.setattr(reference, "pool", wrong)
    (row,) = rows("blip3v")
    assert row["ok"] is False and "BAD" in row["reason"] and "median_ms" not in row


def test_the_model_trains_and_the_same_batch_comes_back_each_step() -> None:
    torch.manual_seed(0)
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = steps.run_steps(model, "small", 2, repeats=2, checkpointing=False)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("vision_tokenizer") for name in changed)
    assert any(name.startswith("lang_model") for name in changed)
    assert not any(name.startswith("vision_encoder") for name in changed)
    assert measured.timing.repeats == 2 and 0 <= measured.stall < 0.01 and measured.peak_memory is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_checkpointing_runs_the_same_steps() -> None:
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    assert steps.run_steps(model, "small", 2, repeats=1, checkpointing=True).timing.repeats == 1


def test_what_does_not_fit_is_tried_with_checkpointing_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def run(model: Any, preset: str, batch: int, repeats: int, checkpointing: bool) -> steps.Steps:
        tried.append(checkpointing)
        if not (checkpointing and batch == 3):
            raise torch.OutOfMemoryError("no memory left")
        return steps.Steps(steps.Timing(1.0, 1.0, 1.0, 2, ""), 0.0, 7)

    monkeypatch.setattr(bench_train, "run_steps", run)
    (row,) = rows("blip3v")
    assert tried == [False, True] and row["gradient_checkpointing"] and row["peak_memory_bytes"] == 7
    (row,) = rows("blip3v", case="small_8_tokens_batch_5")
    assert "no memory left" in row["reason"] and "median_ms" not in row


def test_names_of_cases() -> None:
    assert (32, 4) in SIZES["4b"] and (1024, 16) in SIZES["4b"]
    with pytest.raises(UserError, match="small_32_tokens_batch_4"):
        next(train_rows("small", "cpu", ["small_32_tokens"]))
