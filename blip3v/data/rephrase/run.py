"""Many requests at once, each reply kept at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from blip3v.data.rephrase.cache import Reply, ReplyCache, key_of
from blip3v.data.rephrase.endpoint import NoReplyError, UnreachableError
from blip3v.data.rephrase.jobs import Failure, Job
from blip3v.data.rephrase.prompts import Messages, Task, asked_again, messages_for
from blip3v.data.rephrase.replies import cleaned, problem_of
from blip3v.errors import UserError

OUT_OF_HOPE = 3
"""Times the number of parallel requests that may fail in a row before a run ends."""


class Asker(Protocol):
    """What is asked; `Endpoint` is one."""

    model: str
    parameters: dict[str, Any]

    async def ask(self, messages: Messages) -> Reply: ...


@dataclass
class Outcome:
    """answers: by the number of the job. asked, tokens_*: of this run's requests alone."""

    answers: dict[int, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    asked: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Rephrasing:
    """Rephrases jobs through an endpoint and a cache.

    A reply with a problem is sent back once, with the problem; if the second has one too, the job is kept out
    and listed. Jobs without any reply are listed too, and asked again by the next run.

    Args:
        parallel: requests in flight at most.
        on_progress: called with the number of jobs that are done.
    """

    def __init__(
        self,
        task: Task,
        asker: Asker,
        cache: ReplyCache,
        parallel: int = 16,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.task, self.asker, self.cache = task, asker, cache
        self.parallel, self.on_progress = parallel, on_progress

    def is_known(self, job: Job) -> bool:
        """Whether an earlier run has a reply, good or bad."""
        return self._key(messages_for(self.task, job.question, job.answer)) in self.cache

    async def run(self, jobs: Sequence[Job]) -> Outcome:
        """
        Raises:
            UserError: the endpoint takes nothing, or stopped answering.
        """
        self.outcome, self._failed_in_a_row = Outcome(), 0
        todo = iter(enumerate(jobs))
        # The first goes alone: a wrong address or key is found with one request.
        await self._work(iter([next(todo)]), first=True)
        tasks = [asyncio.ensure_future(self._work(todo)) for _ in range(self.parallel)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.outcome

    async def _work(self, jobs: Iterator[tuple[int, Job]], first: bool = False) -> None:
        """One after the other; `jobs` is shared with others who do the same."""
        for number, job in jobs:
            try:
                answer = await self._rephrased(job)
                if isinstance(answer, Failure):
                    self.outcome.failures.append(answer)
                else:
                    self.outcome.answers[number] = answer
            except NoReplyError as error:
                self.outcome.failures.append(Failure(job, f"no reply: {error}"))
                self._failed_in_a_row += 1
                hopeless = self._failed_in_a_row >= OUT_OF_HOPE * self.parallel
                if hopeless or (first and isinstance(error, UnreachableError)):
                    raise UserError(
                        f"the endpoint does not answer ({error}); what it answered before is kept, start "
                        "again to go on"
                    ) from None
            self.on_progress(1)

    async def _rephrased(self, job: Job) -> str | Failure:
        messages = messages_for(self.task, job.question, job.answer)
        text, problem = await self._attempt(job, messages)
        if problem is not None:
            text, problem = await self._attempt(job, asked_again(messages, text, problem))
        return text if problem is None else Failure(job, problem, text)

    async def _attempt(self, job: Job, messages: Messages) -> tuple[str, str | None]:
        reply = await self._reply(messages)
        text = cleaned(reply.text)
        return text, problem_of(self.task, job.question, job.answer, text, reply.cut)

    async def _reply(self, messages: Messages) -> Reply:
        key = self._key(messages)
        known = self.cache.get(key)
        if known is not None:
            return known
        reply = await self.asker.ask(messages)
        self.cache.put(key, reply)
        self._failed_in_a_row = 0
        self.outcome.asked += 1
        self.outcome.tokens_in += reply.tokens_in
        self.outcome.tokens_out += reply.tokens_out
        return reply

    def _key(self, messages: Messages) -> str:
        return key_of(self.asker.model, self.asker.parameters, messages)
