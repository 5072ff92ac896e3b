"""`blip3v generate` from the command line to printed text, and its one-line errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from blip3v import Blip3VideoForConditionalGeneration, Blip3VideoProcessor, blip3_video_tiny
from blip3v.cli.main import main
from blip3v.data.conversation import SYSTEM_PROMPT
from blip3v.inference.generate import answer
from blip3v.models.tokenizer import word_tokenizer

QUESTION = "what happens in the video ?"


@pytest.fixture(scope="module")
def pair():
    tokenizer = word_tokenizer([SYSTEM_PROMPT, QUESTION, "which colour is it red blue green"])
    torch.manual_seed(0)
    config = blip3_video_tiny(vocab_size=len(tokenizer) - 3)
    model = Blip3VideoForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Words only: random weights may as well say nothing but special tokens.
        model.lang_model.lm_head.bias[: tokenizer.convert_tokens_to_ids("<pad>") + 1] = -1e4
        model.lang_model.additional_fc.bias.fill_(-1e4)
    return model, Blip3VideoProcessor.from_config(config, tokenizer)


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    for part in pair:
        part.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("clip")
    generator = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path / f"{index}.png")
    return str(path)


def test_prints_the_answer(pair, folder, clip, capsys):
    assert (
        main(["generate", clip, QUESTION, "--model", folder, "--max-new-tokens", "6", "--device", "cpu"]) == 0
    )
    expected = answer(*pair, clip, QUESTION, max_new_tokens=6)
    assert expected
    assert capsys.readouterr().out.strip() == expected


def test_several_questions_as_json_lines(pair, folder, clip, capsys):
    questions = [QUESTION, "which colour is it ?"]
    arguments = ["generate", clip, *questions, "--model", folder, "--max-new-tokens", "4", "--json"]
    assert main([*arguments, "--device", "cpu", "--frames", "3"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in rows] == questions
    assert {row["video"] for row in rows} == {clip}
    expected = [answer(*pair, clip, q, max_new_tokens=4, num_frames=3) for q in questions]
    assert [row["answer"] for row in rows] == expected


def refusal(capsys, *arguments: str) -> str:
    assert main(["generate", *arguments]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("blip3v: error: ") and printed.err.count("\n") == 1
    return printed.err


def test_refusals_are_one_line_and_exit_code_2(folder, clip, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 1000)
    model = ["--model", folder]
    assert "no such model folder" in refusal(capsys, clip, QUESTION, "--model", str(tmp_path / "none"))
    assert "no such video" in refusal(capsys, str(tmp_path / "none.mp4"), QUESTION, *model)
    assert "broken.mp4" in refusal(capsys, str(broken), QUESTION, *model)
    assert "question is empty" in refusal(capsys, clip, " ", *model)
    assert "no question" in refusal(capsys, clip, *model)
    assert "no such device" in refusal(capsys, clip, QUESTION, *model, "--device", "toaster")
    assert "--frames" in refusal(capsys, clip, QUESTION, *model, "--frames", "0")
