from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blip3v.cli.data import data
from blip3v.data.forms import read_answers
from blip3v.data.mixture import read_mixture
from blip3v.errors import UserError
from tests.data.rephrase.chat_server import Server, given, running_server, sentence, write_annotations

KEY = "sk-secret-of-the-test"


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("openai", reason="the extra `rephrase`")
    with running_server() as server:
        yield server


def _arguments(source: Path, url: str, *options: str) -> list[str]:
    out = source.with_name("out.jsonl")
    return ["rephrase", str(source), str(out), "--endpoint", url, "--model", "m", *options]


def test_without_leave_the_estimate_is_printed_and_nothing_sent(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match="add --yes"):
        data(_arguments(write_annotations(tmp_path, 100), server.url, "--price-in", "1", "--price-out", "4"))
    assert server.requests == []
    out = capsys.readouterr().out
    assert "100 requests (0 answers are there already)" in out
    tokens_in, cost = (
        float(out.split(mark)[0].split()[-1].replace(",", "")) for mark in (" tokens in", " at 1")
    )
    # The prompt has about 100 tokens.
    assert 8000 < tokens_in < 16000
    assert tokens_in / 1e6 < cost < 3 * tokens_in / 1e6


def test_answers_are_what_the_form_sentence_reads(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    source = write_annotations(tmp_path, 12)
    server.answer = lambda request: "" if given(request)["answer"] == "thing 3" else sentence(request)
    data(_arguments(source, server.url, "--yes", "--key-variable", "TEST_KEY"))
    answers = read_answers(source.with_name("out.jsonl"))
    assert answers == {("set", f"r{n}"): f"In the video it is thing {n}." for n in range(12) if n != 3}
    (failed,) = map(json.loads, source.with_name("out.jsonl.failed.jsonl").read_text().splitlines())
    assert (failed["id"], failed["problem"], failed["answer"]) == ("r3", "the reply is empty", "thing 3")
    captured = capsys.readouterr()
    assert "11 of 12 answers" in captured.out and "1 kept out: the reply is empty" in captured.out
    assert server.keys == {f"Bearer {KEY}"}
    written = [path.read_text() for path in source.parent.iterdir() if path.is_file()]
    assert all(KEY not in text for text in [*written, captured.out, captured.err])


def test_a_mixture_takes_the_sentences(server: Server, tmp_path: Path) -> None:
    server.answer = lambda request: "Sorry." if given(request)["answer"] == "thing 1" else sentence(request)
    data(_arguments(write_annotations(tmp_path, 3), server.url, "--yes"))
    (tmp_path / "mix.toml").write_text(
        """[[source]]
        format = "records"
        annotations = "in.jsonl"
        forms = ["open", "sentence"]
        rephrased = "out.jsonl"
        """
    )
    mixture = read_mixture(tmp_path / "mix.toml", check_media=False)
    answers = sorted(record.turns[0].answer for record in mixture.records)
    sentences = [f"In the video it is thing {n}." for n in (0, 2)]
    assert answers == sorted([*sentences, "thing 0", "thing 1", "thing 2"])
    assert mixture.report.num_skipped == 1  # the one that was kept out


def test_a_trial_of_a_few_records(server: Server, tmp_path: Path) -> None:
    data(_arguments(write_annotations(tmp_path, 12), server.url, "--yes", "--limit", "2"))
    assert len(server.requests) == 2


def test_a_killed_run_goes_on_and_pays_for_nothing_twice(server: Server, tmp_path: Path) -> None:
    server.delay = 0.05
    source = write_annotations(tmp_path, 60)
    arguments = _arguments(source, server.url, "--yes", "--parallel", "4")
    program = "import sys; from blip3v.cli.data import data; data(sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cache = source.with_name("out.jsonl.cache.jsonl")
    until = time.monotonic() + 60
    while time.monotonic() < until and not (cache.exists() and cache.read_bytes().count(b"\n") >= 15):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = cache.read_bytes().count(b"\n")
    assert 15 <= kept < 60
    assert not source.with_name("out.jsonl").exists()
    time.sleep(0.2)  # requests that were on their way
    asked = len(server.requests)
    data(arguments)
    assert len(server.requests) - asked == 60 - kept
    assert len(read_answers(source.with_name("out.jsonl"))) == 60


@pytest.mark.parametrize(
    "option", [["--parallel", "0"], ["--parameters", "[1]"], ["--parameters", '{"model": "x"}']]
)
def test_options_that_cannot_work(tmp_path: Path, option: list[str]) -> None:
    pytest.importorskip("openai")
    with pytest.raises(UserError, match=option[0]):
        data(_arguments(write_annotations(tmp_path, 1), "http://127.0.0.1:9/v1", *option))
