"""What a run will cost, told before its first request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blip3v.data.rephrase.jobs import Job
from blip3v.data.rephrase.prompts import Task, messages_for

CHARACTERS_PER_TOKEN = 4
"""Of English, about; a reply's own count is reported at the end."""
TOKENS_PER_MESSAGE = 4
WORDS_AROUND = 12
"""What a sentence adds to a short answer, about."""


@dataclass(frozen=True)
class Estimate:
    """requests: still to be made; known: replies that an earlier run has paid for."""

    requests: int
    known: int
    tokens_in: int
    tokens_out: int

    def cost(self, price_in: float, price_out: float) -> float:
        """Prices are per million tokens, in any currency."""
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6

    def text(self, price_in: float | None, price_out: float | None) -> str:
        lines = (
            f"{self.requests:,} requests ({self.known:,} answers are there already), about "
            f"{self.tokens_in:,} tokens in and {self.tokens_out:,} out"
        )
        if price_in is None or price_out is None:
            return f"{lines}; cost unknown: give --price-in and --price-out per million tokens"
        return f"{lines}, {self.cost(price_in, price_out):,.2f} at {price_in:g} and {price_out:g} per million"


def estimate(task: Task, pending: Iterable[Job], known: int) -> Estimate:
    """Counted in characters; a second attempt after a bad reply is not foreseen."""
    requests, tokens_in, tokens_out = 0, 0, 0
    for job in pending:
        messages = messages_for(task, job.question, job.answer)
        requests += 1
        tokens_in += sum(_tokens(message["content"]) + TOKENS_PER_MESSAGE for message in messages)
        around = WORDS_AROUND if task == "sentence" else 0
        tokens_out += _tokens(job.answer) + around
    return Estimate(requests, known, tokens_in, tokens_out)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
