"""`demo_report.html`: one page that carries everything with it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from blip3v.data.records import Record
from blip3v.demo.footage import real_clips
from blip3v.demo.model import FRAMES
from blip3v.demo.plots import film_strip, plot_losses, plot_timing
from blip3v.demo.summary import (
    acceptance_rows,
    accuracy_rows,
    chosen_row,
    describe_run,
    missed,
    seconds_rows,
    timing_rows,
    training_rows,
)
from blip3v.errors import UserError
from blip3v.video import read_video

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } caption { text-align: left; font-weight: 600; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } .wrong { color: #b00; } .note { color: #666; }
"""


def write_report(
    path: Path,
    results: dict[str, Any],
    recorded: dict[str, Any] | None,
    held_out: Sequence[Record],
    logs: Mapping[str, Sequence[Path]],
) -> None:
    """Write the page.

    Args:
        results: what `demo_results.json` holds.
        recorded: the same of a longer run, shown where this one missed a promise.
        held_out: the test questions; those with answers in the results are shown with their clips.
        logs: encoder -> the logs of its stages.
    """
    parts = [
        f"<h1>blip3v demo</h1><p>{escape(describe_run(results))}. A video becomes a few tokens, and a small "
        "language model answers questions about it. Clips, training and answers were all made on this "
        "machine; only the weights after stage 1 (captions of still images) came with the package.</p>",
        _section(
            "Right answers in percent, on held-out clips",
            _table(accuracy_rows(results)),
            _note(
                "One frame: the chosen model shown its middle frame only. "
                f"The validation set chose {results['chosen']} and the weights of each encoder."
            ),
        ),
        _section("What was promised", _table(acceptance_rows(results))),
        *_recorded(results, recorded),
        _section("Training", _table(training_rows(results)), _picture(lambda: plot_losses(logs))),
    ]
    if results["timing"]:
        rows = results["timing"]
        parts.append(
            _section(
                "Tokens against time to the first token",
                _picture(lambda: plot_timing(rows)),
                _table(timing_rows(results)),
                _note("Random weights, language model of width 512 with 6 layers, medians, this machine."),
            )
        )
    parts += [
        _section("Questions about clips that it never saw", *_samples(results, held_out)),
        _section("Real clips", *_footage(results)),
        _section(
            "Machine and settings", *(_table(_pairs(results[name])) for name in ("machine", "settings"))
        ),
        _section("Recipe of stage 3", _table(_pairs(chosen_row(results)["recipe"]))),
        _section("Seconds", _table(seconds_rows(results))),
    ]
    if results["problems"]:
        parts.append(_section("Failed", *(f"<p>{escape(problem)}</p>" for problem in results["problems"])))
    head = f'<meta charset="utf-8"><title>blip3v demo</title><style>{STYLE}</style>'
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    path.write_text(page, encoding="utf-8")


def _recorded(results: dict[str, Any], recorded: dict[str, Any] | None) -> list[str]:
    if recorded is None or not missed(results):
        return []
    return [
        _section(
            "The same recipe given more time",
            _note(f"{describe_run(recorded)}; recorded in {recorded['path']}."),
            _table(accuracy_rows(recorded)),
            _table(acceptance_rows(recorded)),
        )
    ]


def _samples(results: dict[str, Any], held_out: Sequence[Record]) -> list[str]:
    """Each clip with its questions, answers and truths."""
    answers = chosen_row(results)["answers"]
    clips: dict[Path, list[Record]] = {}
    for record in held_out:
        if record.id in answers and record.video is not None:
            clips.setdefault(record.video, []).append(record)
    parts = []
    for clip, records in clips.items():
        rows = [["question", "answer", "truth", "from one frame"]]
        for record in records:
            turn, given = record.turns[0], answers[record.id]
            rows.append([turn.question, given["answer"], turn.answer, given["one_frame"]])
        wrong = {number for number, row in enumerate(rows) if number and row[1].split() != row[2].split()}
        strip = _image(film_strip(read_video(clip, FRAMES).frames))
        parts.append(strip + _table(rows, wrong))
    return parts


def _footage(results: dict[str, Any]) -> list[str]:
    parts = [_note("The model has only ever seen coloured shapes: the path works, the words mean nothing.")]
    for clip in results["footage"]:
        try:
            path = next(path for path in real_clips() if path.name == clip["name"])
            parts.append(_image(film_strip(read_video(path, FRAMES).frames)))
        except UserError as error:
            parts.append(_note(str(error)))
        parts.append(f"<p><b>{escape(clip['name'])}</b>: {escape(clip['caption'])}</p>")
    return parts


def _section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>{''.join(parts)}"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _pairs(values: Mapping[str, Any]) -> list[list[str]]:
    return [["", ""], *([name.replace("_", " "), str(value)] for name, value in values.items())]


def _table(rows: list[list[str]], wrong: set[int] | frozenset[int] = frozenset()) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        lines.append(f'<tr class="wrong">{cells}</tr>' if number in wrong else f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _image(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _picture(draw: Callable[[], bytes]) -> str:
    """A plot, or why there is none: a missing matplotlib costs the pictures and not the report."""
    try:
        return _image(draw())
    except UserError as error:
        return _note(str(error))
