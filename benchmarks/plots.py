"""Bars of all peers with the floor, and the roofline; as figures, and as SVG and PNG files.

Colours are Okabe and Ito's, which stay apart for colour-blind eyes; ours have warm ones, and no picture needs
colour alone: bars carry their names, points their shapes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.columns import Row, best_ms, number
from benchmarks.sheets import device_name, floor_of, grouped, is_ours, rank, same_work, timed, words
from blip3v.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS_COLOUR, OTHERS_COLOUR, FLOOR_COLOUR = "#D55E00", "#56B4E9", "#009E73"
OURS_COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#F0E442")
OTHERS_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#999999")
MARKERS = "osD^vP*Xh<>"
INK = "#1a1b1c"
"""Of all text and lines: an odd value, so that a page can put its own in its place."""
INKED = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")


def write_plots(file: dict[str, Any], folder: Path) -> list[Path]:
    """Every figure as `<name>.svg` and `<name>.png` in `folder`.

    Raises:
        UserError: matplotlib is missing.
    """
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(file).items():
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        svg.write_text(as_svg(figure), encoding="utf-8")
        figure.savefig(png, dpi=120, facecolor="white")
        written += [svg, png]
    return written


def figures(file: dict[str, Any]) -> dict[str, Figure]:
    """Name -> figure: bars per op and a roofline per level, as far as there are times for them.

    Raises:
        UserError: matplotlib is missing.
    """
    with _matplotlib().rc_context(dict.fromkeys(INKED, INK) | {"legend.frameon": False}):
        return _figures(file["rows"], file.get("ceilings", {}), device_name(file["machine"]))


def _figures(all_rows: Sequence[Row], ceilings: dict[str, Any], device: str) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for level in dict.fromkeys(row["level"] for row in all_rows):
        rows = [row for row in all_rows if row["level"] == level]
        if level == "tokens":
            # Imported here: it brings the model's encoders with it.
            from benchmarks.tokens.plot import plot_tokens

            if any("first_token_ms" in row for row in rows):
                found["tokens"] = plot_tokens(rows)
            continue
        compared = [group for group in same_work(timed(rows)) if len(group) > 1]
        for op, groups in grouped(compared, lambda group: group[0]["op"]).items():
            found[f"{level}_{op}"] = bars(groups, f"{op} on {device}")
        counted = [row for row in timed(rows) if row.get("flops") and row.get("bytes")]
        if counted:
            found[f"{level}_roofline"] = roofline(counted, ceilings, f"{level} on {device}")
    return found


def bars(groups: Sequence[Sequence[Row]], title: str) -> Figure:
    """A panel per group: times of all peers, ours in another colour, and a line where the floor is."""
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    most = max(len(group) for group in groups)
    figure = _figure((5.5 * columns, 0.5 + lines * (0.75 + 0.27 * most)))
    dashed = " (dashed: floor)" if any(floor_of(group) is not None for group in groups) else ""
    figure.suptitle(title + dashed, x=0.01, ha="left", fontsize=11, fontweight="bold")
    for position, group in enumerate(groups, 1):
        _bars(figure.add_subplot(lines, columns, position), sorted(group, key=_ours_first))
    return figure


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    times = [best_ms(row) or 0.0 for row in rows]
    colours = [OURS_COLOUR if is_ours(row["backend"]) else OTHERS_COLOUR for row in rows]
    drawn = axes.barh(range(len(rows)), times, color=colours, height=0.7)
    axes.bar_label(
        drawn, [f"{number(time)}{_how(row)}" for time, row in zip(times, rows)], padding=3, fontsize=8
    )
    axes.set_yticks(range(len(rows)), [row["backend"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(times))
    axes.set_xlabel("ms")
    floor = floor_of(rows)
    if floor is not None:
        axes.axvline(floor, color=FLOOR_COLOUR, linestyle="--", linewidth=1.5)
    axes.set_title(
        words(rows[0]["case"], rows[0].get("dtype"), rows[0].get("direction")), fontsize=9, loc="left"
    )


def _how(row: Row) -> str:
    return " graph" if row.get("graph_median_ms") == best_ms(row) else ""


def _ours_first(row: Row) -> tuple[bool, float]:
    return not is_ours(row["backend"]), best_ms(row) or 0.0


def roofline(rows: Sequence[Row], ceilings: dict[str, Any], title: str) -> Figure:
    """TFLOP/s over FLOP per byte of the counted work; measured ceilings solid, the data sheet's dotted."""
    figure = _figure((8, 4.8))
    axes = figure.add_subplot()
    points = [(row["flops"] / row["bytes"], row["flops"] / (best_ms(row) or 1) / 1e9) for row in rows]
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="TFLOP/s")
    axes.set_xlim(*_decades(x for x, _ in points))
    _ceilings(axes, ceilings, {row["dtype"] for row in rows})
    backends = sorted(dict.fromkeys(row["backend"] for row in rows), key=rank)
    ours = sum(is_ours(name) for name in backends)
    for place, backend in enumerate(backends):
        mine = place < ours
        colours, turn = (OURS_COLOURS, place) if mine else (OTHERS_COLOURS, place - ours)
        across, up = zip(*(point for point, row in zip(points, rows) if row["backend"] == backend))
        axes.scatter(
            across,
            up,
            label=backend,
            color=colours[turn % len(colours)],
            marker=MARKERS[place % len(MARKERS)],
            s=46 if mine else 26,
            zorder=4 if mine else 3,
            edgecolors=INK if mine else "none",
            linewidths=0.8,
        )
    axes.set_ylim(*_decades(axes.dataLim.intervaly))
    axes.grid(alpha=0.25)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")
    return figure


def _decades(values: Iterable[float]) -> tuple[float, float]:
    """The powers of ten around them: axes that label whole decades only say enough then."""
    found = list(values)
    # Twice the largest, so that it does not lie on the edge.
    return 10.0 ** math.floor(math.log10(min(found))), 10.0 ** math.ceil(math.log10(2 * max(found)))


def _ceilings(axes: Axes, ceilings: dict[str, Any], dtypes: set[str]) -> None:
    """A roof per dtype and kind: what memory allows on the left, what the arithmetic allows on the right."""
    left, right = axes.get_xlim()
    for prefix, style, kind in (("", "-", "measured"), ("limit_", ":", "data sheet")):
        rate, flops = ceilings.get(f"{prefix}bytes_per_s"), ceilings.get(f"{prefix}flops_per_s", {})
        if rate is None:
            continue
        for dtype in sorted(dtypes & set(flops)):
            ridge = min(max(flops[dtype] / rate, left), right)
            roof = [min(x * rate, flops[dtype]) / 1e12 for x in (left, ridge, right)]
            axes.plot((left, ridge, right), roof, style, color=INK, linewidth=1.2, label=f"{dtype}, {kind}")


def as_svg(figure: Figure, ink: str = INK) -> str:
    """The picture as one `<svg>` element: text stays text, equal figures give equal files.

    ink: colour of text and lines; `currentColor` takes that of the page around it.
    """
    settings = {"svg.fonttype": "none", "svg.hashsalt": "blip3v", "font.family": "sans-serif"}
    file = io.StringIO()
    with _matplotlib().rc_context(settings):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, ink)


def _figure(inches: tuple[float, float]) -> Figure:
    # The object interface needs no display and leaves matplotlib's global state alone.
    figure: Figure = _matplotlib().figure.Figure(figsize=inches, layout="constrained")
    return figure


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise UserError("plots need matplotlib; run: pip install 'blip3v[bench]'") from error
    return matplotlib
