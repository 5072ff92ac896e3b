"""From files in every published annotation format to a trained checkpoint that answers a question."""

from __future__ import annotations

import csv
import gzip
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from blip3v.cli.data import data
from blip3v.cli.main import main
from blip3v.data.conversation import format_prompt
from blip3v.data.mixture import read_mixture
from blip3v.data.readers import FORMATS
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer
from blip3v.train.metrics import read_log

CODECS = {".mp4": ("libx264", "yuv420p"), ".avi": ("mpeg4", "yuv420p"), ".gif": ("gif", "rgb8")}
TALK = [{"from": "human", "value": "<video>\nwhat moves ?"}, {"from": "gpt", "value": "a red cat"}]
MIXTURE = """
[[source]]
format = "records"
annotations = "own.jsonl"

[[source]]
format = "llava_hound"
annotations = "captions.jsonl"
media = "frames"

[[source]]
format = "video_instruct"
annotations = "VideoInstruct100K.json"
media = "videos"

[[source]]
format = "msvd"
annotations = "msvd_qa.json"
media = "videos"
weight = 1.5

[[source]]
format = "msrvtt"
annotations = "msrvtt_qa.json"
media = "videos"
forms = ["sentence"]
rephrased = "sentences.jsonl"

[[source]]
format = "activitynet"
annotations = "train_q.json"
media = "videos"

[[source]]
format = "tgif"
annotations = "Train_action_question.csv"
media = "videos"
forms = ["open", "sentence", "multiple_choice"]
rephrased = "sentences.jsonl"

[[source]]
format = "nextqa"
annotations = "next.csv"
media = "videos"
forms = ["open", "multiple_choice"]

[[source]]
format = "mira"
annotations = "mira.csv"
media = "videos"
"""


def video(path: Path) -> None:
    codec, pixels = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 12 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())


def table(path: Path, delimiter: str, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mix.toml with a source of every format, each with one entry whose video is missing."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "videos").mkdir()
    for name in ("v_a.mp4", "vid1.avi", "video1.mp4", "x.gif", "11.mp4", "abc.mp4"):
        video(folder / "videos" / name)
    (folder / "packed" / "clip").mkdir(parents=True)
    for number in range(6):
        image = Image.new("RGB", (64, 48), (40 * number, 0, 0))
        image.save(folder / "packed" / "clip" / f"c01_{number:04d}.jpeg")
    with tarfile.open(folder / "chunk.tar", "w") as tar:
        tar.add(folder / "packed" / "clip", "clip")
    (folder / "chunk.tar.gz").write_bytes(gzip.compress((folder / "chunk.tar").read_bytes()))

    def lines(name: str, *entries: dict[str, Any]) -> None:
        (folder / name).write_text("\n".join(map(json.dumps, entries)))

    def array(name: str, *entries: dict[str, Any]) -> None:
        (folder / name).write_text(json.dumps(entries))

    lines(
        "own.jsonl", *({"id": v, "video": f"videos/{v}.mp4", "conversations": TALK} for v in ("v_a", "gone"))
    )
    lines("captions.jsonl", *({"id": v, "video": v, "conversations": TALK} for v in ("clip", "gone")))
    array("VideoInstruct100K.json", *({"q": "who ?", "a": "a cat", "video_id": v} for v in ("v_a", "gone")))
    for name in ("msvd", "msrvtt"):
        qa = {"answer": "cat", "question": "who ?"}
        array(f"{name}_qa.json", *(qa | {"id": n, "video_id": n} for n in (1, 2)))
    array("train_q.json", *({"video_name": v, "question": "who ?", "question_id": v} for v in ("a", "gone")))
    array("train_a.json", *({"answer": "cat", "type": 5, "question_id": v} for v in ("a", "gone")))
    lines(
        "sentences.jsonl",
        {"id": "1", "source": "msrvtt", "answer": "it is a cat"},
        {"id": "action-0", "source": "tgif", "answer": "the cat moves"},
    )
    options = {"answer": "1", "vid_id": "I"} | {f"a{n}": word for n, word in enumerate("abcde", 1)}
    columns = ("gif_name", "question", "a1", "a2", "a3", "a4", "a5", "answer", "vid_id", "key")
    rows = [options | {"gif_name": v, "question": "what ?", "key": k} for k, v in enumerate(("x", "gone"))]
    table(folder / "Train_action_question.csv", "\t", [{key: row[key] for key in columns} for row in rows])
    options = {"answer": "1", "qid": "6", "type": "CW"} | {f"a{n}": word for n, word in enumerate("abcde")}
    table(folder / "next.csv", ",", [{"video": v, "question": "why ?"} | options for v in ("11", "12")])
    clock = {"timestamp": "['0:00:00.5', '0:00:01.5']", "dense_caption": "a cat moves"}
    table(folder / "mira.csv", ",", [{"clip_id": f"{v}.0", "video_id": v} | clock for v in ("abc", "gone")])
    (folder / "mix.toml").write_text(MIXTURE)

    words = [
        format_prompt("what moves ?"),
        "a red cat who ? it is the why b c d e A. B. C. D. E. Only give best",
    ]
    tokenizer = word_tokenizer(words)
    config = blip3_video_tiny(tokens=4, frames=4, num_latents=4, image_size=16, vocab_size=len(tokenizer) - 3)
    config.save_pretrained(folder / "fresh")
    Blip3VideoProcessor.from_config(config, tokenizer).save_pretrained(folder / "fresh")
    return folder


def test_every_format_from_its_file_to_an_answer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(["unpack", str(folder / "chunk.tar.gz"), "--out", str(folder / "frames")])
    data(["check", str(folder / "mix.toml"), "--decode", "100", "--json", str(tmp_path / "check.json")])
    checked = json.loads((tmp_path / "check.json").read_text())
    assert set(checked["sources"]) == set(FORMATS)
    for source in checked["sources"].values():
        assert source["skipped"]["missing video"]["count"] == 1
    assert (checked["kept"], checked["records"], checked["decoded"], checked["broken"]) == (12, 12, 7, [])

    options = {
        "data": folder / "mix.toml", "model": folder / "fresh", "out": tmp_path / "out", "num_frames": 4,
        "video_tokens": 4, "max_steps": 6, "batch_size": 4, "warmup_steps": 1, "learning_rate": 0.01,
        "log_every": 1, "workers": 1,
    }  # fmt: skip
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["train", "instruction-tuning", *flags]) == 0
    losses = [line["loss"] for line in read_log(tmp_path / "out" / "log.jsonl")]
    assert len(losses) == 6 and sum(losses[3:]) < sum(losses[:3])  # two passes over 12 records

    capsys.readouterr()
    clip = next(
        record.video for record in read_mixture(folder / "mix.toml").records if record.source == "tgif"
    )
    assert main(["generate", str(clip), "what moves ?", "--model", str(tmp_path / "out" / "model")]) == 0
    assert capsys.readouterr().out.strip()
