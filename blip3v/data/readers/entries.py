"""Reading annotation files entry by entry: a bad entry is passed over and said, a wrong file is an error."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blip3v.data.forms import Item
from blip3v.data.records import parse_line
from blip3v.data.skipping import BadEntry, Reason, Skipped
from blip3v.errors import UserError

Entry = tuple[str, dict[str, Any]]
"""(where it stands, its fields)."""


def items_of(
    entries: Iterator[Entry | Skipped], make: Callable[[dict[str, Any]], Item]
) -> Iterator[Item | Skipped]:
    """`make(fields)` of every entry; an entry that it refuses with BadEntry is skipped."""
    for entry in entries:
        if isinstance(entry, Skipped):
            yield entry
            continue
        where, fields = entry
        try:
            yield make(fields)
        except BadEntry as error:
            yield Skipped(where, error.reason, error.detail)


def json_lines(path: Path) -> Iterator[Entry | Skipped]:
    """The objects of a JSON lines file, one by one."""
    check_file(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                yield where, parse_line(line)
            except BadEntry as error:
                yield Skipped(where, error.reason, error.detail)


def json_array(path: Path, fields: Sequence[str]) -> Iterator[Entry | Skipped]:
    """The objects of a JSON array, which is loaded whole.

    Raises:
        UserError: no such file, no JSON array, or not one entry with these fields.
    """
    array = load_json(path)
    if not isinstance(array, list):
        raise UserError(f"{path} holds no JSON array; is it the file that was published?")
    if not any(isinstance(entry, dict) and all(name in entry for name in fields) for entry in array):
        raise UserError(f"no entry of {path} has the fields {', '.join(fields)}; is it the right file?")
    for number, entry in enumerate(array):
        where = f"{path.name} entry {number}"
        if isinstance(entry, dict):
            yield where, entry
        else:
            yield Skipped(where, Reason.MALFORMED, f"a {type(entry).__name__} instead of an object")


def load_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: no such file, or no JSON.
    """
    check_file(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); get the file again") from error


def table_rows(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[Entry | Skipped]:
    """The rows of a table with a line of names, as text.

    Raises:
        UserError: no such file, or a column is missing.
    """
    # Bytes that are not UTF-8 become a mark that no published text holds, so their rows can be told.
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = next_row(reader)
        if header is None or isinstance(header, csv.Error):
            raise UserError(f"{path} is empty or no table; is it the file that was published?")
        missing = [name for name in columns if name not in header]
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(missing)}, only {', '.join(header)}; is it the right file?"
            )
        while (row := next_row(reader)) is not None:
            where = f"{path.name}:{reader.line_num}"
            if isinstance(row, csv.Error):
                yield Skipped(where, Reason.MALFORMED, f"no row of a table ({row})")
            elif len(row) != len(header):
                if row:
                    yield Skipped(where, Reason.MALFORMED, f"{len(row)} columns instead of {len(header)}")
            elif any("\N{REPLACEMENT CHARACTER}" in cell for cell in row):
                yield Skipped(where, Reason.MALFORMED, "not UTF-8 text; convert the file to UTF-8")
            else:
                yield where, dict(zip(header, row, strict=True))


def table_header(path: Path, delimiter: str = ",") -> list[str]:
    """The names in the first line of a table; empty for an empty file."""
    check_file(path)
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        header = next_row(csv.reader(file, delimiter=delimiter))
    return header if isinstance(header, list) else []


def next_row(reader: Any) -> list[str] | csv.Error | None:
    """The next row, what is wrong with it, or None at the end."""
    try:
        return next(reader, None)
    except csv.Error as error:
        return error


def check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no such annotation file: {path}; see the data set's page for its files")


def text(fields: dict[str, Any], name: str, if_empty: Reason = Reason.MALFORMED) -> str:
    """A field as text, numbers included.

    Raises:
        BadEntry: it is missing, something else, or blank (`if_empty`).
    """
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadEntry(Reason.MALFORMED, f"'{name}' is missing or no text")
    stripped = str(value).strip()
    if not stripped:
        raise BadEntry(if_empty, f"'{name}' is empty")
    return stripped


def question(fields: dict[str, Any], name: str = "question") -> str:
    return text(fields, name, Reason.EMPTY_QUESTION)


def answer(fields: dict[str, Any], name: str = "answer") -> str:
    return text(fields, name, Reason.EMPTY_ANSWER)


def choice(fields: dict[str, Any], names: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """The options in these fields, and the place of the right one, which `answer` counts from 0.

    Raises:
        BadEntry: an empty option, or no such place.
    """
    options = tuple(text(fields, name) for name in names)
    place = answer(fields)
    if place not in [str(index) for index in range(len(options))]:
        raise BadEntry(Reason.BAD_INDEX, f"answer {place!r} is none of 0 to {len(options) - 1}")
    return options, int(place)
