"""`blip3v data rephrase IN OUT`: answers in other words, through any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from blip3v.cli.progress import bar
from blip3v.errors import UserError

if TYPE_CHECKING:
    from blip3v.data.rephrase.jobs import Job
    from blip3v.data.rephrase.run import Outcome


def rephrase(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN.jsonl")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.jsonl")],
    endpoint: str,
    model: str,
    task: Literal["sentence", "caption"] = "sentence",
    parallel: int = 16,
    limit: int | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    yes: bool = False,
    key_variable: str = "OPENAI_API_KEY",
    parameters: str = '{"temperature": 0, "max_tokens": 400}',
    timeout: float = 120.0,
    retries: int = 8,
    cache: Path | None = None,
) -> None:
    """Rewrite short answers as sentences, or captions, with a language model; a killed run goes on.

    Args:
        source: records in our own format; `blip3v data convert` writes them.
        out: lines {"id", "source", "answer"} for the form `sentence` of a mixture; beside it, what failed.
        endpoint: address of an OpenAI-compatible server, mostly ending in /v1.
        model: its name there.
        parallel: requests in flight at most.
        limit: only the first so many records.
        price_in: of a million tokens sent, for the estimate; price_out: of a million received.
        yes: do not ask whether the estimate is fine.
        key_variable: the variable of the environment that holds the key; without it, none is sent.
        parameters: further fields of a request, as JSON.
        timeout: seconds for a request.
        retries: of a request, after 429, 5xx and time-outs.
        cache: every reply, kept at once; OUT.cache.jsonl if not given.
    """
    from rich.console import Console

    from blip3v.data.rephrase.cache import ReplyCache
    from blip3v.data.rephrase.endpoint import Endpoint
    from blip3v.data.rephrase.estimate import estimate
    from blip3v.data.rephrase.jobs import read_jobs, write_answers, write_failures
    from blip3v.data.rephrase.run import Rephrasing

    if parallel < 1 or retries < 0 or timeout <= 0:
        raise UserError("use --parallel 1 or more, --retries 0 or more and a --timeout above 0")
    fields = _fields(parameters)
    jobs, left_out = read_jobs(source, limit)
    for reason, count in left_out.items():
        print(f"{count:,} records left out: {reason}")
    asker = Endpoint(endpoint, model, os.environ.get(key_variable) or None, fields, timeout, retries)
    with ReplyCache(cache or out.with_name(f"{out.name}.cache.jsonl")) as replies:
        rephrasing = Rephrasing(task, asker, replies, parallel)
        pending = [job for job in jobs if not rephrasing.is_known(job)]
        expected = estimate(task, pending, len(jobs) - len(pending))
        print(expected.text(price_in, price_out), flush=True)
        if pending and not yes:
            _ask_leave()

        async def all_of_them() -> Outcome:
            async with asker:
                return await rephrasing.run(jobs)

        with bar(Console(stderr=True), "rephrasing", len(jobs)) as rephrasing.on_progress:
            outcome = asyncio.run(all_of_them())
    write_answers(out, ((jobs[number], outcome.answers[number]) for number in sorted(outcome.answers)))
    failed = out.with_name(f"{out.name}.failed.jsonl")
    write_failures(failed, outcome.failures)
    _summarise(outcome, jobs, out, failed)


def _fields(parameters: str) -> dict[str, Any]:
    try:
        fields = json.loads(parameters)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or {"model", "messages", "stream"} & set(fields):
        raise UserError('--parameters must be a JSON object such as {"temperature": 0}')
    return fields


def _ask_leave() -> None:
    if not sys.stdin.isatty():
        raise UserError("nobody is here to agree to the estimate: add --yes to go on")
    if input("go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was sent; use --limit for a smaller trial")


def _summarise(outcome: Outcome, jobs: list[Job], out: Path, failed: Path) -> None:
    print(
        f"{len(outcome.answers):,} of {len(jobs):,} answers in {out}; {outcome.asked:,} requests, "
        f"{outcome.tokens_in:,} tokens in and {outcome.tokens_out:,} out by the endpoint's own count"
    )
    problems: dict[str, int] = {}
    for failure in outcome.failures:
        problem = failure.problem.split(":")[0].split(",")[0].split("(")[0].strip()
        problems[problem] = problems.get(problem, 0) + 1
    for problem, count in sorted(problems.items(), key=lambda entry: -entry[1]):
        print(f"  {count:,} kept out: {problem}")
    if problems:
        print(f"  all of them are listed in {failed}")
