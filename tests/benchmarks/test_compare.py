"""Real differences are found and noise is not: on simulated repeats, where the truth is known."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.compare import check, compare, drift, table
from blip3v.errors import UserError

MACHINE = {"kind": "sm_90", "gpu": "NVIDIA H200", "cpu": "A processor", "threads": 16}
TRIALS = 3000


def measured(
    draw: np.random.Generator, time: float, noise: float, repeats: int, rows: int = TRIALS
) -> dict[str, Any]:
    """A file of `rows` rows whose repeats take `time` and vary by `noise`, one in twenty much longer."""
    seconds = time * (1 + noise * draw.standard_normal((rows, repeats)))
    seconds *= np.where(draw.random((rows, repeats)) < 0.05, 1 + 10 * noise, 1)
    low, middle, high = np.quantile(seconds, [0.2, 0.5, 0.8], axis=1)
    return {
        "machine": MACHINE,
        "rows": [
            {"level": "ops", "op": "made up", "case": str(number), "backend": "cuda", "repeats": repeats}
            | {"median_ms": middle[number], "p20_ms": low[number], "p80_ms": high[number]}
            for number in range(rows)
        ],
    }


def changed(file: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy whose first row has other fields; None takes one away."""
    other = copy.deepcopy(file)
    row = other["rows"][0] | fields
    other["rows"][0] = {name: value for name, value in row.items() if value is not None}
    return other


@pytest.mark.parametrize(("repeats", "caught"), [(5, 0.7), (10, 0.95), (20, 0.995)])
def test_a_regression_of_20_percent_is_caught_and_noise_of_3_percent_is_not(
    repeats: int, caught: float
) -> None:
    draw = np.random.default_rng(0)
    baseline = measured(draw, 1.0, 0.03, repeats)
    same, slower = (measured(draw, time, 0.03, repeats) for time in (1.0, 1.2))
    assert len(check(baseline, same)) == 0
    assert len(check(baseline, slower)) > caught * TRIALS
    # Three percent slower is below the tolerance, whether the repeats resolve it or not.
    assert len(check(baseline, measured(draw, 1.03, 0.03, repeats))) < 0.002 * TRIALS


@pytest.mark.parametrize("repeats", [3, 5, 20, 50])
@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_rows_that_did_not_change_are_called_noise(repeats: int, noise: float) -> None:
    draw = np.random.default_rng(1)
    verdicts = [one.verdict for one in compare(*(measured(draw, 1, noise, repeats) for _ in "ab"))]
    assert verdicts.count("noise") > 0.99 * TRIALS


def test_an_alarm_at_the_tolerance_alone_would_be_false_on_a_restless_machine() -> None:
    draw = np.random.default_rng(2)
    baseline, same = (measured(draw, 1, 0.2, 5) for _ in "ab")
    over = [row["median_ms"] / old["median_ms"] for row, old in zip(same["rows"], baseline["rows"])]
    assert sum(ratio > 1.1 for ratio in over) > 0.1 * TRIALS
    assert len(check(baseline, same)) < 0.01 * TRIALS


def test_verdicts_and_ratios_are_those_of_b(gpu_file: dict[str, Any]) -> None:
    slower = changed(gpu_file, graph_median_ms=0.42, graph_p20_ms=0.415, graph_p80_ms=0.43)
    one = compare(gpu_file, slower)[0]
    assert (one.verdict, one.clock) == ("slower", "graph") and one.ratio == pytest.approx(0.42 / 0.336)
    assert compare(slower, gpu_file)[0].verdict == "faster"
    # Span of 3% and 20 repeats: 3 * sqrt(2) * 0.745 * 0.03 / sqrt(20) * 1.2, by hand.
    assert compare(gpu_file, gpu_file)[0].noise == pytest.approx(0.0257, abs=2e-4)


def test_steady_repeats_still_leave_two_percent_to_noise() -> None:
    draw = np.random.default_rng(3)
    a, b = measured(draw, 1, 1e-5, 20, 1), measured(draw, 1.019, 1e-5, 20, 1)
    assert compare(a, b)[0].verdict == "noise"
    assert compare(a, measured(draw, 1.021, 1e-5, 20, 1))[0].verdict == "slower"


