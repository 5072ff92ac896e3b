"""The pictures of the report, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from blip3v.errors import UserError
from blip3v.train.metrics import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_losses(logs: Mapping[str, Sequence[Path]]) -> bytes:
    """Smoothed loss against steps of each encoder; its logs, one per stage, follow each other.

    Raises:
        UserError: matplotlib is missing.
    """
    figure = _figure()
    axes = figure.add_subplot()
    for name, paths in logs.items():
        done, steps, losses = 0, [], []
        for path in paths:
            lines = read_log(path)
            # A gap where one stage ends, as the next has another loss.
            steps += [done + line["step"] for line in lines] + [done]
            losses += [line["smoothed_loss"] for line in lines] + [float("nan")]
            done += lines[-1]["step"]
        axes.plot(steps, losses, label=name)
    axes.set(xlabel="step (captions, then questions)", ylabel="loss", yscale="log")
    axes.legend()
    return _png(figure)


def plot_timing(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Time to the first token against video tokens, and the vision part of it.

    Raises:
        UserError: matplotlib is missing.
    """
    figure = _figure()
    axes = figure.add_subplot()
    tokens = [row["tokens"] for row in rows]
    axes.plot(tokens, [1e3 * row["first_token_seconds"] for row in rows], "o-", label="first token")
    axes.plot(tokens, [1e3 * row["vision_seconds"] for row in rows], "o:", label="vision part")
    axes.set(xlabel="video tokens", ylabel="milliseconds", xscale="log", ylim=(0, None))
    axes.set_xticks(tokens, [str(count) for count in tokens])
    axes.minorticks_off()
    axes.legend()
    return _png(figure)


def film_strip(frames: np.ndarray, height: int = 96) -> bytes:
    """uint8 [T,H,W,3] side by side."""
    width = round(frames.shape[2] * height / frames.shape[1])
    strip = Image.new("RGB", ((width + 2) * len(frames) - 2, height), "white")
    for number, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame).resize((width, height)), (number * (width + 2), 0))
    file = io.BytesIO()
    strip.save(file, "PNG")
    return file.getvalue()


def _figure() -> Figure:
    try:
        # The object interface needs no display and leaves matplotlib's global state alone.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib; run: pip install 'blip3v[demo]'") from error
    return Figure(figsize=(7, 3.6), layout="constrained")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
