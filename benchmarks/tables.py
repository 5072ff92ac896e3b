"""Sheets as tables of a terminal, as Markdown, and rows as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from benchmarks.sheets import BEST, BUG, UNTIMED, WRONG, Line, Sheet, device_name, sheets, words

NAME = 27
"""Columns of the terminal for the names; longer ones go on in the next line."""
LONG = 8
STYLES = {BEST: "bold", BUG: "bold red", WRONG: "red", UNTIMED: "dim"}


def table(file: dict[str, Any]) -> list[Table]:
    """One per sheet, 110 columns wide at most; reasons and bugs are numbered and stand below."""
    return [_table(sheet, device_name(file["machine"])) for sheet in sheets(file)]


def markdown(file: dict[str, Any]) -> str:
    """All sheets as Markdown, the fastest of each group bold."""
    return "\n".join(line for sheet in sheets(file) for line in _markdown(sheet))


def write_csv(file: dict[str, Any], path: Path) -> None:
    """All rows with the union of their fields, in the order in which these first appear."""
    fields = list(dict.fromkeys(name for row in file["rows"] for name in row))
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, fields, restval="")
        writer.writeheader()
        writer.writerows(file["rows"])


class Notes:
    """Reasons, each numbered once however many rows share it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def cells(self, line: Line) -> tuple[str, ...]:
        """The line's cells, the first with `[2]` where a note explains it."""
        if not line.note:
            return line.cells
        note = f"{line.name}: {line.note}"
        if note not in self.texts:
            self.texts.append(note)
        first, *rest = line.cells
        return (f"{first} [{self.texts.index(note) + 1}]", *rest)

    def __iter__(self) -> Iterator[str]:
        return (f"[{number}] {text}" for number, text in enumerate(self.texts, 1))


def _table(sheet: Sheet, device: str) -> Table:
    """Everything as Text: reasons hold brackets, which rich's markup would swallow."""
    shown = Table(
        Column(width=NAME),
        *(Column(_two_lines(head), justify="right", no_wrap=True) for head in sheet.head),
        title=Text(f"{sheet.title} on {device}", "bold"),
        title_justify="left",
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    notes = Notes()
    for group in sheet.groups:
        shown.add_row(Text("\n".join(filter(None, (group.title, group.floor))), "cyan"))
        for line in group.lines:
            cells = (f"  {line.name}", *notes.cells(line))
            shown.add_row(*map(Text, cells), style=STYLES.get(line.state))
    results = (f"{group.title}: {group.result}" for group in sheet.groups if group.result)
    shown.caption = Text("\n".join((*results, *notes)))
    return shown


def _two_lines(head: str) -> str:
    """Long heads broken at a space; left to rich, numbers would be broken with them."""
    return head.replace(" ", "\n", 1) if len(head) > LONG else head


def _markdown(sheet: Sheet) -> Iterator[str]:
    notes = Notes()
    yield f"### {sheet.title}\n"
    for group in sheet.groups:
        yield f"{words(f'**{group.title}**', group.floor)}\n"
        yield _cells(("", *sheet.head))
        yield _cells(("---", *("---:" for _ in sheet.head)))
        for line in group.lines:
            cells = (line.name, *notes.cells(line))
            yield _cells(f"**{cell}**" if line.state == BEST and cell else cell for cell in cells)
        yield f"\n{group.result}\n" if group.result else ""
    yield from (f"- {note}" for note in notes)
    yield ""


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
