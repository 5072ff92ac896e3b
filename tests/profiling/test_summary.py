"""Sums over pieces of known length."""

from __future__ import annotations

import pytest

from blip3v.profiling.summary import NO_RANGE, summarise
from blip3v.profiling.trace import COMPUTE, COPY, GAP, Piece, Reading

OUTER, INNER = "blip3v.training step", "blip3v.vision"


@pytest.fixture
def reading() -> Reading:
    """Two iterations in 10 ms."""
    return Reading(
        window=(0, 10_000),
        on_gpu=False,
        iterations=2,
        pieces=[
            Piece(0, 1_000, GAP, "(no operator)", ()),
            Piece(1_000, 5_000, COMPUTE, "aten::mm", (OUTER, INNER)),
            Piece(5_000, 6_000, COPY, "aten::copy_", (OUTER, INNER)),
            Piece(6_000, 8_000, COMPUTE, "aten::mm", (OUTER, INNER)),
            Piece(8_000, 10_000, GAP, "(no operator)", (OUTER,)),
        ],
        entered=[OUTER, INNER, OUTER, INNER, INNER, INNER],
        called=["aten::mm", "aten::copy_", "aten::mm", "aten::mm", "aten::mm"],
    )


def test_times_are_of_one_iteration(reading: Reading) -> None:
    summary = summarise(reading)
    assert summary["wall_ms"] == 5
    assert summary["kinds"] == {"compute_ms": 3, "copy_ms": 0.5, "gap_ms": 1.5}


def test_a_stage_has_its_own_time_and_that_of_all_inside_it(reading: Reading) -> None:
    rows = {row["stage"]: row for row in summarise(reading)["stages"]}
    assert [row["stage"] for row in summarise(reading)["stages"]] == [INNER, OUTER, NO_RANGE]
    assert (rows[INNER]["ms"], rows[INNER]["total_ms"], rows[INNER]["calls"]) == (3.5, 3.5, 2)
    assert (rows[OUTER]["ms"], rows[OUTER]["total_ms"], rows[OUTER]["calls"]) == (1, 4.5, 1)
    assert (rows[NO_RANGE]["ms"], rows[NO_RANGE]["calls"]) == (0.5, 0)
    assert (rows[INNER]["compute_ms"], rows[INNER]["copy_ms"], rows[INNER]["gap_ms"]) == (3, 0.5, 0)


def test_operators(reading: Reading) -> None:
    rows = [(row["name"], row["calls"], row["ms"], row["share"]) for row in summarise(reading)["operators"]]
    assert rows == [
        ("aten::mm", 2, 3, 0.6),
        ("(no operator)", 0, 1.5, pytest.approx(0.3)),
        ("aten::copy_", 0.5, 0.5, 0.1),
    ]


@pytest.mark.parametrize("rows", ["stages", "operators"])
def test_shares_add_up(reading: Reading, rows: str) -> None:
    assert sum(row["share"] for row in summarise(reading)[rows]) == pytest.approx(1)


def test_a_range_that_is_never_the_innermost_has_a_row() -> None:
    pieces = [Piece(0, 1_000, COMPUTE, "aten::mm", (OUTER, INNER))]
    rows = summarise(Reading((0, 1_000), False, 1, pieces, [OUTER, INNER], ["aten::mm"]))["stages"]
    assert [(row["stage"], row["ms"], row["total_ms"]) for row in rows] == [(INNER, 1, 1), (OUTER, 0, 1)]
