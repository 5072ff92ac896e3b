"""Questions that are asked again and again while a video runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from blip3v.errors import UserError
from blip3v.inference.streaming import StreamingVideoEncoder
from blip3v.video.stream import SLACK, TimedFrame


@dataclass(frozen=True)
class TimedAnswer:
    """What the model says at one moment.

    Attributes:
        time: seconds of video up to which frames were seen.
        frames: how many they were.
        question, answer: plain text.
    """

    time: float
    frames: int
    question: str
    answer: str


def answers_while_running(
    encoder: StreamingVideoEncoder,
    frames: Iterable[TimedFrame],
    questions: Sequence[str],
    every: float,
    pushed_together: int = 1,
    **sampling: Any,
) -> Iterator[TimedAnswer]:
    """Answers to all questions at `every`, 2 * `every`, ... seconds of video, and at its end.

    An answer at time t has seen the frames before t. It comes with the first frame at or after t, so where no
    frame comes for longer than `every`, there is one answer instead of several equal ones. The end is left
    out when it would see nothing new.

    Args:
        encoder: with a processor; frames that it has seen before count as seen.
        frames: in order of time.
        every: seconds of video, above 0.
        pushed_together: frames to gather before the encoder runs, at most; 1 keeps up with a live source,
            more make larger batches.
        sampling: as for `StreamingVideoEncoder.answer_batch`.

    Raises:
        UserError: `every` not above 0, and what the encoder and the frames raise.
    """
    if not every > 0:
        raise UserError(f"the time between answers must be above 0 seconds, got {every}")
    waiting: list[Any] = []
    tick, last, answered = 0, 0.0, encoder.frames

    def ask(time: float) -> Iterator[TimedAnswer]:
        if waiting:
            encoder.push(waiting)
            waiting.clear()
        texts = encoder.answer_batch(questions, **sampling)
        for question, text in zip(questions, texts, strict=True):
            yield TimedAnswer(round(time, 3), encoder.frames, question, text)

    for frame in frames:
        # Counted from the beginning, so that answers do not drift with late frames.
        reached = int((frame.time + SLACK) / every)
        if reached > tick:
            yield from ask(reached * every)
            tick, answered = reached, encoder.frames
        waiting.append(frame.image)
        last = frame.time
        if len(waiting) >= pushed_together:
            encoder.push(waiting)
            waiting.clear()
    if encoder.frames + len(waiting) > answered:
        yield from ask(last)
