"""The levels of `blip3v bench`, each as a list of parts that yield rows.

A part is what a resumed run repeats or skips: one case of an op, one encoder at one number of tokens, one
codec. Names are checked when the parts are listed, before anything is measured.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.ceilings import Ceilings
from benchmarks.presets import VIDEOS, videos_case
from benchmarks.rows import DIRECTIONS, DTYPES, PRESETS, Bench
from blip3v.errors import UserError
from blip3v.ops.registry import OPS


@dataclass(frozen=True)
class Choice:
    """What a user asked for; empty means: what the preset says.

    repeats: timed calls a row. The rest are names, see `blip3v bench --help`.
    """

    level: str
    device: str
    preset: str
    op: Sequence[str] = ()
    case: Sequence[str] = ()
    dtype: Sequence[str] = ()
    peer: Sequence[str] = ()
    direction: Sequence[str] = ()
    repeats: int = 20


@dataclass(frozen=True)
class Part:
    """`measure()` yields the rows as they are measured."""

    name: str
    measure: Callable[[], Iterator[dict[str, Any]]]


def parts(choice: Choice, ceilings: Ceilings | None) -> list[Part]:
    """All parts of a level, in the order in which they are measured.

    Raises:
        UserError: a name that does not exist; the message lists those that do.
    """
    check("level", [choice.level], LEVELS)
    check("--preset", [choice.preset], PRESETS)
    check("--dtype", choice.dtype, DTYPES)
    if choice.repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {choice.repeats}")
    return LEVELS[choice.level](choice, ceilings)


def check(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse what does not exist, and name what does."""
    known = list(dict.fromkeys(known))
    for value in given:
        if value not in known:
            raise UserError(f"{name}: there is no {value!r}; choose from {', '.join(known) or 'none'}")


def bench_of(op: str) -> Bench:
    """The benchmark of an op, from `benchmarks/ops/bench_<op>.py`."""
    bench: Bench = importlib.import_module(f"benchmarks.ops.bench_{op}").BENCH
    return bench


COMPILED = ", compiled"


