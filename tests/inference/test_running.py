"""Which frames an answer has seen, and when it comes."""

from __future__ import annotations

import numpy as np
import pytest

from blip3v.errors import UserError
from blip3v.inference.running import TimedAnswer, answers_while_running
from blip3v.video.stream import TimedFrame


class Counting:
    """Stands for the encoder: its answer names the last frame it saw and how they were pushed."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.pushes: list[int] = []

    @property
    def frames(self) -> int:
        return len(self.seen)

    def push(self, images) -> None:
        self.seen += [int(image[0, 0, 0]) for image in images]
        self.pushes.append(len(images))

    def answer_batch(self, questions, max_new_tokens: int = 128) -> list[str]:
        return [
            f"{question} {self.seen[-1] if self.seen else None} {max_new_tokens}" for question in questions
        ]


def frames(*times: float) -> list[TimedFrame]:
    return [TimedFrame(moment, np.full((1, 1, 3), n, np.uint8)) for n, moment in enumerate(times)]


def run(times, every, encoder=None, questions=("q",), **settings) -> list[TimedAnswer]:
    return list(answers_while_running(encoder or Counting(), frames(*times), questions, every, **settings))


def test_an_answer_has_seen_the_frames_before_its_time():
    rows = run([0.0, 0.5, 1.0, 1.5, 2.0, 2.4], every=1.0)
    assert [(row.time, row.frames, row.answer) for row in rows] == [
        (1.0, 2, "q 1 128"),
        (2.0, 4, "q 3 128"),
        (2.4, 6, "q 5 128"),
    ]


def test_a_gap_gives_one_answer_and_the_grid_stays():
    rows = run([0.0, 0.9, 5.3, 5.9, 6.1], every=1.0)
    assert [(row.time, row.frames) for row in rows] == [(5.0, 2), (6.0, 4), (6.1, 5)]


def test_times_that_floating_point_cannot_spell():
    """0.3 // 0.1 is 2.0, and Matroska writes 1/3 as 0.333."""
    rows = run([n / 10 for n in range(5)], every=0.1)
    assert [(row.time, row.frames) for row in rows] == [(0.1, 1), (0.2, 2), (0.3, 3), (0.4, 4), (0.4, 5)]
    assert [row.time for row in run([0.0, 0.333, 0.667], every=1 / 3)] == [0.333, 0.667, 0.667]


def test_nothing_new_at_the_end_nothing_said():
    assert [(row.time, row.frames) for row in run([0.0], every=1.0)] == [(0.0, 1)]
    assert run([], every=1.0) == []
    # The second frame is the first after an answer, and still waits for company at the end.
    assert [(row.time, row.frames) for row in run([0.0, 1.0], every=1.0, pushed_together=8)] == [
        (1.0, 1),
        (1.0, 2),
    ]


def test_frames_are_pushed_together_but_never_past_an_answer():
    encoder = Counting()
    run([n / 4 for n in range(13)], every=2.0, encoder=encoder, pushed_together=3)
    assert encoder.seen == list(range(13))
    assert encoder.pushes == [3, 3, 2, 3, 2]
    encoder = Counting()
    run([0.0, 0.1, 0.2], every=2.0, encoder=encoder)
    assert encoder.pushes == [1, 1, 1]


def test_all_questions_at_each_time_with_their_settings():
    rows = run([0.0, 1.0], every=1.0, questions=["a", "b"], max_new_tokens=3)
    assert [(row.time, row.question, row.answer) for row in rows] == [
        (1.0, "a", "a 0 3"),
        (1.0, "b", "b 0 3"),
        (1.0, "a", "a 1 3"),
        (1.0, "b", "b 1 3"),
    ]


def test_answers_come_before_later_frames_are_read():
    def endless():
        number = 0
        while True:
            yield TimedFrame(float(number), np.zeros((1, 1, 3), np.uint8))
            number += 1

    answers = answers_while_running(Counting(), endless(), ["q"], every=2.0)
    assert [next(answers).time for _ in range(3)] == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("every", [0, -2.0, float("nan")])
def test_every_must_be_a_time(every):
    with pytest.raises(UserError, match="above 0 seconds"):
        run([0.0], every=every)
