"""One picture: what tokens cost, measured, and what they bring, as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from typing import TYPE_CHECKING, Any

from benchmarks.plots import INK, OTHERS_COLOUR, OTHERS_COLOURS, OURS_COLOUR
from benchmarks.tokens.published import ENCODERS, PAPER, SYSTEMS, Published, Task
from blip3v.errors import UserError
from blip3v.models.temporal import READS_PATCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

TASK: Task = "MSVD-QA"
"""The one task for which the paper has numbers of all encoders and systems."""

PLACES = {"LLaVA-OneVision": (0, -5, "center", "top"), "LLaVA-NeXT-Video": (-6, 0, "right", "center")}
"""Where a name does not stand above its point, because of its neighbour: shift in points, alignment."""

VISION, OTHERS, PREFILL = OURS_COLOUR, OTHERS_COLOURS[0], OTHERS_COLOUR


def plot_tokens(rows: Rows) -> Figure:
    """Tokens (logarithmic) against milliseconds to the first token above, against published accuracy below.

    rows: of `token_rows`; those without a time are left out.

    Raises:
        UserError: no row has a time, or matplotlib is missing.
    """
    timed = [row for row in rows if "first_token_ms" in row]
    if not timed:
        raise UserError("no row of the level `tokens` has a time; run `blip3v bench tokens`")
    try:
        # The object interface needs no display and leaves matplotlib's global state alone.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need matplotlib; run: pip install 'blip3v[demo]'") from error
    page = Figure(figsize=(9, 8.4), layout="constrained")
    cost, gain = page.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _latency(cost, timed)
    _accuracy(gain)
    low, high = min(row["tokens"] for row in timed), max(row["tokens"] for row in timed)
    ticks = [count for count in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if count <= high]
    # Room for names below the lowest point of the upper part, and above the highest of the lower one.
    cost.set(ylim=(min(row["prefill_ms"] for row in timed) / 4, None))
    gain.set(ylim=(None, 83), xlim=(min(low, 16) / 1.3, max(high, 4608) * 1.6))
    gain.set_xticks(ticks, [f"{count:,}" for count in ticks])
    gain.minorticks_off()
    return page


def _latency(axes: Axes, rows: Rows) -> None:
    """The language model's share is the same for all encoders; what is above it is vision."""
    prefill = sorted({row["tokens"]: row["prefill_ms"] for row in rows}.items())
    counts, times = zip(*prefill)
    axes.fill_between(counts, times, color=PREFILL, alpha=0.25, linewidth=0)
    axes.plot(counts, times, color=PREFILL, label="prefill of the language model, the same for all")
    for row in rows:
        span = (row["prefill_ms"], row["first_token_ms"])
        axes.plot([row["tokens"]] * 2, span, color=VISION, alpha=0.35, linewidth=1)
    for label, colour, chosen in (
        ("first token: encoder behind the resampler", VISION, lambda name: name not in READS_PATCHES),
        ("first token: reducer of patches, without a resampler", OTHERS, lambda name: name in READS_PATCHES),
    ):
        own = [row for row in rows if chosen(row["encoder"])]
        axes.scatter(
            [row["tokens"] for row in own],
            [row["first_token_ms"] for row in own],
            s=22,
            color=colour,
            label=label,
            zorder=3,
        )
    best = [row for row in rows if row["encoder"] == "grouped_ttm"]
    axes.scatter(
        [row["tokens"] for row in best],
        [row["first_token_ms"] for row in best],
        s=60,
        facecolors="none",
        edgecolors=INK,
        linewidths=1,
        label="first token: grouped TTM, the paper's best",
        zorder=4,
    )
    first = rows[0]
    axes.set(
        xscale="log",
        yscale="log",
        ylabel="milliseconds to the first token",
        title=f"Measured: {first['case'].split('_')[0]} preset, {first['dtype']}, one video of 8 frames, "
        "random weights",
    )
    axes.legend(loc="upper left", fontsize=8)
    axes.grid(alpha=0.25)
    _name_columns(axes, rows)


def _name_columns(axes: Axes, rows: Rows) -> None:
    """At the foot of each number of tokens the encoder that makes it, or how many do."""
    columns: dict[int, list[str]] = {}
    for row in rows:
        columns.setdefault(row["tokens"], []).append(row["encoder"])
    places = _apart([log2(tokens) for tokens in sorted(columns)], 0.17)
    for tokens, place in zip(sorted(columns), places):
        names = sorted(columns[tokens])
        text = f"{tokens:,}: " + (names[0] if len(names) == 1 else f"{len(names)} encoders")
        axes.text(
            2**place, 0.02, text, transform=axes.get_xaxis_transform(), rotation=90, fontsize=7, ha="center"
        )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values pushed apart, evenly to both sides, until none is nearer than `gap` to the next."""
    places = list(values)
    for _ in range(200):
        for i in range(len(places) - 1):
            short = max(0.0, gap - (places[i + 1] - places[i])) / 2
            places[i] -= short
            places[i + 1] += short
    return places


def _accuracy(axes: Axes) -> None:
    counts = sorted((row.tokens, row.accuracy[TASK]) for row in ENCODERS if row.encoder == "grouped_ttm")
    axes.plot(*zip(*counts), "o-", color=VISION, label="grouped TTM in BLIP-3-Video 4B", zorder=3)
    rest = [row for row in ENCODERS if row.encoder != "grouped_ttm"]
    _scatter(axes, rest, VISION, "x", "other encoders in the same model")
    _scatter(
        axes,
        [row for row in SYSTEMS if row.size != "4B"],
        OTHERS,
        "s",
        "other systems, other sizes; (+): that many tokens or more",
    )
    axes.set(
        xscale="log",
        xlabel="tokens of a video",
        ylabel=f"{TASK} accuracy, %",
        title=f"PUBLISHED, not measured here: {PAPER}, tables 1 and 3 to 5",
    )
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.25)


def _scatter(axes: Axes, rows: Sequence[Published], colour: str, marker: str, label: str) -> None:
    axes.scatter(
        [row.tokens for row in rows],
        [row.accuracy[TASK] for row in rows],
        color=colour,
        marker=marker,
        s=24,
        label=label,
    )
    if marker == "s":
        for row in rows:
            right, up, horizontal, vertical = PLACES.get(row.system, (0, 5, "center", "bottom"))
            axes.annotate(
                f"{row.system} {row.size}" + (" (+)" if row.at_least else ""),
                (row.tokens, row.accuracy[TASK]),
                xytext=(right, up),
                textcoords="offset points",
                fontsize=7,
                ha=horizontal,
                va=vertical,
            )
