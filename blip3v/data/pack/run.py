"""A corpus into a folder of shards: what `blip3v data pack` does.

    OUT/shard-000000.tar ...   the clips, see `blip3v.video.packed`
    OUT/records.jsonl          the records, whose videos are `shard-000000.tar/00000042`
    OUT/failed.jsonl           clips that could not be packed: {clip, video, span, reason, records}
    OUT/pack.json              settings, digest of the records, and counts once all is done

The same call goes on where an earlier one ended, and ends with the same bytes, however often it was
interrupted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import blip3v
from blip3v.data.isolated import Outcome, run_isolated
from blip3v.data.pack.dali import encode_with_dali
from blip3v.data.pack.encode import Encoded, encode_clip
from blip3v.data.pack.plan import NO_CLIP, ClipJob, Plan, key_of, shard_name
from blip3v.data.pack.shards import add_clip, only_one, written_shard, written_whole
from blip3v.data.records import Record, line_of
from blip3v.errors import UserError
from blip3v.files import leftovers
from blip3v.video.decoders import decoder_named
from blip3v.video.tar_frames import INDEX_SUFFIX, FramesInTar

RECORDS, FAILED, STATE = "records.jsonl", "failed.jsonl", "pack.json"
ENOUGH = 20
"""Clips after which a run that packs less than half of them is stopped."""
BEGINNING = 200
"""Clips after which it is not stopped any more."""

Outcomes = Generator[Outcome[ClipJob, Encoded], None, None]
OnClip = Callable[[int, int], None]
"""Called with (clips that are done or were done before, clips that failed among them)."""


@dataclass(frozen=True)
class Packed:
    """What a run has made.

    Attributes:
        records: in records.jsonl.
        left_out: records about clips that could not be packed.
        clips: stored.
        failed: clips that could not be packed.
        shards: tars.
    """

    records: int
    left_out: int
    clips: int
    failed: int
    shards: int


def pack(
    plan: Plan, out: Path, workers: int = 2, timeout: float = 60.0, on_clip: OnClip | None = None
) -> Packed:
    """Pack a corpus, or go on with it.

    Args:
        out: folder; made if it is not there.
        workers: processes that decode and compress.
        timeout: seconds per clip.
        on_clip: told how far it is.

    Raises:
        UserError: the decoder cannot be used; the folder holds shards of other records or settings, or
            another process writes to it; no clip can be packed, or more than half of the first ones cannot;
            the disk is full.
    """
    decoder_named(plan.settings.decoder)  # fails at once where it is missing
    with only_one(out):
        _begin_or_go_on(plan, out)
        for leftover in leftovers(out, INDEX_SUFFIX):
            leftover.unlink(missing_ok=True)
        missing = [shard for shard in range(plan.num_shards) if not (out / shard_name(shard)).exists()]
        failures = [
            failure
            for failure in _read_failures(out)
            if plan.shard_of(int(failure["clip"])) not in set(missing)
        ]
        jobs = (plan.job(clip) for shard in missing for clip in plan.clips_in(shard))
        with closing(_outcomes(plan, jobs, workers, timeout)) as outcomes:
            _write_shards(plan, out, missing, outcomes, failures, on_clip)
        return _finish(plan, out, failures)


def _outcomes(plan: Plan, jobs: Iterator[ClipJob], workers: int, timeout: float) -> Outcomes:
    if plan.settings.decoder == "dali":
        yield from encode_with_dali(jobs, workers, timeout)
    else:
        yield from run_isolated(encode_clip, jobs, workers=workers, timeout=timeout)


def _begin_or_go_on(plan: Plan, out: Path) -> None:
    settings, fingerprint = asdict(plan.settings), plan.records.fingerprint
    try:
        found = json.loads((out / STATE).read_bytes())
    except FileNotFoundError:
        # Perhaps the records that are packed lie there: they would be written over.
        if (out / RECORDS).exists() or any(out.glob("shard-*.tar")):
            raise UserError(
                f"{out} holds {RECORDS} or shards, and no {STATE}; choose an empty folder for --out"
            ) from None
        _write_state(plan, out, None)
        return
    except ValueError as error:
        raise UserError(f"{out / STATE} is damaged ({error}); choose an empty folder for --out") from error
    before = found.get("settings") or {}
    different = [
        f"{name} was {before.get(name)} and is {value}"
        for name, value in settings.items()
        if before.get(name) != value
    ]
    if found.get("fingerprint") != fingerprint:
        different.append("the records are others")
    if different:
        raise UserError(
            f"{out} was begun differently: {', '.join(different)}; give the same again, or another --out"
        )


def _write_shards(
    plan: Plan,
    out: Path,
    missing: list[int],
    outcomes: Outcomes,
    failures: list[dict[str, Any]],
    on_clip: OnClip | None,
) -> None:
    done = plan.num_clips - sum(len(plan.clips_in(shard)) for shard in missing)
    began, failed_before = done, len(failures)
    for shard in missing:
        path, stored = out / shard_name(shard), 0
        with written_shard(path) as tar:
            for _ in plan.clips_in(shard):
                outcome = next(outcomes)
                if outcome.result is None:
                    failures.append(_failure(plan, outcome.item, outcome.error))
                else:
                    add_clip(tar, outcome.item.key, outcome.result, plan.settings.format)
                    stored += 1
                done += 1
                if on_clip is not None:
                    on_clip(done, len(failures))
                failed = len(failures) - failed_before
                if ENOUGH <= done - began <= BEGINNING and 2 * failed > done - began:
                    _write_failures(out, failures)
                    raise _most_fail(done - began, failed, out)
            # First, so that no finished shard is without the reasons for what is not in it.
            _write_failures(out, failures)
        if stored:
            FramesInTar.open(path)  # keeps the index beside it, while the workers are busy


def _most_fail(done: int, failed: int, out: Path) -> UserError:
    return UserError(
        f"{failed} of the first {done} clips cannot be packed; {out / FAILED} says why, and "
        "`blip3v data check --decode` looks at more of them"
    )


def _failure(plan: Plan, job: ClipJob, reason: str) -> dict[str, Any]:
    return {
        "clip": job.key, "video": job.source, "span": job.span, "reason": reason,
        "records": len(plan.records_of(job.number)),
    }  # fmt: skip


def _read_failures(out: Path) -> list[dict[str, Any]]:
    path = out / FAILED
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _write_failures(out: Path, failures: list[dict[str, Any]]) -> None:
    with written_whole(out / FAILED) as file:
        for failure in failures:
            file.write(json.dumps(failure, ensure_ascii=False).encode() + b"\n")


def _finish(plan: Plan, out: Path, failures: list[dict[str, Any]]) -> Packed:
    failed = {int(failure["clip"]) for failure in failures}
    left_out = sum(failure["records"] for failure in failures)
    kept = len(plan.records) - left_out
    if kept == 0:
        raise UserError(f"no clip could be packed; {out / FAILED} says why")
    _write_failures(out, failures)
    with written_whole(out / RECORDS) as file:
        for record in _packed_records(plan, out, failed):
            file.write(line_of(record, out).encode())
    result = Packed(kept, left_out, plan.num_clips - len(failed), len(failed), plan.num_shards)
    _write_state(plan, out, asdict(result))
    return result


def _packed_records(plan: Plan, out: Path, failed: set[int]) -> Iterator[Record]:
    seen: Counter[tuple[str | None, str]] = Counter()
    for record, clip in plan.without(failed):
        # Copies for a weight have one id and one source; of these a file is read up to the first.
        name, first = record.id, (record.source, record.id)
        while (record.source, name) in seen:
            seen[first] += 1
            name = f"{record.id}#{seen[first]}"
        seen[record.source, name] += 1
        if clip == NO_CLIP:
            yield replace(record, id=name)
            continue
        path = out / shard_name(plan.shard_of(clip)) / key_of(clip)
        if record.image is not None:
            yield replace(record, id=name, image=path)
        else:
            yield replace(record, id=name, video=path, span=None)


def _write_state(plan: Plan, out: Path, counts: dict[str, int] | None) -> None:
    fields = {
        "version": blip3v.__version__,
        "settings": asdict(plan.settings),
        "fingerprint": plan.records.fingerprint,
        "counts": counts,
    }
    with written_whole(out / STATE) as file:
        file.write(json.dumps(fields, indent=1).encode() + b"\n")
