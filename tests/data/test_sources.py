from __future__ import annotations

from pathlib import Path

import pytest

from blip3v.data.sources import Source, read_sources
from blip3v.errors import UserError


def write(folder: Path, text: str) -> Path:
    (folder / "mix.toml").write_text(text)
    return folder / "mix.toml"


def test_every_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [[source]]
        format = "nextqa"
        name = "next"
        annotations = ["train.csv", "/abs/val.csv"]
        media = "videos"
        forms = ["open", "sentence", "multiple_choice", "open"]
        rephrased = "s.jsonl"
        weight = 2
        limit = 10
        video_map = "maps/map.json"

        [[source]]
        format = "mira"
        annotations = "mira.csv"
        media = "clips"
        caption = "short_caption"
        longest = 30

        [[source]]
        format = "records"
        annotations = "sub/own.jsonl"
        """,
    )
    assert read_sources(path) == [
        Source(
            "next",
            "nextqa",
            [tmp_path / "train.csv", Path("/abs/val.csv")],
            tmp_path / "videos",
            ("open", "sentence", "multiple_choice"),
            tmp_path / "s.jsonl",
            2.0,
            10,
            {"video_map": tmp_path / "maps/map.json"},
        ),
        Source(
            "mira",
            "mira",
            [tmp_path / "mira.csv"],
            tmp_path / "clips",
            ("caption",),
            options={"caption": "short_caption", "longest": 30.0},
        ),
        Source("records", "records", [tmp_path / "sub/own.jsonl"], tmp_path / "sub", ("turns",)),
    ]


GOOD = 'format = "msvd"\nannotations = "a.json"\nmedia = "m"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not TOML"),
        ("x = 1", "not x"),
        ("", r"\[\[source\]\]"),
        ("[source]\n" + GOOD, r"\[\[source\]\]"),
        ('[[source]]\nformat = "msvdd"', "source 1: no format 'msvdd': choose one of records, llava_hound"),
        ("[[source]]\nweight = 1", "no format None"),
        ("[[source]]\n" + GOOD + "wieght = 2", "no key wieght for format msvd: choose among format, name"),
        ("[[source]]\n" + GOOD + 'video_map = "x"', "no key video_map"),
        ("[[source]]\n" + GOOD + 'forms = ["caption"]', "list of open, sentence"),
        ("[[source]]\n" + GOOD + 'forms = "open"', "list of open, sentence"),
        ("[[source]]\n" + GOOD + "forms = []", "list of open, sentence"),
        ("[[source]]\n" + GOOD + 'forms = ["sentence"]', "go together"),
        ("[[source]]\n" + GOOD + 'rephrased = "x.jsonl"', "go together"),
        ("[[source]]\n" + GOOD + "weight = 0", "'weight' must be a number above 0"),
        ("[[source]]\n" + GOOD + "weight = true", "'weight'"),
        ("[[source]]\n" + GOOD + "weight = inf", "'weight'"),
        ("[[source]]\n" + GOOD + "limit = 1.5", "'limit' must be a whole number"),
        ("[[source]]\n" + GOOD + "name = 3", "'name' of format msvd must be text"),
        ('[[source]]\nformat = "msvd"\nmedia = "m"', "'annotations'"),
        ('[[source]]\nformat = "msvd"\nmedia = "m"\nannotations = []', "'annotations'"),
        ('[[source]]\nformat = "msvd"\nannotations = "a.json"', "needs 'media'"),
        ('[[source]]\nformat = "mira"\nannotations = "a"\nmedia = "m"\nlongest = "1"', "'longest'"),
        ("[[source]]\n" + GOOD + "[[source]]\n" + GOOD, "same name"),
    ],
)
def test_a_bad_mixture_says_what_would_be_right(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sources(write(tmp_path, text))


def test_a_folder_is_its_mixture_or_its_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a \.toml nor a \.jsonl"):
        read_sources(tmp_path)
    (tmp_path / ".17.a.jsonl").touch()  # half-written
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").touch()
    assert [source.name for source in read_sources(tmp_path)] == ["a", "b"]
    write(tmp_path, "[[source]]\n" + GOOD)
    assert [source.name for source in read_sources(tmp_path)] == ["msvd"]
    (tmp_path / "other.toml").touch()
    with pytest.raises(UserError, match=r"2 \.toml files"):
        read_sources(tmp_path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_sources(tmp_path / "gone.toml")
