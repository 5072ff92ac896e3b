from __future__ import annotations

from typing import Any

import pytest

from benchmarks.train.hours import MIRA, RECIPE, DataSet, hours, projection


def row(batch: int, speed: float, **fields: Any) -> dict[str, Any]:
    return {
        "level": "train", "case": f"4b_32_tokens_batch_{batch}", "backend": "blip3v", "tokens": 32,
        "batch": batch, "samples_per_s": speed, "median_ms": 1e3 * batch / speed,
    } | fields  # fmt: skip


def test_samples_over_speed_over_devices() -> None:
    data = [DataSet("one", 36_000, 16, ""), DataSet("two", 7_200, 4, "")]
    assert hours(data, {16: 10.0, 4: 2.0}, devices=1) == pytest.approx(1 + 1)
    assert hours(data, {16: 10.0}, devices=2) == pytest.approx((1 + 0.2) / 2)


def test_the_recipes_counts() -> None:
    """Recipe as published: more than 900k captions; 99 + 30 + 149 + 32 + 71 + 34 thousand questions."""
    assert sum(part.samples for part in RECIPE if part.batch == 16) == 900_000
    assert sum(part.samples for part in RECIPE if part.batch == 4) == 415_000
    assert all(part.source for part in (*RECIPE, MIRA))


def test_every_setup_has_a_line_beside_the_published_speed() -> None:
    rows = [row(16, 41.0), row(4, 41.0), row(4, 20.5, backend="slow"), row(4, 1.0, level="tokens")]
    rows += [row(4, 9e9, backend="bug", bug="too fast"), row(4, 9.0, case="small_32_tokens_batch_4")]
    title, _, _, published, ours, slow = projection(rows)
    assert "projected: no communication measured" in title and "about 12" in title
    numbers = [[float(number) for number in line.split()[-2:]] for line in (published, ours, slow)]
    # 1,315,000 samples at 8.2 a second on each of 8 devices.
    assert numbers[0][0] == pytest.approx(1_315_000 / (8 * 8.2) / 3600, abs=0.05)
    assert numbers[1] == pytest.approx([value / 5 for value in numbers[0]], abs=0.07)
    assert numbers[2] == pytest.approx([value / 2.5 for value in numbers[0]], abs=0.07)
