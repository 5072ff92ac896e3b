"""The table of formats, and several files of one data set."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from blip3v.data.media import MediaFolder
from blip3v.data.readers import FORMATS, read_files
from blip3v.data.skipping import Reason, Skipped

COLUMNS = ["gif_name", "question", "answer", "key"]


def test_of_two_entries_with_one_id_the_first_counts(put: Callable[..., Path]) -> None:
    folder = put("media/x.gif")
    paths = [folder / "Train_count_question.csv", folder / "more_count_question.csv"]
    for path in paths:
        with path.open("w", newline="") as file:
            rows = [COLUMNS, ["x", "how often?", "2", "1"], ["x", "how often?", "3", path.name]]
            csv.writer(file, delimiter="\t").writerows(rows)
    entries = list(read_files("tgif", paths, MediaFolder(folder / "media"), {}))
    assert [type(entry) is Skipped for entry in entries] == [False, False, True, False]
    assert entries[2] == Skipped(
        "more_count_question.csv id count-1", Reason.DUPLICATE, "there was an entry count-1 before"
    )


def test_every_format_has_a_form() -> None:
    assert all(known.forms for known in FORMATS.values())
