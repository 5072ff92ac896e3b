"""Damaged files made of good ones; the same seed gives the same bytes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.decode.files.plain import H264, HEVC, MJPEG, MPEG2, VP9
from benchmarks.decode.files.writing import Look, write

SPARE = 200
"""Places at which bits are flipped."""


@dataclass(frozen=True)
class Damaged:
    """kind: of the damage, as the summary counts it."""

    path: Path
    kind: str


def good_files(folder: Path) -> dict[str, Path]:
    """A small file of 30 frames for each of the formats that are damaged, by its name."""
    looks = {
        "h264.mp4": H264,
        "hevc.mkv": HEVC,
        "vp9.webm": VP9,
        "mjpeg.avi": MJPEG,
        "mpeg2.mpg": MPEG2,
        "gif.gif": Look("gif", pix_fmt="rgb8"),
        "h264.ts": H264,
    }
    return {name: write(folder / name, look).path for name, look in looks.items()}


def damaged(good: dict[str, Path], folder: Path) -> Iterator[Damaged]:
    """Ten broken copies of each good file, and files of other kinds under a video's name."""
    names = list(good)
    for number, (name, path) in enumerate(good.items()):
        data, other = path.read_bytes(), good[names[number - 1]].read_bytes()
        for kind, label, change in _changes(number, other):
            target = folder / f"{label}_{name}"
            target.write_bytes(change(data))
            yield Damaged(target, kind)
    for name, content in _others(folder).items():
        (folder / name).write_bytes(content)
        yield Damaged(folder / name, "not a video")


def _changes(number: int, other: bytes) -> list[tuple[str, str, Callable[[bytes], bytes]]]:
    """(kind, label, from good bytes to bad ones); `other` is a good file of another format."""
    seeds = np.random.default_rng(number).integers(1 << 30, size=4).tolist()
    return [
        ("truncated", "cut_at_10", lambda data: data[: len(data) // 10]),
        ("truncated", "cut_at_50", lambda data: data[: len(data) // 2]),
        ("truncated", "cut_at_95", lambda data: data[: len(data) * 95 // 100]),
        ("bits flipped", "flipped_all", lambda data: flipped(data, seeds[0])),
        # Behind the headers, so that more than the opening is tried.
        ("bits flipped", "flipped_rest", lambda data: flipped(data, seeds[1], begin=len(data) // 4)),
        ("spliced", "tail_of_another", lambda data: data[: len(data) // 2] + other[len(other) // 2 :]),
        ("spliced", "middle_missing", lambda data: data[: len(data) // 3] + data[len(data) * 2 // 3 :]),
        ("spliced", "doubled", lambda data: data + data),
        ("overwritten", "zeros", lambda data: _block(data, bytes(len(data) // 8))),
        ("overwritten", "noise", lambda data: _block(data, noise(len(data) // 8, seeds[2]))),
    ]


def flipped(data: bytes, seed: int, places: int = SPARE, begin: int = 0) -> bytes:
    """`data` with one bit flipped at each of `places` random bytes from `begin` on."""
    random = np.random.default_rng(seed)
    changed = np.frombuffer(data, dtype=np.uint8).copy()
    at = begin + random.choice(len(data) - begin, size=min(places, len(data) - begin), replace=False)
    changed[at] ^= (1 << random.integers(8, size=len(at))).astype(np.uint8)
    return changed.tobytes()


def noise(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def _block(data: bytes, block: bytes) -> bytes:
    begin = len(data) * 3 // 8
    return data[:begin] + block + data[begin + len(block) :]


def _others(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(folder / "zip.mp4", "w") as archive:
        archive.writestr("frames.txt", "no frames\n" * 100)
    from PIL import Image

    Image.new("RGB", (64, 48), (200, 30, 30)).save(folder / "jpeg.mp4", "JPEG")
    return {
        "empty.mp4": b"",
        "one_byte.mp4": b"\0",
        "text.mp4": b"This is a text about videos, and none of them.\n" * 50,
        "page.mp4": b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n",
        "zip.mp4": (folder / "zip.mp4").read_bytes(),
        "jpeg.mp4": (folder / "jpeg.mp4").read_bytes(),
        "program.mp4": b"\x7fELF\x02\x01\x01" + bytes(9) + noise(4000, 5),
        "packed.mp4": zlib.compress(noise(4000, 6)),
        "zeros.mp4": bytes(5000),
        "noise.mp4": noise(5000, 7),
        "noise.mpg": noise(5000, 8),
    }
