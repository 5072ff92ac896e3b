"""`blip3v generate VIDEO "question" --model DIR`: answers about a video, printed as they come."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import tyro

from blip3v.errors import UserError


def generate(
    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")],
    question: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION ...")],
    model: Path,
    max_new_tokens: int = 128,
    frames: int | None = None,
    sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Answer questions about a video.

    Args:
        video: a video file, or a folder with one image per frame.
        question: one or more questions, each in quotes.
        model: folder of a trained model: saved by blip3v, or a released checkpoint.
        max_new_tokens: longest answer, in tokens.
        frames: frames to sample; the model's own number if not given.
        sample: draw each token by its probability instead of taking the likeliest.
        temperature: with --sample; below 1 is more cautious, above 1 more varied.
        top_p: with --sample; draw only among the likeliest tokens that together have this probability.
        seed: with --sample; the same seed gives the same answer.
        device: cpu, cuda, cuda:1, ...; a GPU where there is one if not given.
        json: print one JSON object per question when its answer is complete.
    """
    if not question:
        raise UserError('no question given; ask, for example: blip3v generate clip.mp4 "What happens?"')
    if frames is not None and frames < 1:
        raise UserError(f"--frames must be at least 1, got {frames}")
    if not model.is_dir():
        raise UserError(f"no such model folder: {model}; `blip3v train` and `blip3v demo` write one")
    from blip3v.video import read_video

    # A wrong path or a broken file should not cost the minutes that loading a model may take.
    read_video(video, num_frames=1)

    import torch
    from transformers.utils import logging

    from blip3v.inference.generate import check_questions, load, stream_answer

    check_questions(question)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        target = torch.device(device) if device else None
    except RuntimeError as error:
        raise UserError(f"no such device: {device}; use cpu, cuda or cuda:<number>") from error
    network, processor = load(model, device=target)
    clip = read_video(video, frames or processor.num_frames)
    torch.manual_seed(seed)
    for text in question:
        pieces = stream_answer(
            network,
            processor,
            clip,
            text,
            max_new_tokens=max_new_tokens,
            do_sample=sample,
            temperature=temperature,
            top_p=top_p,
        )
        if json:
            reply = "".join(pieces).strip()
            print(
                dumps({"video": str(video), "question": text, "answer": reply}, ensure_ascii=False),
                flush=True,
            )
            continue
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
