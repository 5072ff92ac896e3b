"""`blip3v stream SOURCE "question" --model DIR --every 2s`: answers while the video runs."""

from __future__ import annotations

import sys
from contextlib import closing
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro

from blip3v.cli.duration import seconds_of
from blip3v.errors import UserError


def stream(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    question: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION ...")],
    model: Path,
    every: str = "2s",
    fps: float | None = None,
    realtime: bool = False,
    window: int | None = None,
    hold_time: int | None = None,
    max_new_tokens: int = 128,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Answer questions about a video again and again while it runs, until it ends or Ctrl-C.

    Args:
        source: a video file of any length, a camera such as /dev/video0, `-` for standard input, or an
            address that FFmpeg understands (rtsp://...).
        question: one or more questions, each in quotes.
        model: folder of a trained model: saved by blip3v, or a released checkpoint.
        every: time of video between answers: 2s, 500ms, 1.5m.
        fps: frames per second to look at. If not given, as many as training saw of one video (8) are spread
            over the time between two answers: 4 per second for 2s.
        realtime: play a file at its own speed. As with a camera, frames that the model is too slow for are
            dropped.
        window: look back on the last so many frames only, by default on all; any temporal encoder can do it.
        hold_time: the last frame index that time-stamps count to, by default without end.
        max_new_tokens: longest answer, in tokens.
        device: cpu, cuda, cuda:1, ...; a GPU where there is one if not given.
        json: print one JSON object per answer.
    """
    if not question:
        raise UserError('no question given; ask, for example: blip3v stream clip.mp4 "What happens?"')
    seconds = seconds_of(every, "--every")
    if fps is not None and not fps > 0:
        raise UserError(f"--fps must be above 0, got {fps}")
    if not model.is_dir():
        raise UserError(f"no such model folder: {model}; `blip3v train` and `blip3v demo` write one")
    from blip3v.video.pacing import LatestFrames
    from blip3v.video.stream import VideoStream

    # A wrong source should not cost the minutes that loading a model may take. What is live is let go
    # meanwhile: its buffers would fill with the past.
    video = VideoStream(source)
    if video.live:
        video.close()
    import torch
    from transformers.utils import logging

    from blip3v.inference.generate import check_questions, load
    from blip3v.inference.running import answers_while_running
    from blip3v.inference.streaming import StreamingVideoEncoder

    check_questions(question)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        target = torch.device(device) if device else None
    except RuntimeError as error:
        raise UserError(f"no such device: {device}; use cpu, cuda or cuda:<number>") from error
    network, processor = load(model, device=target)
    encoder = StreamingVideoEncoder(network, processor, window=window, hold_time=hold_time)
    video = VideoStream(source) if video.live else video
    frames = video.frames(fps or processor.num_frames / seconds)
    live = LatestFrames(frames, pace=realtime) if video.live or realtime else None
    together = 1 if live else encoder.frames_at_once
    answers = answers_while_running(
        encoder, live or frames, question, seconds, together, max_new_tokens=max_new_tokens
    )
    said = 0
    with closing(live or frames):
        try:
            for row in answers:
                said += 1
                text = row.answer if len(question) == 1 else f"{row.question} {row.answer}"
                line = f"{row.time:8.1f} s  {text}"
                print(dumps(vars(row), ensure_ascii=False) if json else line, flush=True)
        except KeyboardInterrupt:
            print(file=sys.stderr)  # the terminal has just shown ^C
    dropped = f", {live.dropped} dropped" if live else ""
    print(f"blip3v: {encoder.frames} frames seen{dropped}, {said} answers", file=sys.stderr)
