"""Bad entries are passed over with a reason; wrong files are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip3v.data.readers.entries import choice, json_array, json_lines, table_rows, text
from blip3v.data.skipping import BadEntry, Reason, Skipped
from blip3v.errors import UserError


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_bad_lines_are_passed_over_one_by_one(tmp_path: Path) -> None:
    lines = [
        b'{"a": 1}',
        b"{broken",
        b"",
        b"[1, 2]",
        b'{"a": "\xff"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000,
        b'{"a": 2}',
    ]
    entries = list(json_lines(write(tmp_path / "x.jsonl", b"\n".join(lines))))
    assert entries[0] == ("x.jsonl:1", {"a": 1}) and entries[-1] == ("x.jsonl:8", {"a": 2})
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    assert [entry.where for entry in skipped] == [f"x.jsonl:{number}" for number in (2, 4, 5, 6, 7)]
    assert {entry.reason for entry in skipped} == {Reason.MALFORMED}


def test_entries_of_an_array(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", json.dumps([{"a": 1}, "no object", {"a": 2}]))
    entries = list(json_array(path, ["a"]))
    assert entries[::2] == [("x.json entry 0", {"a": 1}), ("x.json entry 2", {"a": 2})]
    assert isinstance(entries[1], Skipped) and entries[1].where == "x.json entry 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ('{"a": 1}', "no JSON array"), ('[{"b": 1}]', "fields a"), ("[]", "fields a")],
)
def test_a_wrong_array_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(json_array(write(tmp_path / "x.json", content), ["a"]))
    with pytest.raises(UserError, match="no such annotation file"):
        list(json_array(tmp_path / "gone.json", ["a"]))


def test_rows_of_a_table(tmp_path: Path) -> None:
    rows = '\ufeffa,b\r\n1,2\r\n3\r\n\r\n4,5,6\r\n"x,\ny",7\r\n'
    content = rows.encode() + b"\xff,8\n" + b'"' + b"z" * 200_000 + b'",9\n10,11\n'
    entries = list(table_rows(write(tmp_path / "x.csv", content), ["b"]))
    good = [entry for entry in entries if not isinstance(entry, Skipped)]
    assert [fields for _, fields in good] == [
        {"a": "1", "b": "2"},
        {"a": "x,\ny", "b": "7"},
        {"a": "10", "b": "11"},
    ]
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    words = ("1 columns", "3 columns", "UTF-8", "field larger")
    assert len(skipped) == len(words)
    assert all(word in entry.detail for word, entry in zip(words, skipped, strict=True))


@pytest.mark.parametrize(("content", "message"), [("", "empty"), ("a,c\n1,2\n", "no column b")])
def test_a_wrong_table_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(table_rows(write(tmp_path / "x.csv", content), ["a", "b"]))


@pytest.mark.parametrize("value", [None, True, [], {}])
def test_a_field_that_is_no_text(value: Any) -> None:
    with pytest.raises(BadEntry, match="'a'"):
        text({"a": value}, "a")


def test_numbers_are_text_and_blanks_are_not() -> None:
    assert text({"a": 7}, "a") == "7" and text({"a": " x "}, "a") == "x"
    with pytest.raises(BadEntry) as error:
        text({"a": " \n"}, "a", Reason.EMPTY_ANSWER)
    assert error.value.reason is Reason.EMPTY_ANSWER


@pytest.mark.parametrize("place", ["2", "-1", "1.0", "A", "²", "0000000000001", "9" * 5000])
def test_no_such_option(place: str) -> None:
    with pytest.raises(BadEntry) as error:
        choice({"x": "cat", "y": "dog", "answer": place}, ["x", "y"])
    assert error.value.reason is Reason.BAD_INDEX


def test_options() -> None:
    assert choice({"x": "cat", "y": "dog", "answer": "1"}, ["x", "y"]) == (("cat", "dog"), 1)
