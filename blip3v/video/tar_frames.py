"""Folders of frames inside a plain .tar file, read in place.

A video in a tar is written as the path of the tar with the folder behind it, `chunk_01.tar/clip7`, as if the
tar were a folder. Nothing is ever unpacked, so no name inside an archive can lead anywhere: only the bytes of
regular files are read, links and devices are passed over.

The frames of a million clips as files of their own would be some twenty million of them, more than many file
systems take; in a tar they are one. Finding them needs one walk over its headers, which is kept beside the
tar (`chunk_01.tar.frames.npz`, 16 bytes a frame) where the folder can be written to.

A tar may also hold clips as WebDataset samples: `00000042.json`, behind it `00000042.000.jpg` and so on. They
are named by their key, `shard-000000.tar/00000042`; `blip3v.video.packed` reads them.
"""

from __future__ import annotations

import functools
import io
import os
import posixpath
import re
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from blip3v.errors import UserError
from blip3v.files import written_aside
from blip3v.video.names import IMAGE_SUFFIXES, natural_key

INDEX_SUFFIX = ".frames.npz"
KEPT = ("folders", "starts", "offsets", "sizes", "headers")
"""Fields of an index that are in the file beside the tar."""
PACKED_FRAME = re.compile(r"\.[0-9]+\.[a-z]+")
"""What follows the key of a packed clip in the names of its frames."""


