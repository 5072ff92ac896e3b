"""One HTML page that carries everything with it: tables, pictures, machine, commands; no scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.columns import number
from benchmarks.sheets import device_name, sheets
from blip3v.errors import UserError

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_page(file: dict[str, Any], path: Path) -> None:
    """Write the page; without matplotlib it has a sentence in place of its pictures.

    Raises:
        UserError: jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError("the HTML page needs jinja2; run: pip install 'blip3v[bench]'") from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    pictures, missing = _pictures(file)
    shown = sheets(file)
    levels = ", ".join(dict.fromkeys(row["level"] for row in file["rows"]))
    page = template.render(
        title=f"{levels} on {device_name(file['machine'])}",
        gpu="gpu" in file["machine"],
        machine=file["machine"],
        ceilings=[*_ceilings(file.get("ceilings") or {})],
        source=(file.get("ceilings") or {}).get("source", ""),
        sheets=shown,
        heads={head for sheet in shown for head in sheet.head},
        pictures=pictures,
        missing=missing,
        rows=file["rows"],
    )
    path.write_text(page, encoding="utf-8")


def _pictures(file: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Name -> svg that takes the page's colour of text; or why there are none."""
    try:
        drawn = plots.figures(file)
    except UserError as error:
        return {}, str(error)
    return {name: _inline(plots.as_svg(figure, "currentColor")) for name, figure in drawn.items()}, ""


def _inline(svg: str) -> str:
    """Without what several pictures on one page would repeat: names that nothing refers to, and the size."""
    svg = re.sub(r' id="[A-Za-z]\w*_\d+"', "", svg)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def _ceilings(ceilings: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(what, measured, data sheet)"""
    for field, unit, scale in (("flops_per_s", "TFLOP/s", 1e12), ("bytes_per_s", "GB/s", 1e9)):
        measured, limit = ceilings.get(field), ceilings.get(f"limit_{field}")
        if not isinstance(measured, dict):
            measured, limit = {"memory": measured}, {"memory": limit}
        for name, rate in measured.items():
            if rate is None:
                continue
            sheet = (limit or {}).get(name)
            shown = (f"{number(value / scale)} {unit}" if value else "" for value in (rate, sheet))
            yield name, *shown
