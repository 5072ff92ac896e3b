"""The loss of a run as a picture, drawn from its log."""

from __future__ import annotations

from pathlib import Path

from blip3v.errors import UserError
from blip3v.train.metrics import read_log


def plot_loss(log: str | Path, title: str = "") -> tuple[Path, Path]:
    """Draw loss and learning rate against steps, as PNG and SVG beside the log.

    Raises:
        UserError: matplotlib is absent, or the log has no line yet.
    """
    try:
        # The object interface needs no display and leaves matplotlib's global state alone.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib; run: pip install matplotlib") from error
    lines = read_log(log)
    if not lines:
        raise UserError(f"{log} holds no steps yet; nothing to draw")
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, [line["loss"] for line in lines], color="tab:blue", alpha=0.35, label="loss")
    axes.plot(steps, [line["smoothed_loss"] for line in lines], color="tab:blue", label="loss, smoothed")
    axes.set(xlabel="step", ylabel="loss", title=title)
    rate = axes.twinx()
    rate.plot(
        steps, [line["learning_rate"] for line in lines], color="tab:grey", ls=":", label="learning rate"
    )
    rate.set_ylabel("learning rate")
    figure.legend(loc="outside lower center", ncols=3)
    png, svg = Path(log).with_suffix(".png"), Path(log).with_suffix(".svg")
    figure.savefig(png, dpi=120)
    figure.savefig(svg)
    return png, svg
