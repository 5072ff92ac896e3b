from __future__ import annotations

from typing import Any

import pytest

from benchmarks.train.setups import BEST, SWITCHED_OFF
from benchmarks.train.worth import worth
from blip3v.errors import UserError


def row(backend: str, ms: float, **fields: Any) -> dict[str, Any]:
    return {
        "level": "train", "op": "training_step", "case": "4b_32_tokens_batch_16", "backend": backend,
        "median_ms": ms, "p20_ms": ms, "p80_ms": ms, "repeats": 20, "activation_checkpointing": "none",
    } | fields  # fmt: skip


def test_ratios_of_times_with_what_else_differs() -> None:
    rows = [
        row("blip3v", 300.0),
        row(BEST, 100.0),
        row(SWITCHED_OFF["packing"], 200.0),
        row(SWITCHED_OFF["vision in FP8"], 130.0, activation_checkpointing="selective"),
        row(SWITCHED_OFF["activations kept"], 150.0, activation_checkpointing="full"),
        row(SWITCHED_OFF["compiled blocks"], 1.0, bug="too fast"),
    ]
    _, packing, fp8, kept, everything = worth(rows)
    assert "packing" in packing and "2.00x" in packing and "recomputing" not in packing
    assert "1.30x" in fp8 and "(recomputing none against selective)" in fp8
    assert "1.50x" in kept and "recomputing" not in kept
    assert "all of these" in everything and "3.00x" in everything


def test_rows_that_say_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="without --peer"):
        worth([row("blip3v", 300.0)])
