"""Mixtures: several data sets in one training run, each in its forms and with its weight.

The file that lists them is described in `blip3v.data.sources`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blip3v.data.forms import Answers, Form, Item, make_record, read_answers
from blip3v.data.media import MediaFolder
from blip3v.data.readers import read_files
from blip3v.data.record_store import RecordStore, RecordStoreBuilder
from blip3v.data.skipping import BadEntry, Reason, Skipped, SkipReport
from blip3v.data.sources import Source, read_sources
from blip3v.errors import UserError

Progress = Callable[[str, int], None]
"""Called with (source, entries read so far in it) now and then."""
TELL_EVERY = 1000


@dataclass(frozen=True)
class Mixture:
    """The records of all sources, one source behind the other, and what was left out."""

    records: RecordStore
    report: SkipReport


def read_mixture(
    path: str | Path,
    seed: int = 0,
    check_media: bool = True,
    progress: Progress | None = None,
    may_be_empty: bool = False,
) -> Mixture:
    """Read every source of a mixture file, of a JSON lines file, or of a folder with one of them.

    Args:
        path: a .toml file; otherwise a file in our own format. A folder is its only .toml, or all its .jsonl.
        seed: decides the order of options, the questions to captions, and which records a weight repeats.
        check_media: also look that every video exists.
        progress: told how far it is.
        may_be_empty: a mixture without records is no error; its report says what became of them.

    Raises:
        UserError: a wrong file, or nothing that could be used.
    """
    builder, report, order = RecordStoreBuilder(), SkipReport(), []
    for number, source in enumerate(read_sources(Path(path))):
        begin = len(builder)
        _read_source(source, seed, check_media, builder, report, progress)
        order.append(begin + _copies(len(builder) - begin, source.weight, [seed, number]))
    if len(builder) == 0 and not may_be_empty:
        reasons = ", ".join(
            f"{count} x {reason.value}"
            for counts in report.skipped.values()
            for reason, count in counts.items()
        )
        raise UserError(
            f"{path} gives no records ({reasons or 'it is empty'}); `blip3v data check {path}` says more"
        )
    return Mixture(builder.build(np.concatenate(order)), report)


def _read_source(
    source: Source,
    seed: int,
    check_media: bool,
    builder: RecordStoreBuilder,
    report: SkipReport,
    progress: Progress | None,
) -> None:
    media = MediaFolder(source.media, check_media)
    answers = read_answers(source.rephrased) if source.rephrased is not None else {}
    used = 0
    for number, entry in enumerate(read_files(source.format, source.annotations, media, source.options)):
        if progress is not None and number % TELL_EVERY == 0:
            progress(source.name, number)
        if isinstance(entry, Skipped):
            report.skip(source.name, entry)
            continue
        for form in source.forms:
            _add(entry, form, source, seed, answers, builder, report)
        used += 1
        if used == source.limit:
            break


def _add(
    item: Item,
    form: Form,
    source: Source,
    seed: int,
    answers: Answers,
    builder: RecordStoreBuilder,
    report: SkipReport,
) -> None:
    try:
        builder.add(make_record(item, form, item.source or source.name, seed, answers), source.media)
    except BadEntry as error:
        report.skip(source.name, Skipped(f"id {item.id}", error.reason, error.detail))
    except UnicodeEncodeError:
        broken = "a text holds half a surrogate pair, which is no character"
        report.skip(source.name, Skipped(f"id {item.id!r}", Reason.MALFORMED, broken))
    else:
        report.keep(source.name, form, item.kind)


def _copies(count: int, weight: float, seed: list[int]) -> np.ndarray:
    """int64 [about weight * count]: every number floor(weight) times, and a part of them once more."""
    whole, rest = int(weight), weight - int(weight)
    again = np.random.default_rng(seed).permutation(count)[: round(rest * count)]
    return np.concatenate([np.tile(np.arange(count), whole), np.sort(again)]).astype(np.int64)
