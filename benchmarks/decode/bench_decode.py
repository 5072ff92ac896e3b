"""Decoding of video files by what a user could take: `blip3v bench decode`.

Files are opened, decoded and converted to RGB in main memory, with as many threads for everybody. Two
directions: the 8 frames, evenly spread, that the model looks at, and all frames in order (of the short clips:
the long ones say nothing new there). Files are read once before they are timed, so they come from the page
cache. Readers take turns, so that whatever else the machine does meets all of them.

Beside the common fields a row holds: frames (decoded into RGB), threads, clips_per_s, frames_per_s,
first_frame_ms (opening and the first frame alone, median), cpu_ms (of all threads of the process, for a
clip), cpu_use (cores that were busy meanwhile), decoder_use (share of the GPU's decoder engines, null on a
CPU; never run), difference (mean absolute difference to PyAV's pixels, of 255, in the worst frame). The
library keeps an index of files that it opened; all times are without, as in a first pass over the data, but
for reopened_ms (median).

Correct are as many frames as were asked for, which differ from PyAV's by no more than MOST: decoders agree
bit by bit, but conversions from YUV round and interpolate colours in their own ways.

decord 0.6.0 by itself fails on hevc with open groups of pictures, which libx265 writes unasked: behind the
second key frame it gives frames that lie three later than those asked for. In order, it is right.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decode.clips import CODECS, LENGTHS, Clip, described, made
from benchmarks.decode.engine_use import engine_use
from benchmarks.decode.packed_clip import packed_clip
from benchmarks.decode.readers import INDEXED, PACKED, READERS, SPARSE, Read, forget, reader_named, version_of
from benchmarks.decode.turns import Turns, in_turns
from benchmarks.measure import reason
from blip3v.errors import UserError
from blip3v.video import uniform_indices

MOST = 3.0
"""Mean absolute difference of pixels, of 255, in any one frame."""
MOST_PACKED = 5.0
"""Of packed clips: JPEGs, of pictures with more texture than films have. Neighbouring frames differ by 9."""

SAMPLED = 8
FIRST_REPEATS = 5
DIRECTIONS = ("8 frames", "all frames")
SHARE = 1.5
"""Seconds after which a reader's turns end, if there were three."""


def decode_rows(
    device: str = "cpu",
    codecs: Sequence[str] = (),
    clips: Sequence[Path] = (),
    peers: Sequence[str] = (),
    directions: Sequence[str] = (),
    repeats: int = 20,
    threads: int = 1,
    share: float = SHARE,
) -> Iterator[dict[str, Any]]:
    """The rows, codec by codec, as they are measured; empty choices mean all of them.

    device: all readers decode on the CPU but for DALI, with "cuda". clips: files to read instead of those
    that are made here, each under its own name. repeats: at most; fewer where a reader takes longer than
    `share` seconds.

    Raises:
        UserError: no such codec, or a clip that cannot be read.
    """
    unknown = [codec for codec in codecs if codec not in CODECS]
    if unknown:
        raise UserError(f"no codec {unknown[0]!r}: choose from {', '.join(CODECS)}")
    with tempfile.TemporaryDirectory(prefix="blip3v-decode-") as name:
        folder = Path(name)
        for clip, ways in _clips(codecs, clips, directions, folder):
            for direction in ways:
                case = Case(clip, direction, threads, device, folder)
                for row in case.rows(peers, repeats, share):
                    command = f"blip3v bench decode --op {clip.name} --direction '{direction}'"
                    if clips:
                        command = f"python -m benchmarks.decode.real {clip.path.name} --threads {threads}"
                    command += f" --device {device} --peer '{row['backend']}' --repeats {repeats}"
                    yield row | {"command": command}


def _clips(
    codecs: Sequence[str], clips: Sequence[Path], directions: Sequence[str], folder: Path
) -> Iterator[tuple[Clip, Sequence[str]]]:
    for path in clips:
        yield described(path), directions or DIRECTIONS
    for codec in () if clips else codecs or tuple(CODECS):
        for length in LENGTHS:
            ways = directions or DIRECTIONS
            yield (
                made(codec, folder, length),
                ways if length == "short" else [w for w in ways if w != DIRECTIONS[1]],
            )


