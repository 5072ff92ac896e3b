"""What a data set leaves out, and why: counted, with the first examples of each, instead of a crash."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from blip3v.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLES = 3
"""Entries kept as examples for each source and reason."""


class Reason(str, Enum):
    """Why an entry is left out."""

    MALFORMED = "malformed entry"
    MISSING_VIDEO = "missing video"
    LEADS_OUT = "path leads out of the media folder"
    EMPTY_QUESTION = "empty question"
    EMPTY_ANSWER = "empty answer"
    BAD_INDEX = "answer index out of range"
    UNMATCHED = "question without answer, or answer without question"
    DUPLICATE = "duplicate id"
    BAD_SPAN = "no usable time span"
    TOO_LONG = "longer than allowed"
    NOT_REPHRASED = "no rephrased answer"


class BadEntry(UserError):
    """One entry that cannot be used; the rest of its file can."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Skipped:
    """An entry that was left out.

    Attributes:
        where: `file:line`, or the file and the number or id of the entry in it.
        detail: one sentence about this entry.
    """

    where: str
    reason: Reason
    detail: str


@dataclass
class SkipReport:
    """Counts of what was kept and what was left out, by source.

    A source appears as soon as it was counted once, in the order of reading.
    """

    kept: dict[str, Counter[str]] = field(default_factory=dict)
    """Records by form, copies for a weight not counted."""
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: dict[str, Counter[Reason]] = field(default_factory=dict)
    examples: dict[tuple[str, Reason], list[Skipped]] = field(default_factory=dict)

    def keep(self, source: str, form: str, kind: str | None) -> None:
        self.kept.setdefault(source, Counter())[form] += 1
        if kind is not None:
            self.kinds.setdefault(source, Counter())[kind] += 1

    def skip(self, source: str, skipped: Skipped) -> None:
        self.skipped.setdefault(source, Counter())[skipped.reason] += 1
        examples = self.examples.setdefault((source, skipped.reason), [])
        if len(examples) < EXAMPLES:
            examples.append(skipped)

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys([*self.kept, *self.skipped]))

    @property
    def num_kept(self) -> int:
        return sum(counts.total() for counts in self.kept.values())

    @property
    def num_skipped(self) -> int:
        return sum(counts.total() for counts in self.skipped.values())

    @property
    def share_skipped(self) -> float:
        """Of everything that was read, 0 to 1."""
        return self.num_skipped / max(1, self.num_kept + self.num_skipped)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the totals, and for each source what was kept, of which kinds, and what was not."""
        sources = {
            name: {
                "kept": dict(self.kept.get(name, {})),
                "kinds": dict(self.kinds.get(name, {})),
                "skipped": {
                    reason.value: {
                        "count": count,
                        "examples": [
                            {"where": example.where, "detail": example.detail}
                            for example in self.examples[name, reason]
                        ],
                    }
                    for reason, count in self.skipped.get(name, {}).items()
                },
            }
            for name in self.sources
        }
        return {"kept": self.num_kept, "skipped": self.num_skipped, "sources": sources}

    def table(self) -> Table:
        """The same for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table("source", "what", "count", "which")
        table.columns[2].justify = "right"
        for name in self.sources:
            for form, count in self.kept.get(name, {}).items():
                table.add_row(Text(name), Text(f"kept as {form}"), f"{count:,}")
            if kinds := self.kinds.get(name):
                listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
                table.add_row(Text(name), Text("kinds"), f"{len(kinds):,}", Text(listed))
            for reason, count in self.skipped.get(name, Counter()).most_common():
                example = self.examples[name, reason][0]
                # As Text: a bracket in a file's text is no markup.
                words = Text(f"{example.where}: {example.detail}")
                table.add_row(
                    Text(name), Text(f"skipped: {reason.value}", style="yellow"), f"{count:,}", words
                )
        return table
