from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip3v.cli.main import main
from blip3v.cli.train import Overrides
from blip3v.data.conversation import Turn, format_prompt
from blip3v.data.records import Record, write_records
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer
from blip3v.train.metrics import read_log
from blip3v.train.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.jsonl with two images, and `fresh`: a config and a processor without weights."""
    folder = tmp_path_factory.mktemp("train")
    records = []
    for index, colour in enumerate(["red", "blue"]):
        pixels = np.zeros((8, 8, 3), dtype=np.uint8)
        pixels[..., 2 * index] = 255
        Image.fromarray(pixels).save(folder / f"{colour}.png")
        records.append(Record(colour, (Turn("colour ?", colour),), image=folder / f"{colour}.png"))
    write_records(folder / "data.jsonl", records)
    tokenizer = word_tokenizer([format_prompt("colour ?"), "red blue"])
    config = blip3_video_tiny(tokens=4, num_latents=4, image_size=16, vocab_size=len(tokenizer) - 3)
    config.save_pretrained(folder / "fresh")
    Blip3VideoProcessor.from_config(config, tokenizer).save_pretrained(folder / "fresh")
    return folder


def _arguments(folder: Path, out: Path, **options: Any) -> list[str]:
    options = {
        "data": folder / "data.jsonl", "model": folder / "fresh", "out": out, "video_tokens": 4,
        "max_steps": 3, "batch_size": 2, "warmup_steps": 1, "learning_rate": 0.01, "log_every": 1,
    } | options  # fmt: skip
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["train", "image-captions", *flags]


def test_trains_exports_resumes_and_trains_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(_arguments(folder, tmp_path / "out")) == 0
    assert "image-captions: 3 steps, loss" in capsys.readouterr().out
    assert [line["step"] for line in read_log(tmp_path / "out" / "log.jsonl")] == [1, 2, 3]
    assert (tmp_path / "out" / "log.svg").is_file()
    state = json.loads((tmp_path / "out/checkpoints/step-00000003/state.json").read_text())
    assert (state["recipe"]["learning_rate"], state["recipe"]["seed"]) == (0.01, 42)
    Blip3VideoForConditionalGeneration.from_pretrained(tmp_path / "out" / "model")

    assert main([*_arguments(folder, tmp_path / "out"), "--resume"]) == 0  # done already
    assert main(_arguments(folder, tmp_path / "next", model=tmp_path / "out" / "model")) == 0
    first, second = (read_log(tmp_path / name / "log.jsonl") for name in ("out", "next"))
    assert second[0]["loss"] < first[0]["loss"]  # it began where the other ended


def test_errors_are_one_line_and_exit_code_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = ["train", "nope", *_arguments(folder, tmp_path)[2:]]
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text("{}\n")
    cases = [
        (unknown, "no recipe 'nope': choose one of image-captions, video-captions"),
        (_arguments(folder, tmp_path, data=tmp_path / "no.jsonl"), "no such file"),
        (_arguments(folder, tmp_path, data=tmp_path / "bad.jsonl"), "gives no records (1 x malformed entry)"),
        (_arguments(folder, tmp_path, model=tmp_path / "empty"), "no config.json in"),
        (_arguments(folder, tmp_path, video_tokens=32), "pass --video-tokens 4"),
        (_arguments(folder, tmp_path, batch_size=0), "batch_size cannot be 0"),
        ([*_arguments(folder, tmp_path), "--frozen", "eyes"], "cannot freeze 'eyes'"),
    ]
    for arguments, message in cases:
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("blip3v: error: ")
        assert message in error


def test_every_field_of_a_recipe_is_an_option() -> None:
    names = [field.name for field in fields(Recipe)]
    assert ["name", *asdict(Overrides())] == names
    assert set(asdict(Overrides()).values()) == {None}
