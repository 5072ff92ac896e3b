"""Training rows: real steps, the formula of MFU, and no time for a wrong gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.ceilings import Ceilings
from benchmarks.train import bench_train, steps
from benchmarks.train.bench_train import SIZES, case_of, train_rows
from benchmarks.train.setups import BEST
from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.cost import batch_flops
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.ops.token_learner import reference
from blip3v.profiling.synthetic import synthetic_batch, text_lengths

CEILINGS = Ceilings({"float32": 1e12}, 1e11, {}, None, "made up")
FIELDS = [
    "level", "op", "case", "dtype", "direction", "backend", "version", "error", "ok", "judged", "median_ms",
    "p20_ms", "p80_ms", "repeats", "clock", "flops", "tflops", "samples_per_s", "tokens_per_s", "mfu",
    "mfu_peak", "floor_ms", "bound", "roofline_share", "data_stall_ms", "batch", "tokens", "needed_tokens",
    "computed_tokens", "activation_checkpointing", "command",
]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The smallest model in place of the small one, whose step takes a second."""
    monkeypatch.setattr(bench_train, "config_with_tokens", lambda preset, tokens: blip3_video_tiny())
    bench_train.subject_of.cache_clear()
    yield
    bench_train.subject_of.cache_clear()


def rows(*peers: str, case: str = "small_8_tokens_batch_3", **choices: Any) -> list[dict[str, Any]]:
    return list(train_rows("small", "cpu", [case], peers, repeats=2, ceilings=CEILINGS, **choices))


@pytest.mark.parametrize("peer, packed", [("blip3v", True), ("eager reference", False)])
def test_a_row_has_all_fields_and_its_numbers_agree(peer: str, packed: bool) -> None:
    (row,) = rows(peer)
    assert [name for name in FIELDS if name not in row] == []
    assert row["ok"] and row["error"] < 1e-5 and row["repeats"] == 2
    assert row["case"] == case_of("small", 8, 3) and row["batch"] == 3
    assert row["activation_checkpointing"] == "none"
    seconds = row["median_ms"] / 1e3
    assert row["samples_per_s"] == pytest.approx(3 / seconds)
    assert row["needed_tokens"] == 3 * (8 + 16)
    assert row["computed_tokens"] == (row["needed_tokens"] if packed else 3 * (8 + max(text_lengths(16, 3))))
    assert row["tokens_per_s"] == pytest.approx(row["computed_tokens"] / seconds)
    flops = batch_flops(blip3_video_tiny(), synthetic_batch(blip3_video_tiny(), 16, 3, packed=True))
    assert row["flops"] == flops, "padding must not count as useful"
    assert row["mfu"] == pytest.approx(flops / seconds / 1e12) and row["mfu_peak_is"] == "measured product"


def test_the_data_sheet_is_the_peak_where_it_is_known() -> None:
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    timing = steps.Timing(2.0, 2.0, 2.0, 5, "")
    known = Ceilings({"float32": 1e12}, 1e11, {"float32": 4e12}, 1e12, "")
    row = bench_train._speed(model, synthetic_batch(model.config, 16, 3), 3, timing, known)
    assert row["mfu_peak"] == 4e12 and row["mfu_peak_is"] == "data sheet, dense"


def test_without_a_gpu_only_the_recipe_as_it_comes_is_measured() -> None:
    assert [row["backend"] for row in rows()] == ["blip3v"]


def test_sizes_that_differ_in_the_batch_share_a_model_and_its_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[str] = []
    check = bench_train.check
    monkeypatch.setattr(bench_train, "check", lambda *args: (judged.append(args[2]), check(*args))[1])
    cases = [case_of("small", 8, batch) for batch in (1, 2)]
    assert len(list(train_rows("small", "cpu", cases, ["blip3v"], repeats=1))) == 2
    assert judged == ["blip3v"]


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


def run(model: Any, name: str = "blip3v", checkpointing: str = "none", repeats: int = 2) -> steps.Steps:
    batch = synthetic_batch(model.config, 16, 2, packed=True)
    return steps.run_steps(model, name, batch, 2, repeats, checkpointing)


def test_all_but_the_vision_encoder_is_trained_and_hardly_changes() -> None:
    torch.manual_seed(0)
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = run(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("vision_tokenizer") for name in changed)
    assert any(name.startswith("lang_model") for name in changed)
    assert not any(name.startswith("vision_encoder") for name in changed)
    for name, tensor in model.state_dict().items():
        assert (tensor - before[name]).abs().max() < 1e-6, "the model is no longer the one that was checked"
    assert measured.timing.repeats == 2 and 0 <= measured.stall < 0.1 and measured.peak_memory is None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_runs_the_same_steps(mode: str) -> None:
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    assert run(model, checkpointing=mode, repeats=1).timing.repeats == 1


def test_slow_steps_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "ENOUGH", 0.0)
    monkeypatch.setattr(steps, "CPU_REPEATS", 50)
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    assert run(model, repeats=30).timing.repeats == steps.LEAST


def test_a_loss_that_is_not_finite_gives_no_time() -> None:
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    with torch.no_grad():
        model.lang_model.lm_head.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        run(model)


def test_what_does_not_fit_is_recomputed_more_and_more_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def run(model: Any, name: str, batch: Any, samples: int, repeats: int, checkpointing: str) -> steps.Steps:
        tried.append(checkpointing)
        if not (checkpointing == "full" and samples == 3):
            raise torch.OutOfMemoryError("no memory left")
        return steps.Steps(steps.Timing(1.0, 1.0, 1.0, 2, ""), 0.0, 7)

    monkeypatch.setattr(bench_train, "run_steps", run)
    (row,) = rows("blip3v")
    assert tried == ["none", "selective", "full"]
    assert row["activation_checkpointing"] == "full" and row["peak_memory_bytes"] == 7
    (row,) = rows("blip3v", case="small_8_tokens_batch_5")
    assert row["reason"].count("no memory left") == 3 and "median_ms" not in row


def test_names_of_cases() -> None:
    assert (32, 4) in SIZES["4b"] and (1024, 16) in SIZES["4b"]
    with pytest.raises(UserError, match="small_32_tokens_batch_4"):
        next(train_rows("small", "cpu", ["small_32_tokens"]))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["blip3v", "blip3v without packing", BEST, "eager reference"])
def test_a_gpu_step_is_right_and_timed(name: str) -> None:
    (row,) = train_rows("small", "cuda", ["small_8_tokens_batch_3"], [name], repeats=2)
    assert row.get("ok"), row
    assert row["median_ms"] > 0 and row["peak_memory_bytes"] > 0
