"""Folders of frames inside a plain .tar file, read in place.

A video in a tar is written as the path of the tar with the folder behind it, `chunk_01.tar/clip7`, as if the
tar were a folder. Nothing is ever unpacked, so no name inside an archive can lead anywhere: only the bytes of
regular files are read, links and devices are passed over.

The frames of a million clips as files of their own would be some twenty million of them, more than many file
systems take; in a tar they are one. Finding them needs one walk over its headers, which is kept beside the
tar (`chunk_01.tar.frames.npz`, 16 bytes a frame) where the folder can be written to.
"""

from __future__ import annotations

import functools
import io
import os
import posixpath
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blip3v.errors import UserError
from blip3v.video.names import IMAGE_SUFFIXES, natural_key

INDEX_SUFFIX = ".frames.npz"


@dataclass(frozen=True, eq=False)
class FramesInTar:
    """Where the frames of each folder of a tar lie.

    The folder that all others share (`frames/` in `frames/clip7/0001.jpeg`) is left out of their names.

    Attributes:
        path: the tar.
        folders: bytes [F], sorted names.
        starts: int64 [F + 1]; frames starts[k] to starts[k + 1] are those of folder k, in natural order.
        offsets, sizes: int64 [N], where each image begins in the tar, and its bytes.
    """

    path: Path
    folders: np.ndarray
    starts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

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
        number = self._number(folder)
        if number is None:
            raise UserError(f"no folder {folder} in {self.path}; check the name, or get the chunk again")
        places = self.starts[number] + indices
        with self.path.open("rb") as file:
            images = []
            for offset, size in zip(self.offsets[places].tolist(), self.sizes[places].tolist(), strict=True):
                file.seek(offset)
                images.append(io.BytesIO(file.read(size)))
            return images

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
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                # It would keep every header, a gigabyte for a million frames.
                # (Not tar.members, which the type stubs do not have.)
                tar.__dict__["members"].clear()
                name = posixpath.normpath(member.name)
                hidden = posixpath.basename(name).startswith(".")
                if not member.isreg() or member.issparse() or hidden or _suffix(name) not in IMAGE_SUFFIXES:
                    continue
                place = (posixpath.basename(name), member.offset_data, member.size)
                found.setdefault(posixpath.dirname(name), []).append(place)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"cannot read {path} as a plain .tar ({error}); get it again, or make one of a .tar.gz: "
            "blip3v data unpack"
        ) from error
    if not found:
        raise UserError(
            f"no frames in {path}; it must hold folders with one image per frame (.jpg, .png, ...)"
        )
    return _index(path, found)


def _index(path: Path, found: dict[str, list[tuple[str, int, int]]]) -> FramesInTar:
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
    )


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _load(path: Path, kept: Path, stamp: np.ndarray) -> FramesInTar | None:
    """The index beside a tar; None where there is none, or it is that of another state of the tar."""
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            if not np.array_equal(arrays["stamp"], stamp):
                return None
            return FramesInTar(path, *(arrays[key] for key in ("folders", "starts", "offsets", "sizes")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(index: FramesInTar, kept: Path, stamp: np.ndarray) -> None:
    partial = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(
                file, stamp=stamp, folders=index.folders, starts=index.starts, offsets=index.offsets,
                sizes=index.sizes,
            )  # fmt: skip
        os.replace(partial, kept)
    except OSError:
        # A folder that cannot be written to: the tar is walked over again next time.
        partial.unlink(missing_ok=True)
