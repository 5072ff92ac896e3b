"""`blip3v stream` from the command line to printed lines: times, pipes, pace, Ctrl-C, refusals."""

from __future__ import annotations

import json
import os
import time

import av
import numpy as np
import pytest
import torch

from blip3v import Blip3VideoForConditionalGeneration, Blip3VideoProcessor, blip3_video_tiny
from blip3v.cli.main import main
from blip3v.data.conversation import SYSTEM_PROMPT
from blip3v.inference.generate import answer
from blip3v.models.tokenizer import word_tokenizer
from blip3v.video.stream import VideoStream

QUESTION, OTHER = "what happens in the video ?", "which colour is it ?"
RATE, COUNT = 8, 20


@pytest.fixture(scope="module")
def pair():
    tokenizer = word_tokenizer([SYSTEM_PROMPT, QUESTION, "which colour is it red blue green"])
    torch.manual_seed(0)
    config = blip3_video_tiny(vocab_size=len(tokenizer) - 3)
    model = Blip3VideoForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.lang_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
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
    """2.5 s of noise, 8 frames per second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(COUNT):
            image = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def expected(pair, clip: str, fps: float, until: float, question: str = QUESTION) -> str:
    frames = [frame.image for frame in VideoStream(clip).frames(fps) if frame.time < until]
    return answer(*pair, np.stack(frames), question, max_new_tokens=4, num_frames=len(frames))


def arguments(source: str, folder: str, *others: str) -> list[str]:
    return [
        "stream",
        source,
        QUESTION,
        "--model",
        folder,
        "--max-new-tokens",
        "4",
        "--device",
        "cpu",
        *others,
    ]


def test_answers_while_the_video_runs(pair, folder, clip, capsys):
    """4 frames, the model's number, between answers a second apart."""
    assert main(arguments(clip, folder, "--every", "1s")) == 0
    printed = capsys.readouterr()
    answers = [expected(pair, clip, 4, until) for until in (1, 2, 9)]
    assert len(set(answers)) == 3
    assert printed.out.splitlines() == [
        f"     1.0 s  {answers[0]}",
        f"     2.0 s  {answers[1]}",
        f"     2.2 s  {answers[2]}",
    ]
    assert printed.err == "blip3v: 10 frames seen, 3 answers\n"


def test_json_lines_for_several_questions_at_another_rate(pair, folder, clip, capsys):
    options = ("--every", "1500ms", "--fps", "8", "--json")
    line = arguments(clip, folder, *options)
    line.insert(3, OTHER)
    assert main(line) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["time"], row["frames"]) for row in rows] == [(1.5, 12)] * 2 + [(2.375, 20)] * 2
    assert [row["question"] for row in rows] == [QUESTION, OTHER] * 2
    moments = [(1.5, QUESTION), (1.5, OTHER), (9, QUESTION), (9, OTHER)]
    assert [row["answer"] for row in rows] == [expected(pair, clip, 8, *moment) for moment in moments]


def test_a_window_and_held_time_stamps_reach_the_encoder(pair, folder, clip, capsys, monkeypatch):
    seen = []
    from blip3v.inference.streaming import StreamingVideoEncoder as Real

    def spy(*args, **settings):
        seen.append(settings)
        return Real(*args, **settings)

    monkeypatch.setattr("blip3v.inference.streaming.StreamingVideoEncoder", spy)
    assert main(arguments(clip, folder, "--window", "3")) == 0
    assert main(arguments(clip, folder, "--hold-time", "7")) == 0
    assert seen == [{"window": 3, "hold_time": None}, {"window": None, "hold_time": 7}]
    assert main(arguments(clip, folder, "--window", "3", "--hold-time", "7")) == 2
    assert "not both" in capsys.readouterr().err


def test_standard_input(pair, folder, clip, capsys):
    before = os.dup(0)
    try:
        with open(clip, "rb") as file:
            os.dup2(file.fileno(), 0)
            assert main(arguments("-", folder, "--every", "5s", "--fps", "4")) == 0
    finally:
        os.dup2(before, 0)
        os.close(before)
    assert capsys.readouterr().out == f"     2.2 s  {expected(pair, clip, 4, 9)}\n"


def test_real_time_takes_its_time(folder, clip, capsys):
    """The last frame is due after 2.25 s."""
    begin = time.monotonic()
    assert main(arguments(clip, folder, "--realtime", "--every", "1s", "--json")) == 0
    assert time.monotonic() - begin > 2.25
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["time"] for row in rows] == [1.0, 2.0, 2.25]
    assert printed.err.endswith(" dropped, 3 answers\n")


@pytest.mark.parametrize("options", [(), ("--realtime",)])
def test_ctrl_c_ends_with_the_summary(folder, clip, capsys, monkeypatch, options):
    from blip3v.inference.streaming import StreamingVideoEncoder

    original = StreamingVideoEncoder.push

    def push(self, frames):
        if self.frames >= 8:
            raise KeyboardInterrupt
        original(self, frames)

    monkeypatch.setattr(StreamingVideoEncoder, "push", push)
    assert main(arguments(clip, folder, "--every", "1s", *options)) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2  # 8 frames, of which 4 and 8 were answered about
    assert "8 frames seen" in printed.err and printed.err.endswith("2 answers\n")


def refusal(capsys, *line: str) -> str:
    assert main(["stream", *line]) == 2
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
    assert "no such camera" in refusal(capsys, "/dev/video97", QUESTION, *model)
    assert "broken.mp4" in refusal(capsys, str(broken), QUESTION, *model)
    assert "question is empty" in refusal(capsys, clip, " ", *model)
    assert "no question" in refusal(capsys, clip, *model)
    assert "no such device" in refusal(capsys, clip, QUESTION, *model, "--device", "toaster")
    assert "--fps must be above 0" in refusal(capsys, clip, QUESTION, *model, "--fps", "0")
    assert "--every must be a time" in refusal(capsys, clip, QUESTION, *model, "--every", "soon")
    assert "window must be at least 1" in refusal(capsys, clip, QUESTION, *model, "--window", "0")
    assert "max_new_tokens" in refusal(capsys, clip, QUESTION, *model, "--max-new-tokens", "0")


def test_a_model_that_cannot_stream_says_which_can(pair, clip, tmp_path, capsys):
    config = blip3_video_tiny("token_learner", vocab_size=pair[0].config.base_vocab_size)
    Blip3VideoForConditionalGeneration(config).save_pretrained(tmp_path)
    Blip3VideoProcessor.from_config(config, pair[1].tokenizer).save_pretrained(tmp_path)
    assert "grouped_ttm" in refusal(capsys, clip, QUESTION, "--model", str(tmp_path))
    assert main(arguments(clip, str(tmp_path), "--window", "4")) == 0


def test_a_video_that_breaks_off_keeps_what_was_said(folder, clip, capsys, monkeypatch):
    from blip3v.errors import UserError

    original = VideoStream._sample

    def sample(self, fps):
        for number, frame in enumerate(original(self, fps)):
            if number == 6:
                raise UserError("the cable is out")
            yield frame

    monkeypatch.setattr(VideoStream, "_sample", sample)
    assert main(arguments(clip, folder, "--every", "1s")) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert printed.err.endswith("blip3v: error: the cable is out\n")
