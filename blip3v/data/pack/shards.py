"""Files that are there whole or not at all, and that are the same bytes whenever they are written.

Each is written under a hidden name, brought to the disk, and renamed. So a run that is killed, whenever that
is, leaves finished files and perhaps one hidden one, which the next run writes anew.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from blip3v.data.pack.encode import Encoded
from blip3v.errors import UserError

LOCK = ".lock"


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the name `path` when the block ends without an error.

    Shards are large: other than with `blip3v.files.written_aside`, a run writes over what a killed one left.

    Raises:
        UserError: the disk is full or cannot be written to.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path} ({error.strerror}); make room, then give the same command: it goes on"
        ) from error


@contextmanager
def written_shard(path: Path) -> Iterator[tarfile.TarFile]:
    """A plain tar, for `add_clip`, that takes its name when the block ends without an error."""
    with (
        written_whole(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        yield tar


def add_clip(shard: tarfile.TarFile, key: str, clip: Encoded, suffix: str) -> None:
    """Append a clip, see `blip3v.video.packed`: its JSON, then its frames.

    Args:
        suffix: of the frames, "jpg" or "png".
    """
    files = [("json", json.dumps(clip.fields, ensure_ascii=False).encode())]
    files += [(f"{number:03d}.{suffix}", image) for number, image in enumerate(clip.images)]
    for rest, data in files:
        # A new TarInfo has time 0 and no owner: nothing but the clips decides the bytes.
        info = tarfile.TarInfo(f"{key}.{rest}")
        info.size, info.mode = len(data), 0o644
        shard.addfile(info, io.BytesIO(data))


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """No second process may pack into the same folder meanwhile.

    Raises:
        UserError: another one does, or the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("wb")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}); choose another --out") from error
    with file:
        try:
            # Of this process alone (flock's locks are shared with the workers, which may outlive it).
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"another process packs into {out}; wait for it, or choose another --out"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