class Case:
    """Some frames of one clip.

    Args:
        device: as in `blip3v bench --device`.
        folder: where the packed clip is written.
    """

    def __init__(self, clip: Clip, direction: str, threads: int, device: str, folder: Path) -> None:
        every = np.arange(clip.frames)
        chosen = every if direction == "all frames" else uniform_indices(clip.frames, SAMPLED)
        self.clip, self.direction, self.indices = clip, direction, chosen.tolist()
        self.threads, self.device, self._folder = threads, device, folder
        self.expected: np.ndarray | str = clip.failure
        if not clip.failure:
            try:
                self.expected = READERS["pyav"](clip.path, self.indices, threads)
            except Exception as error:  # without PyAV's frames nobody can be compared
                self.expected = f"PyAV gives nothing to compare with, {self._reason(error)}"

    def rows(self, peers: Sequence[str], repeats: int, share: float) -> list[dict[str, Any]]:
        """A row for each peer, measured in turns."""
        if not peers:
            peers = [peer for peer in READERS if self.direction == DIRECTIONS[0] or peer not in SPARSE]
        sources = {peer: self._source(peer) for peer in peers}
        judged = {peer: self._judged(peer, source) for peer, source in sources.items()}
        right = [peer for peer in peers if judged[peer].get("ok")]
        reads = {peer: reader_named(peer, self.device) for peer in right}
        times = self._times(reads, sources, repeats, share)
        threads = "" if self.threads == 1 else f"_{self.threads}_threads"
        return [
            {
                "level": "decode",
                "op": self.clip.name,
                "case": f"{self.clip.width}x{self.clip.height}_{self.clip.frames}_frames{threads}",
                "dtype": "uint8",
                "direction": self.direction,
                "backend": peer,
                "version": version_of(peer),
                "frames": len(self.indices),
                "threads": self.threads,
                **judged[peer],
                **times.get(peer, {}),
            }
            for peer in peers
        ]

    def _source(self, peer: str) -> Path | str:
        """What this peer reads; or why there is nothing."""
        if self.direction != DIRECTIONS[0] and peer in SPARSE:
            return "it reads a few frames only"
        if peer != PACKED or isinstance(self.expected, str):
            return self.clip.path
        try:
            return packed_clip(self.clip.path, self.indices, self._folder)
        except Exception as error:  # a file that cannot be packed is a row like any other
            return self._reason(error)

    def _judged(self, peer: str, source: Path | str) -> dict[str, Any]:
        """Whether the peer's frames are right; or, where there are none, the reason."""
        if isinstance(self.expected, str):
            return {"reason": self.expected}
        if isinstance(source, str):
            return {"reason": source}
        try:
            frames = reader_named(peer, self.device)(source, self.indices, self.threads)
        except Exception as error:  # not installed, or it cannot decode this
            return {"reason": self._reason(error)}
        if frames.shape != self.expected.shape:
            return {
                "ok": False,
                "reason": f"frames {list(frames.shape)}, expected {list(self.expected.shape)}",
            }
        exact = self.expected.astype(np.float64)
        difference = float(np.abs(frames - exact).mean(axis=(1, 2, 3)).max())
        most = MOST_PACKED if peer == PACKED else MOST
        row = {
            "error": float(np.linalg.norm(frames - exact) / np.linalg.norm(exact)),
            "difference": difference,
            "ok": difference <= most,
        }
        if row["ok"]:
            return row
        return row | {"reason": f"a frame differs from PyAV's by {difference:.1f} of 255, more than {most:g}"}

    def _times(
        self, reads: dict[str, Read], sources: dict[str, Any], repeats: int, share: float
    ) -> dict[str, dict[str, Any]]:
        """The measured fields of each peer whose frames are right."""

        def calls(indices: Sequence[int], peers: Sequence[str]) -> dict[str, Any]:
            return {peer: lambda p=peer: reads[p](sources[p], indices, self.threads) for peer in peers}

        peers = list(reads)
        indexed = [peer for peer in peers if peer in INDEXED]
        clip = in_turns(calls(self.indices, peers), repeats, share, before=forget)
        first = in_turns(calls([0], peers), min(repeats, FIRST_REPEATS), share, before=forget)
        again = in_turns(calls(self.indices, indexed), repeats, share, warm=True)
        found = {}
        for peer, call in calls(self.indices, peers).items():
            found[peer] = self._fields(clip[peer], first[peer])
            if peer in again:
                found[peer]["reopened_ms"] = again[peer].timing.median * 1e3
            # DALI alone decodes on a GPU here; whoever looks at the engines beside the others sees nothing.
            use = engine_use(call, self.device) if "dali" in peer else None
            found[peer]["decoder_use"] = use
        return found

    def _fields(self, clip: Turns, first: Turns) -> dict[str, Any]:
        median = clip.timing.median
        return {
            "median_ms": median * 1e3,
            "p20_ms": clip.timing.p20 * 1e3,
            "p80_ms": clip.timing.p80 * 1e3,
            "repeats": clip.timing.repeats,
            "clock": clip.timing.clock,
            "clips_per_s": 1 / median,
            "frames_per_s": len(self.indices) / median,
            "first_frame_ms": first.timing.median * 1e3,
            "cpu_ms": clip.cpu * 1e3,
            "cpu_use": clip.cpu / clip.mean,
        }

    def _reason(self, error: Exception) -> str:
        """Without the folders of whoever measures."""
        said = reason(error)
        for folder in (self._folder, self.clip.path.parent):
            said = said.replace(f"{folder}/", "")
        return said
