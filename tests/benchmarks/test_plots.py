"""Pictures show every time, no impossible one, and are the same twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.plots import INK, OTHERS_COLOUR, OURS_COLOUR, as_svg, bars, figures, write_plots
from blip3v.errors import UserError

pytest.importorskip("matplotlib")


def test_files_of_both_kinds_for_every_op_and_level(gpu_file: dict[str, Any], tmp_path: Path) -> None:
    written = write_plots(gpu_file, tmp_path / "new")
    names = ("ops_token_learner", "ops_roofline", "stages_vit", "stages_roofline")
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    for path in written:
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text(encoding="utf-8"))
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_bars_are_the_better_times_and_the_floor(gpu_file: dict[str, Any]) -> None:
    rows = [row for row in gpu_file["rows"][:5] if "median_ms" in row]
    (axes,) = bars([rows], "made up").axes
    drawn = {label.get_text(): bar for label, bar in zip(axes.get_yticklabels(), axes.patches)}
    assert [*drawn] == ["cuda", "reference", "compile max-autotune"]
    assert drawn["cuda"].get_width() == pytest.approx(0.8 * 0.031)
    colours = [_hex(bar) for bar in axes.patches]
    assert colours == [OURS_COLOUR, OURS_COLOUR, OTHERS_COLOUR]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(2.6e6 / 4.3e9)


def _hex(bar: Any) -> str:
    from matplotlib.colors import to_hex

    return to_hex(bar.get_facecolor()).upper()


def test_points_lie_below_the_roof_and_the_impossible_one_is_left_out(gpu_file: dict[str, Any]) -> None:
    axes = figures(gpu_file)["ops_roofline"].axes[0]
    ceilings = gpu_file["ceilings"]
    points = {each.get_label(): each.get_offsets() for each in axes.collections}
    assert "compile default" not in points and "einsum" not in points
    assert len(points["cuda"]) == len(points["reference"]) == 2
    for intensity, rate in (point for each in points.values() for point in each):
        assert rate < min(intensity * ceilings["bytes_per_s"], ceilings["flops_per_s"]["bfloat16"]) / 1e12
    assert points["cuda"][1].tolist() == pytest.approx([46.8e9 / 129e6, 46.8 / 0.16])
    roofs = [line.get_label() for line in axes.lines]
    assert roofs == ["bfloat16, measured", "bfloat16, data sheet"]


def test_a_cpu_has_no_data_sheet(cpu_file: dict[str, Any]) -> None:
    axes = figures(cpu_file)["ops_roofline"].axes[0]
    assert [line.get_label() for line in axes.lines] == ["bfloat16, measured"]


def test_an_svg_is_the_same_twice_and_takes_the_colour_of_its_page(gpu_file: dict[str, Any]) -> None:
    once, twice = (as_svg(figures(gpu_file)["ops_roofline"], "currentColor") for _ in range(2))
    assert once == twice and "currentColor" in once and INK not in once
    # Text stays text, so that it can be searched; and no black ink is left that a dark page would swallow.
    assert "TFLOP/s</text>" in once and not re.search(r"(stroke|fill): #000000", once)


def test_nothing_timed_gives_no_picture(gpu_file: dict[str, Any]) -> None:
    untimed = [row for row in gpu_file["rows"] if "median_ms" not in row]
    assert figures({**gpu_file, "rows": untimed}) == {}


def test_tokens_have_a_picture_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.tokens import plot

    seen: list[Any] = []
    monkeypatch.setattr(plot, "plot_tokens", lambda rows: seen.append(rows) or "picture")
    timed = {
        "level": "tokens",
        "op": "first_token",
        "backend": "ttm",
        "first_token_ms": 3.0,
        "median_ms": 3.0,
    }
    assert figures({"machine": {}, "rows": [timed]}) == {"tokens": "picture"} and seen == [[timed]]
    untimed = {"level": "tokens", "op": "first_token", "backend": "ttm", "reason": "out of memory"}
    assert figures({"machine": {}, "rows": [untimed]}) == {}


def test_a_missing_matplotlib_is_named(gpu_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"blip3v\[bench\]"):
        figures(gpu_file)
