"""The results as tables in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from blip3v.demo.scenes import CHANCE, STATIC, TEMPORAL


def percent(fraction: float | None) -> str:
    """0.853 -> "85.3"; None -> "-"."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def accuracy_rows(results: dict[str, Any]) -> list[list[str]]:
    """Header, one row per kind of question, the mean over the temporal kinds; percent of answers right."""
    columns = [row["encoder"] for row in results["encoders"]]
    rows = [["kind of question", "chance", *columns, "one frame"]]
    chosen = chosen_row(results)
    for kind in (*TEMPORAL, *STATIC):
        if kind not in chosen["test"]["kinds"]:
            continue
        found = [row["test"]["kinds"][kind]["accuracy"] for row in results["encoders"]]
        single = chosen["one_frame"]["kinds"][kind]["accuracy"]
        rows.append([kind, percent(CHANCE[kind]), *map(percent, found), percent(single)])
    means = [percent(row["test"]["temporal"]) for row in results["encoders"]]
    asked = [CHANCE[kind] for kind in TEMPORAL if kind in chosen["test"]["kinds"]]
    chance = percent(sum(asked) / len(asked) if asked else None)
    rows.append(["temporal, mean", chance, *means, percent(chosen["one_frame"]["temporal"])])
    return rows


def training_rows(results: dict[str, Any]) -> list[list[str]]:
    """Header and one row per encoder: what it was given."""
    rows = [["encoder", "tokens", "caption steps", "question steps", "training", "parameters"]]
    for row in results["encoders"]:
        steps = row["steps"]
        rows.append(
            [
                row["encoder"],
                str(row["tokens"]),
                str(steps["captions"]),
                str(steps["questions"]),
                f"{row['seconds']['training']:.0f} s",
                f"{row['parameters'] / 1e6:.2f} M",
            ]
        )
    return rows


def timing_rows(results: dict[str, Any]) -> list[list[str]]:
    """Header and one row per number of tokens."""
    rows = [["tokens", "encoder", "vision ms", "prefill ms", "first token ms", "tokens/s"]]
    for row in results["timing"]:
        rows.append(
            [
                str(row["tokens"]),
                row["encoder"],
                *(f"{1e3 * row[f'{part}_seconds']:.0f}" for part in ("vision", "prefill", "first_token")),
                f"{row['tokens_per_second']:.0f}",
            ]
        )
    return rows


def acceptance_rows(results: dict[str, Any]) -> list[list[str]]:
    """Header and one row per promise."""
    rows = [["promise", "wanted %", "found %", ""]]
    for row in results["acceptance"]:
        verdict = "pass" if row["passed"] else "lower, as it may be" if row["excused"] else "MISS"
        rows.append([row["what"], percent(row["wanted"]), percent(row["found"]), verdict])
    return rows


def seconds_rows(results: dict[str, Any]) -> list[list[str]]:
    """Header and one row per part."""
    return [["part", "seconds"], *([name, f"{value:.0f}"] for name, value in results["seconds"].items())]


def chosen_row(results: dict[str, Any]) -> dict[str, Any]:
    """What the encoder that the validation set chose was given, and what it answered."""
    return next(row for row in results["encoders"] if row["encoder"] == results["chosen"])


def missed(results: dict[str, Any]) -> bool:
    """Whether any promise was not kept; turns may be fewer."""
    return not all(row["passed"] or row["excused"] for row in results["acceptance"])


def describe_run(results: dict[str, Any]) -> str:
    """One line: encoder, steps, minutes and machine of a run."""
    row = chosen_row(results)
    steps = row["steps"]["captions"] + row["steps"]["questions"]
    return (
        f"{row['encoder']} with {row['tokens']} tokens, {steps} steps "
        f"in {row['seconds']['training'] / 60:.1f} minutes, {results['machine']['device']}"
    )


def print_summary(results: dict[str, Any], recorded: dict[str, Any] | None, report: Path) -> None:
    """Every table of the run, and the recorded figures of a longer one where this one missed a promise."""
    # A log has no width of its own; rich would take 80 columns and break the words of the tables.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    for title, rows in (
        (
            f"Right answers in percent, on held-out clips (one frame: {results['chosen']})",
            accuracy_rows(results),
        ),
        ("Training", training_rows(results)),
        (f"What was promised: {describe_run(results)}", acceptance_rows(results)),
    ):
        _print(console, title, rows)
    if missed(results):
        if recorded is None:
            console.print("No longer run is recorded to compare with: blip3v demo --minutes 40 makes one.")
        else:
            _print(
                console, f"The same recipe given more time: {describe_run(recorded)}", accuracy_rows(recorded)
            )
            _print(console, f"What was promised, by that run ({recorded['path']})", acceptance_rows(recorded))
    if results["timing"]:
        _print(
            console,
            "Tokens against time to the first token (random weights, width 512)",
            timing_rows(results),
        )
    for clip in results["footage"]:
        console.print(f"{clip['name']}: {clip['caption']}", markup=False, soft_wrap=True)
    if results["footage"]:
        console.print(
            "(The model has only ever seen coloured shapes: the path works, the words mean nothing.)"
        )
    _print(console, "Seconds", seconds_rows(results))
    for problem in results["problems"]:
        console.print(f"failed: {problem}", markup=False, soft_wrap=True)
    folder = Path(results["settings"]["out"])
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    console.print(
        f'ask it yourself: blip3v generate {folder / "clips" / "test" / "00000.mp4"} "what shape is it ?" '
        f"--model {folder / results['chosen'] / 'model'}",
        markup=False,
        soft_wrap=True,
    )


def _print(console: Console, title: str, rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)