@dataclass(frozen=True, eq=False)
class FramesInTar:
    """Where the frames of each folder of a tar lie.

    The folder that all others share (`frames/` in `frames/clip7/0001.jpeg`) is left out of their names.

    Attributes:
        path: the tar.
        folders: bytes [F], sorted names; the key of a packed clip is one too.
        starts: int64 [F + 1]; frames starts[k] to starts[k + 1] are those of folder k, in natural order.
        offsets, sizes: int64 [N], where each image begins in the tar, and its bytes.
        headers: int64 [F, 2], where the JSON of each packed clip begins, and its bytes; 0 and 0 of a folder.
    """

    path: Path
    folders: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    headers: np.ndarray

    @staticmethod
    def open(path: str | Path) -> FramesInTar:
        """The index of a tar: from memory, from the file beside it, or by walking over it.

        Raises:
            UserError: no such file, no plain tar, one that ends early, or one without frames.
        """
        try:
            state = os.stat(path)
        except OSError as error:
            raise UserError(f"no such chunk of frames: {path}; give a .tar file") from error
        return _opened(str(path), state.st_size, state.st_mtime_ns)

    def __contains__(self, folder: str) -> bool:
        return self._number(folder) is not None

    def count(self, folder: str) -> int:
        """Frames in a folder, 0 where there is no such folder."""
        number = self._number(folder)
        return 0 if number is None else int(self.starts[number + 1] - self.starts[number])

    def images(self, folder: str, indices: np.ndarray) -> list[io.BytesIO]:
        """The image files at `indices` in the natural order of the names in a folder."""
        return [io.BytesIO(self.read(*place)) for place in self.places(folder)[indices].tolist()]

    def places(self, folder: str) -> np.ndarray:
        """int64 [N, 2]: where each image of a folder begins, and its bytes.

        Raises:
            UserError: no such folder.
        """
        number = self._number(folder)
        if number is None:
            raise UserError(f"no folder {folder} in {self.path}; check the name, or get the chunk again")
        part = slice(self.starts[number], self.starts[number + 1])
        return np.stack([self.offsets[part], self.sizes[part]], axis=1)

    def header(self, folder: str) -> tuple[int, int] | None:
        """Where the JSON of a packed clip begins, and its bytes; None of a folder, or where nothing is."""
        number = self._number(folder)
        if number is None or not self.headers[number, 1]:
            return None
        return int(self.headers[number, 0]), int(self.headers[number, 1])

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the tar; it stays open for the next call."""
        # pread has no position that processes forked from one another would share.
        return os.pread(_file(self).fileno(), size, offset)

    def _number(self, folder: str) -> int | None:
        name = os.fsencode(folder)
        if len(name) > self.folders.dtype.itemsize:
            return None
        # In the array's own dtype, or numpy would copy all names to compare them.
        key = np.array(name, dtype=self.folders.dtype)
        place = int(np.searchsorted(self.folders, key))
        return place if place < len(self.folders) and self.folders[place] == key else None


def split_tar_path(path: Path) -> tuple[Path, str] | None:
    """`chunk.tar/clip7` as (chunk.tar, "clip7"); None for a path that has no tar file on its way."""
    for parent in path.parents:
        if parent.suffix == ".tar" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def video_exists(path: Path) -> bool:
    """Whether there is a file or folder at `path`, or a folder of frames in a tar.

    Raises:
        UserError: a tar on the way that cannot be read.
    """
    # Not Path.exists: it raises on a name that is too long for the file system.
    if os.path.exists(path):
        return True
    inside = split_tar_path(path)
    return inside is not None and inside[1] in FramesInTar.open(inside[0])


@functools.lru_cache(maxsize=128)
def _file(index: FramesInTar) -> IO[bytes]:
    return index.path.open("rb", buffering=0)


@functools.cache
def _opened(path: str, size: int, changed: int) -> FramesInTar:
    stamp = np.array([size, changed], dtype=np.int64)
    kept = Path(path + INDEX_SUFFIX)
    index = _load(Path(path), kept, stamp)
    if index is None:
        index = scan(Path(path))
        _save(index, kept, stamp)
    return index


def scan(path: Path) -> FramesInTar:
    """Walk over the headers of a tar.

    Raises:
        UserError: see `FramesInTar.open`.
    """
    found: dict[str, list[tuple[str, int, int]]] = {}
    headers: dict[str, tuple[int, int]] = {}
    key = None
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                # It would keep every header, a gigabyte for a million frames.
                # (Not tar.members, which the type stubs do not have.)
                tar.__dict__["members"].clear()
                folder, name = posixpath.split(posixpath.normpath(member.name))
                if not member.isreg() or member.issparse() or name.startswith("."):
                    continue
                stem, dot, rest = name.partition(".")
                place = (member.offset_data, member.size)
                if rest == "json" and member.size:
                    key = posixpath.join(folder, stem)
                    headers[key] = place
                if _suffix(name) in IMAGE_SUFFIXES:
                    packed = posixpath.join(folder, stem) == key and PACKED_FRAME.fullmatch(dot + rest)
                    found.setdefault(key if key and packed else folder, []).append((name, *place))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"cannot read {path} as a plain .tar ({error}); get it again, or make one of a .tar.gz: "
            "blip3v data unpack"
        ) from error
    if not found:
        raise UserError(
            f"no frames in {path}; it must hold folders with one image per frame (.jpg, .png, ...)"
        )
    return _index(path, found, headers)


def _index(
    path: Path, found: dict[str, list[tuple[str, int, int]]], headers: dict[str, tuple[int, int]]
) -> FramesInTar:
    parents = {posixpath.dirname(folder) for folder in found}
    # An absolute and a relative name have no common path; such a tar keeps its names as they are.
    mixed = len({parent.startswith("/") for parent in parents}) > 1
    shared = "" if mixed else posixpath.commonpath(parents)
    short = {folder: folder[len(shared) :].strip("/") if shared else folder for folder in found}
    folders = sorted(found, key=lambda folder: os.fsencode(short[folder]))
    starts, places = [0], []
    for folder in folders:
        places += sorted(found[folder], key=lambda frame: natural_key(frame[0]))
        starts.append(len(places))
    return FramesInTar(
        path,
        np.array([os.fsencode(short[folder]) for folder in folders]),
        np.array(starts, dtype=np.int64),
        np.array([offset for _, offset, _ in places], dtype=np.int64),
        np.array([size for _, _, size in places], dtype=np.int64),
        np.array([headers.get(folder, (0, 0)) for folder in folders], dtype=np.int64),
    )


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _load(path: Path, kept: Path, stamp: np.ndarray) -> FramesInTar | None:
    """The index beside a tar; None where there is none, or it is that of another state of the tar."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            if not np.array_equal(arrays["stamp"], stamp):
                return None
            return FramesInTar(path, *(arrays[key] for key in KEPT))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(index: FramesInTar, kept: Path, stamp: np.ndarray) -> None:
    # A folder that cannot be written to: the tar is walked over again next time.
    with suppress(OSError), written_aside(kept) as aside, aside.open("wb") as file:
        np.savez(file, stamp=stamp, **{key: getattr(index, key) for key in KEPT})
