"""From a file to words: right logits have times, wrong ones have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.end_to_end import bench_end_to_end as bench
from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.tokenizer import IMAGE
from blip3v.ops.token_learner import reference
from blip3v.profiling.presets import preset_config

FIELDS = [
    "level", "op", "case", "dtype", "direction", "backend", "version", "error", "ok", "tokens",
    "new_tokens", "text_tokens", "median_ms", "p20_ms", "p80_ms", "repeats", "clock", "prepare_ms",
    "command",
]  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "config_with_tokens", lambda preset, tokens: blip3_video_tiny())


def rows(*peers: str, **choices: Any) -> list[dict[str, Any]]:
    return list(bench.end_to_end_rows("small", "cpu", ["small_8_tokens"], peers, repeats=2, **choices))


def test_rows_have_all_fields_and_their_numbers_agree() -> None:
    first, whole = rows("blip3v")
    for row in (first, whole):
        assert [name for name in FIELDS if name not in row] == []
        assert row["ok"] and row["error"] < 1e-5 and row["repeats"] == 2
        assert 0 < row["prepare_ms"] < row["median_ms"]
    assert (first["new_tokens"], whole["new_tokens"]) == (1, 8)
    assert whole["tokens_per_s"] == pytest.approx(7e3 / (whole["median_ms"] - first["median_ms"]))


def test_the_answer_has_the_length_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    model = bench.Blip3VideoForConditionalGeneration
    generate = model.generate

    def noted(self: Any, **kwargs: Any) -> torch.Tensor:
        ids = generate(self, **kwargs)
        lengths.append(ids.shape[1] - kwargs["input_ids"].shape[1])
        return ids

    monkeypatch.setattr(model, "generate", noted)
    rows("blip3v", directions=["answer"])
    assert lengths == [8, 8, 8]


def test_a_peer_that_cannot_run_is_a_row_with_a_reason() -> None:
    for row in rows("blip3v triton"):
        assert "cpu" in row["reason"] and "median_ms" not in row


def test_wrong_logits_have_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.pool

    def wrong(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        out = right(x, *rest)
        return out if x.dtype == torch.float64 else out.flip(-1)

    monkeypatch.setattr(reference, "pool", wrong)
    for row in rows("blip3v"):
        assert row["ok"] is False and "BAD" in row["reason"] and "median_ms" not in row


@pytest.mark.parametrize("preset", ["small", "4b"])
def test_the_tokenizer_has_the_models_ids(preset: str) -> None:
    config = preset_config(preset)
    tokenizer = bench.tokenizer_of(config)
    assert tokenizer.convert_tokens_to_ids(IMAGE) == config.image_token_id
    assert tokenizer.unk_token_id not in tokenizer(bench.QUESTION)["input_ids"]


def test_other_cases_are_refused() -> None:
    with pytest.raises(UserError, match="small_32_tokens"):
        next(bench.end_to_end_rows("small", "cpu", ["4b_32_tokens"]))