def in_turn(peers: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """The peers that run at once, then those that are compiled for minutes; each with its part's suffix."""
    slow = [peer for peer in peers if "compile" in peer]
    quick = [peer for peer in peers if peer not in slow]
    if quick:
        yield quick, ""
    if slow:
        yield slow, COMPILED


def compiled_last(found: Sequence[Part]) -> list[Part]:
    """Where the time is short, every case has at least been measured beside what needs no compiler."""
    return sorted(found, key=lambda part: part.name.endswith(COMPILED))


def _ops(choice: Choice, ceilings: Ceilings | None) -> list[Part]:
    check("--op", choice.op, OPS)
    check("--direction", choice.direction, DIRECTIONS)
    benches = [bench_of(op) for op in choice.op or OPS]
    check("--case", choice.case, (case for bench in benches for case in bench.cases))
    check("--peer", choice.peer, (peer for bench in benches for peer in bench.peers))
    rest = (choice.device, choice.direction or DIRECTIONS, choice.repeats, ceilings)
    found = []
    for bench in benches:
        peers = [peer for peer in choice.peer if peer in bench.peers] or bench.default_peers(choice.preset)
        for case in [name for name in choice.case if name in bench.cases] or bench.presets[choice.preset]:
            for dtype in choice.dtype or ("bfloat16",):
                for chosen, suffix in in_turn(peers):
                    measure = partial(bench.rows, bench.cases[case], dtype, chosen, *rest)
                    found.append(Part(f"{bench.op} {case} {dtype}{suffix}", measure))
    return compiled_last(found)


def _stages(choice: Choice, ceilings: Ceilings | None) -> list[Part]:
    from benchmarks.stages.bench_stages import stage_rows
    from benchmarks.stages.peers import default_peers, peers_of
    from benchmarks.stages.stage_modules import DEFAULT, stage_named

    names = choice.op or DEFAULT
    check("--peer", choice.peer, (peer for name in names for peer in peers_of(stage_named(name))))
    check("--direction", choice.direction, DIRECTIONS)
    cases = choice.case or [videos_case(choice.preset, videos) for videos in VIDEOS[choice.preset]]
    rest = (choice.dtype, choice.direction, choice.repeats, ceilings)
    found = []
    for name in names:
        peers = choice.peer or default_peers(stage_named(name), choice.device)
        for case in cases:
            for chosen, suffix in in_turn(peers):
                place = (choice.preset, choice.device, [name], [case])
                found.append(Part(f"{name} {case}{suffix}", partial(stage_rows, *place, chosen, *rest)))
    return compiled_last(found)


def _tokens(choice: Choice, ceilings: Ceilings | None) -> list[Part]:
    from benchmarks.tokens.bench_tokens import TokenBench
    from benchmarks.tokens.points import Point, points, tokens_of

    refuse(choice, "peer", "dtype", "direction")
    # One for all: vision encoder and language model are measured once.
    bench = TokenBench(choice.preset, choice.device, choice.repeats, ceilings)

    def row(point: Point) -> Iterator[dict[str, Any]]:
        yield bench.row(point)

    counts = [tokens_of(case) for case in choice.case] or None
    found = points(choice.preset, choice.op or None, counts)
    return [Part(f"{point.encoder} {point.tokens} tokens", partial(row, point)) for point in found]


def _train(choice: Choice, ceilings: Ceilings | None) -> list[Part]:
    from benchmarks.train.bench_train import PEERS, SIZES, case_of, train_rows

    refuse(choice, "op", "dtype", "direction")
    check("--peer", choice.peer, PEERS)
    cases = choice.case or [case_of(choice.preset, *size) for size in SIZES[choice.preset]]
    chosen = (choice.peer, choice.repeats, ceilings)
    return [Part(case, partial(train_rows, choice.preset, choice.device, [case], *chosen)) for case in cases]


def _decode(choice: Choice, ceilings: Ceilings | None) -> list[Part]:
    from benchmarks.decode.bench_decode import DIRECTIONS as WAYS
    from benchmarks.decode.bench_decode import decode_rows
    from benchmarks.decode.clips import CODECS
    from benchmarks.decode.readers import READERS

    refuse(choice, "case", "dtype")
    check("--op", choice.op, CODECS)
    check("--peer", choice.peer, READERS)
    check("--direction", choice.direction, WAYS)
    chosen = ((), choice.peer, choice.direction, choice.repeats)
    return [
        Part(codec, partial(decode_rows, choice.device, [codec], *chosen)) for codec in choice.op or CODECS
    ]


def _end_to_end(choice: Choice, ceilings: Ceilings | None) -> list[Part]:
    from benchmarks.end_to_end.bench_end_to_end import DIRECTIONS as WAYS
    from benchmarks.end_to_end.bench_end_to_end import TOKENS, end_to_end_rows
    from benchmarks.train.setups import BACKENDS

    refuse(choice, "op", "dtype")
    check("--peer", choice.peer, BACKENDS)
    check("--direction", choice.direction, WAYS)
    cases = choice.case or [f"{choice.preset}_{tokens}_tokens" for tokens in TOKENS[choice.preset]]
    chosen = (choice.peer, choice.direction, choice.repeats)
    return [
        Part(case, partial(end_to_end_rows, choice.preset, choice.device, [case], *chosen)) for case in cases
    ]


def refuse(choice: Choice, *options: str) -> None:
    """What a level has no choice of must not be asked for: it would be ignored silently."""
    for option in options:
        if getattr(choice, option):
            raise UserError(f"--{option} says nothing to `blip3v bench {choice.level}`; leave it out")


LEVELS: dict[str, Callable[[Choice, Ceilings | None], list[Part]]] = {
    "ops": _ops,
    "stages": _stages,
    "tokens": _tokens,
    "train": _train,
    "decode": _decode,
    "end_to_end": _end_to_end,
}
