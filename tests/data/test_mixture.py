from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.mixture import read_mixture
from blip3v.data.records import read_records
from blip3v.data.skipping import Reason
from blip3v.errors import UserError

COLUMNS = ["gif_name", "question", "a1", "a2", "a3", "a4", "a5", "answer", "vid_id", "key"]


@pytest.fixture
def folder(put: Callable[..., Path]) -> Path:
    """Ten questions to MSVD, one without a video, and two to TGIF, one of them rephrased."""
    folder = put("msvd/vid1.avi", "tgif/x.gif")
    entries = [{"answer": "cat", "id": n, "question": "what?", "video_id": 1} for n in range(10)]
    entries.append({"answer": "cat", "id": 10, "question": "what?", "video_id": 2})
    (folder / "train_qa.json").write_text(json.dumps(entries))
    with (folder / "Train_action_question.csv").open("w", newline="") as file:
        rows = [["x", "what ?", "a", "b", "c", "d", "e", "1", "ID", str(key)] for key in range(2)]
        csv.writer(file, delimiter="\t").writerows([COLUMNS, *rows])
    (folder / "s.jsonl").write_text('{"id": "action-1", "source": "tgif", "answer": "He does b."}\n')
    return folder


def mix(folder: Path, weight: str = "1.0", limit: str = "") -> Path:
    (folder / "mix.toml").write_text(f"""
        [[source]]
        format = "msvd"
        annotations = "train_qa.json"
        media = "msvd"
        weight = {weight}
        {limit}

        [[source]]
        format = "tgif"
        annotations = "Train_action_question.csv"
        media = "tgif"
        forms = ["open", "sentence", "multiple_choice"]
        rephrased = "s.jsonl"
    """)
    return folder / "mix.toml"


def test_forms_and_report(folder: Path) -> None:
    records, report = (mixture := read_mixture(mix(folder))).records, mixture.report
    assert [record.id for record in records] == [
        *map(str, range(10)),
        *("action-0", "action-0#choice"),
        *("action-1", "action-1#sentence", "action-1#choice"),
    ]
    assert {record.source for record in records} == {"msvd", "tgif"}
    assert records[0].video == folder / "msvd" / "vid1.avi"
    assert records[13].turns[0].answer == "He does b."
    assert report.kept == {"msvd": {"open": 10}, "tgif": {"open": 2, "multiple_choice": 2, "sentence": 1}}
    assert report.kinds == {"tgif": {"action": 5}}
    assert report.skipped == {"msvd": {Reason.MISSING_VIDEO: 1}, "tgif": {Reason.NOT_REPHRASED: 1}}


@pytest.mark.parametrize(("weight", "total"), [("1.0", 10), ("2", 20), ("2.5", 25), ("0.3", 3), ("1.25", 12)])
def test_weights(folder: Path, weight: str, total: int) -> None:
    records = read_mixture(mix(folder, weight), seed=1).records
    counts = Counter(record.id for record in records if record.source == "msvd")
    assert counts.total() == total
    assert max(counts.values()) - min(counts[str(n)] for n in range(10)) <= 1
    assert sum(record.source == "tgif" for record in records) == 5


def test_a_part_is_chosen_by_the_seed(folder: Path) -> None:
    path = mix(folder, "0.5")
    chosen = [[record.id for record in read_mixture(path, seed=seed).records] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    first, again, other = (read_mixture(path, seed=seed).records.fingerprint for seed in (0, 0, 1))
    assert first == again != other


def test_limit(folder: Path) -> None:
    mixture = read_mixture(mix(folder, limit="limit = 4"))
    assert sum(record.source == "msvd" for record in mixture.records) == 4
    assert "msvd" not in mixture.report.skipped  # nothing is read behind the last one that is used


def test_missing_videos_are_not_looked_for_unless_asked(folder: Path) -> None:
    mixture = read_mixture(mix(folder), check_media=False)
    assert mixture.report.kept["msvd"]["open"] == 11


def test_a_file_of_our_own_is_a_mixture(put: Callable[..., Path]) -> None:
    folder = put("a.mp4")
    talk = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    lines = [{"id": n, "video": "a.mp4", "conversations": talk} for n in range(3)]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    records = read_records(folder / "own.jsonl")
    mixed = read_mixture(folder / "own.jsonl").records
    assert [(record.id, record.turns, record.video) for record in mixed] == [
        (record.id, record.turns, record.video) for record in records
    ]
    assert mixed[0].source == "own"


def test_half_a_character_is_skipped(put: Callable[..., Path]) -> None:
    folder = put("a.mp4")
    lines = []
    for number, answer in enumerate(("whole", "\ud800")):
        talk = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": answer}]
        lines.append(json.dumps({"id": number, "video": "a.mp4", "conversations": talk}))
    (folder / "own.jsonl").write_text("\n".join(lines))
    mixture = read_mixture(folder / "own.jsonl")
    assert [record.id for record in mixture.records] == ["0"]
    assert mixture.report.skipped == {"own": {Reason.MALFORMED: 1}}


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("{}\n{\n")
    with pytest.raises(UserError, match=r"no records \(2 x malformed entry\)"):
        read_mixture(tmp_path / "own.jsonl")
    empty = read_mixture(tmp_path / "own.jsonl", may_be_empty=True)
    assert len(empty.records) == 0 and empty.report.num_skipped == 2


def test_progress(folder: Path) -> None:
    told = []
    read_mixture(mix(folder), progress=lambda name, count: told.append((name, count)))
    assert told == [("msvd", 0), ("tgif", 0)]