def test_without_a_graph_on_both_sides_the_eager_medians_count(gpu_file: dict[str, Any]) -> None:
    without = changed(gpu_file, graph_median_ms=None, graph_reason="a capture allocated")
    one = compare(gpu_file, without)[0]
    assert (one.clock, one.ratio, one.verdict) == ("eager", 1, "noise")
    assert check(gpu_file, without) == [f"{one.name}: graph replay is gone: a capture allocated"]
    assert check(without, gpu_file) == []


def test_a_lost_time_is_a_regression_and_a_new_row_is_none(gpu_file: dict[str, Any]) -> None:
    failed = changed(gpu_file, median_ms=None, graph_median_ms=None, ok=False, reason="output: BAD")
    assert compare(gpu_file, failed)[0].verdict == "failed in B"
    assert len(check(gpu_file, failed)) == 1 and "output: BAD" in check(gpu_file, failed)[0]
    assert check(failed, gpu_file) == []
    shorter = {**gpu_file, "rows": gpu_file["rows"][1:]}
    assert compare(gpu_file, shorter)[0].verdict == "only in A"
    assert len(check(gpu_file, shorter)) == 1 and "its row is gone" in check(gpu_file, shorter)[0]
    assert compare(shorter, gpu_file)[-1].verdict == "only in B" and check(shorter, gpu_file) == []
    # Wrong, absent or impossible in both: nothing was lost.
    verdicts = [one.verdict for one in compare(gpu_file, gpu_file)]
    assert verdicts.count("failed in both") == 3 and check(gpu_file, gpu_file) == []


def test_an_impossible_time_is_neither_a_result_nor_a_baseline(gpu_file: dict[str, Any]) -> None:
    fast = changed(gpu_file, graph_median_ms=0.001, bug="0.001 ms is below what the data sheet allows")
    assert compare(fast, gpu_file)[0].verdict == "failed in A" and check(fast, gpu_file) == []
    assert len(check(gpu_file, fast)) == 1 and "data sheet" in check(gpu_file, fast)[0]


def test_clocks_that_all_rows_share_are_reported() -> None:
    draw = np.random.default_rng(4)
    a = measured(draw, 1, 0.01, 20, 30)
    assert drift(compare(a, measured(draw, 1, 0.01, 20, 30))) is None
    slow = compare(a, measured(draw, 1.13, 0.01, 20, 30))
    assert drift(slow) == pytest.approx(1.13, abs=0.01)
    assert "all rows together 1.13" in check(a, measured(draw, 1.13, 0.01, 20, 30))[0]
    one_row = measured(draw, 1, 0.01, 20, 30)
    one_row["rows"][0]["median_ms"] *= 2
    assert drift(compare(a, one_row)) is None


def test_other_devices_are_refused() -> None:
    h200 = measured(np.random.default_rng(5), 1, 0.01, 5, 1)
    h100 = {**h200, "machine": MACHINE | {"gpu": "NVIDIA H100"}}
    cpu = {**h200, "machine": MACHINE | {"kind": "cpu"}}
    with pytest.raises(UserError, match="sm_90 and B on cpu"):
        compare(h200, cpu)
    with pytest.raises(UserError, match="nvidia-h200, this is nvidia-h100"):
        check(h200, h100)
    assert compare(h200, h100)


def test_what_cannot_be_judged_is_said() -> None:
    once = measured(np.random.default_rng(6), 1, 0.01, 2, 2)
    assert compare(once, once)[0].verdict == "too few repeats"
    with pytest.raises(UserError, match="--repeats 3 or more"):
        check(once, once)
    with pytest.raises(UserError, match="A holds two rows"):
        compare({**once, "rows": once["rows"] * 2}, once)


def test_the_table_fits_110_columns_and_counts_verdicts(gpu_file: dict[str, Any]) -> None:
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(compare(gpu_file, changed(gpu_file, median_ms=None, graph_median_ms=None))))
    text = console.export_text()
    assert "7 noise" in text and "1 failed in B" in text and "3 failed in both" in text
    assert max(map(len, text.splitlines())) <= 110
