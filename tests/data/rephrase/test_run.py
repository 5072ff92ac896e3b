from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from blip3v.data.rephrase.cache import ReplyCache
from blip3v.data.rephrase.endpoint import Endpoint
from blip3v.data.rephrase.jobs import Job
from blip3v.data.rephrase.run import Outcome, Rephrasing
from blip3v.errors import UserError
from tests.data.rephrase.chat_server import Server, given, sentence

KEY = "sk-secret-of-the-test"
SOON = {"retry-after-ms": "5"}


def _jobs(count: int) -> list[Job]:
    return [Job(f"r{n}", "set", f"what is number {n} ?", f"thing {n}") for n in range(count)]


def _run(server: Server, folder: Path, jobs: list[Job], parallel: int = 4, **settings: Any) -> Outcome:
    async def run() -> Outcome:
        async with Endpoint(server.url, "m", KEY, {"temperature": 0}, **settings) as endpoint:
            with ReplyCache(folder / "cache.jsonl") as cache:
                return await Rephrasing("sentence", endpoint, cache, parallel).run(jobs)

    return asyncio.run(run())


def test_requests_run_side_by_side_and_answers_stay_with_their_questions(
    server: Server, tmp_path: Path
) -> None:
    server.delay = 0.05
    outcome = _run(server, tmp_path, _jobs(25), parallel=8)
    assert outcome.answers == {n: f"In the video it is thing {n}." for n in range(25)}
    assert 5 <= server.most <= 8
    assert (outcome.asked, outcome.tokens_in, outcome.tokens_out) == (25, 2500, 250)
    assert server.requests[0]["temperature"] == 0 and server.requests[0]["model"] == "m"


def test_nothing_is_asked_twice(server: Server, tmp_path: Path) -> None:
    _run(server, tmp_path, _jobs(6))
    outcome = _run(server, tmp_path, _jobs(9))
    assert (outcome.asked, len(outcome.answers)) == (3, 9)
    assert len(set(server.questions())) == len(server.requests) == 9


def test_the_key_is_sent_and_written_nowhere(server: Server, tmp_path: Path) -> None:
    server.answer = lambda request: (401, {}, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode())
    with pytest.raises(UserError, match=r"refuses the key .*bad key \*\*\*") as error:
        _run(server, tmp_path, _jobs(5))
    assert KEY not in str(error.value)
    assert len(server.requests) == 1  # one request, not five
    assert server.keys == {f"Bearer {KEY}"}
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    refused: set[str] = set()

    def answer(request: dict[str, Any]) -> Any:
        text = request["messages"][1]["content"]
        if text not in refused:
            refused.add(text)
            return status, SOON, b'{"error": {"message": "later"}}'
        return sentence(request)

    server.answer = answer
    outcome = _run(server, tmp_path, _jobs(5))
    assert len(outcome.answers) == 5 and not outcome.failures
    assert len(server.requests) == 10


@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": [1]}}]}', b"{}"]
)
def test_a_malformed_reply_is_asked_for_once_more_then_listed(
    server: Server, tmp_path: Path, body: bytes
) -> None:
    server.answer = lambda request: (
        (200, {}, body) if given(request)["answer"] == "thing 2" else sentence(request)
    )
    outcome = _run(server, tmp_path, _jobs(4))
    assert sorted(outcome.answers) == [0, 1, 3]
    (failure,) = outcome.failures
    assert failure.job.id == "r2" and "no chat completion" in failure.problem
    assert len(server.requests) == 5
    server.answer = sentence
    assert len(_run(server, tmp_path, _jobs(4)).answers) == 4  # a run later it is asked again


def test_a_bad_reply_is_sent_back_once(server: Server, tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> Any:
        wanted, first = given(request)["answer"], len(request["messages"]) == 2
        if wanted == "thing 1" and first:
            return "Something else."
        return "I'm sorry, I cannot help." if wanted == "thing 2" else sentence(request)

    server.answer = answer
    outcome = _run(server, tmp_path, _jobs(4))
    assert sorted(outcome.answers) == [0, 1, 3]
    (failure,) = outcome.failures
    assert (failure.job.id, failure.reply) == ("r2", "I'm sorry, I cannot help.")
    assert len(server.requests) == 6
    second = next(r for r in server.requests if len(r["messages"]) == 4 and given(r)["answer"] == "thing 1")
    assert "short answer is lost" in second["messages"][3]["content"]
    # Bad replies were paid for as well: nothing is asked by a second run.
    assert _run(server, tmp_path, _jobs(4)).asked == 0


def test_an_unknown_model_ends_the_run(server: Server, tmp_path: Path) -> None:
    server.answer = lambda request: (404, {}, b'{"error": {"message": "no model m"}}')
    with pytest.raises(UserError, match=r"no such model or path .*no model m"):
        _run(server, tmp_path, _jobs(5))
    assert len(server.requests) == 1


def test_nobody_at_the_address_ends_the_run(server: Server, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(UserError, match="does not answer"):
        _run(server, tmp_path, _jobs(5), retries=0)


def test_a_server_that_breaks_down_ends_the_run_and_keeps_what_it_said(
    server: Server, tmp_path: Path
) -> None:
    good = iter(range(5))  # not the number of requests: two may have arrived before one is answered

    def answer(request: dict[str, Any]) -> Any:
        if next(good, None) is not None:
            return sentence(request)
        time.sleep(0.05)  # so that six failures do not overtake a reply that is on its way
        return 500, {}, b"{}"

    server.answer = answer
    with pytest.raises(UserError, match="is kept, start again"):
        _run(server, tmp_path, _jobs(60), parallel=2, retries=0)
    assert len(server.requests) < 20
    with ReplyCache(tmp_path / "cache.jsonl") as cache:
        assert len(cache) == 5


def test_a_refused_request_is_listed_and_the_others_go_on(server: Server, tmp_path: Path) -> None:
    refusal = (400, {}, b'{"error": {"message": "content filter"}}')
    server.answer = lambda request: refusal if given(request)["answer"] == "thing 0" else sentence(request)
    outcome = _run(server, tmp_path, _jobs(4))
    assert sorted(outcome.answers) == [1, 2, 3]
    assert "content filter" in outcome.failures[0].problem
