from __future__ import annotations

import numpy as np
import pytest

from benchmarks.train.packing_saving import Mix, lines, question_mix, saving


def test_ratios_by_hand() -> None:
    mix = Mix(np.array([10, 10, 10, 10]), np.array([2, 2, 2, 2]))
    found = saving(mix, batch=2, ranks=2)
    assert (found.tokens, found.logits, found.imbalance, found.imbalance_balanced) == (1, 5, 1, 1)
    mix = Mix(np.array([10, 10, 10, 30]), np.array([2, 2, 2, 4]))
    found = saving(mix, batch=2, ranks=2)
    assert found.tokens == pytest.approx((20 + 60) / 60)
    assert found.logits == pytest.approx(80 / 10)
    assert found.imbalance == found.imbalance_balanced == pytest.approx(40 / 30)


def test_the_mix_is_as_it_says() -> None:
    mix = question_mix(32, 50_000)
    long = mix.labels > 25
    assert 0.15 < long.mean() < 0.24
    assert mix.tokens.min() > 39 + 32
    assert np.array_equal(question_mix(32, 100).tokens, question_mix(32, 100).tokens)


@pytest.mark.parametrize(
    ("batch", "video_tokens", "least"), [(16, 16, 2.2), (16, 32, 2.0), (16, 128, 1.5), (4, 32, 1.4)]
)
def test_packing_saves_tokens_on_questions(batch: int, video_tokens: int, least: float) -> None:
    found = saving(question_mix(video_tokens, 20_000), batch)
    print(f"batch {batch}, {video_tokens} video tokens: {found}")
    assert found.tokens > least
    assert found.imbalance_balanced - 1 < 0.6 * (found.imbalance - 1)


def test_the_table_has_a_line_per_setting() -> None:
    assert len(lines((4,), (16, 32))) == 3
