"""From records to what is to be rephrased, and from answers to the file that the form `sentence` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from blip3v.data.media import MediaFolder
from blip3v.data.readers import records
from blip3v.data.skipping import Skipped
from blip3v.errors import UserError
from blip3v.files import written_aside


@dataclass(frozen=True)
class Job:
    """An answer to rephrase; source is None where the record names none."""

    id: str
    source: str | None
    question: str
    answer: str


@dataclass(frozen=True)
class Failure:
    """A job without a usable answer: what is wrong, and the last reply if there was one."""

    job: Job
    problem: str
    reply: str | None = None


def read_jobs(path: Path, limit: int | None = None) -> tuple[list[Job], dict[str, int]]:
    """The first `limit` records of a file in our own format, and how many were left out by reason.

    A record asked for twice (the same source and id) is asked for once; one with several turns is left out.

    Raises:
        UserError: no such file, or nothing in it to rephrase.
    """
    if not path.is_file():
        raise UserError(f"no such annotation file: {path}; `blip3v data convert` writes one")
    found: dict[tuple[str | None, str], Job] = {}
    left_out: dict[str, int] = {}
    for item in islice(records.read(path, MediaFolder(path.parent, False)), limit):
        if isinstance(item, Skipped):
            reason = item.reason.value
        elif len(item.turns) != 1:
            reason = "several turns"
        elif (item.source, item.id) in found:
            reason = "the same id again"
        else:
            found[item.source, item.id] = Job(item.id, item.source, *item.turns[0])
            continue
        left_out[reason] = left_out.get(reason, 0) + 1
    if not found:
        raise UserError(f"{path} has nothing to rephrase ({left_out or 'it is empty'}); check it first")
    return list(found.values()), left_out


def write_answers(path: Path, answers: Iterable[tuple[Job, str]]) -> None:
    """{"id", "source", "answer"} per line; a file that is seen is complete."""
    _write(path, ({"id": job.id, "source": job.source, "answer": answer} for job, answer in answers))


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """{"id", "source", "problem", "question", "answer", "reply"} per line."""
    _write(
        path,
        (
            {
                "id": failure.job.id, "source": failure.job.source, "problem": failure.problem,
                "question": failure.job.question, "answer": failure.job.answer, "reply": failure.reply,
            }
            for failure in failures
        ),
    )  # fmt: skip


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        for fields in lines:
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
