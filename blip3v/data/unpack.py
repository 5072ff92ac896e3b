"""Published .tar.gz chunks of frames as plain .tar files, which are read in place.

Frames are JPEG files, which gzip cannot make smaller, so the plain tar takes no more room; and one file is
left, where unpacking would leave hundreds of thousands. Since nothing is taken out of the archive, no name in
it can lead anywhere.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path

from blip3v.errors import UserError
from blip3v.video.tar_frames import FramesInTar, scan

PIECE = 1 << 22
"""Bytes decompressed at a time."""


def unpack_chunk(
    chunk: Path, folder: Path, progress: Callable[[int], None] | None = None
) -> tuple[Path, bool]:
    """`folder`/x.tar of x.tar.gz (or x.tgz): written aside, looked through, then renamed.

    A tar that is there already is complete, so an interrupted run goes on with the chunk that was under way.

    Args:
        progress: called with the bytes of the chunk that were read in each step.

    Returns:
        The tar, and whether it was made now.

    Raises:
        UserError: no such chunk, one that is damaged or holds no frames, or a disk that is full.
    """
    name = chunk.name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar") + ".tar"
    if chunk.suffix not in (".gz", ".tgz") or not chunk.is_file():
        raise UserError(f"{chunk} is no .tar.gz file; give the published chunks")
    target, partial = folder / name, folder / f".{name}.partial"
    if target.exists():
        return target, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _decompress(chunk, partial, progress)
        scan(partial)
        os.replace(partial, target)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{chunk} is damaged or ends early ({error}); get it again") from error
    except OSError as error:
        raise UserError(
            f"cannot write {target} ({error.strerror}); make room, or choose another --out"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    FramesInTar.open(target)
    return target, True


def _decompress(chunk: Path, target: Path, progress: Callable[[int], None] | None) -> None:
    with chunk.open("rb") as packed, gzip.open(packed) as source, target.open("wb") as file:
        done = 0
        while piece := source.read(PIECE):
            file.write(piece)
            if progress is not None:
                progress(packed.tell() - done)
            done = packed.tell()
        file.flush()
        os.fsync(file.fileno())
