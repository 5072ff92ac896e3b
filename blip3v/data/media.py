"""Where the videos and images of a data set lie, and which names may point at them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from blip3v.data.skipping import BadEntry, Reason
from blip3v.errors import UserError
from blip3v.video.tar_frames import FramesInTar, video_exists


class MediaFolder:
    """A folder of media, plain files and `.tar` chunks with folders of frames.

    Args:
        path: the folder.
        check: also look that everything exists; otherwise the first of several possible names is believed.

    Raises:
        UserError: no such folder (where `check` is set).
    """

    def __init__(self, path: Path, check: bool = True) -> None:
        if check and not path.is_dir():
            raise UserError(f"no such folder of videos: {path}; give the folder that the names begin in")
        self.path, self.check = path, check
        self._found: dict[tuple[str, ...], Path | None] = {}

    def file(self, name: str, key: str = "video") -> Path:
        """The path of one video or image.

        Raises:
            BadEntry: the name leads out of the folder, or there is nothing there.
        """
        path = self.path / self._inside(name, key)
        if self.check and not video_exists(path):
            raise BadEntry(Reason.MISSING_VIDEO, f"no such {key}: {path}; paths are relative to {self.path}")
        return path

    def found(self, names: Sequence[str]) -> Path | None:
        """The first of several names that exists, None for none; many entries ask for the same ones.

        Raises:
            BadEntry: a name leads out of the folder.
        """
        key = tuple(names)
        if key not in self._found:
            paths = [self.path / self._inside(name, "video") for name in names]
            self._found[key] = next((path for path in paths if not self.check or os.path.exists(path)), None)
        return self._found[key]

    def first(self, names: Sequence[str]) -> Path:
        """As `found`, where there must be one.

        Raises:
            BadEntry: as `file`.
        """
        path = self.found(names)
        if path is None:
            raise BadEntry(Reason.MISSING_VIDEO, f"none of {', '.join(names)} is in {self.path}")
        return path

    def frames(self, name: str) -> Path:
        """A folder of frames (or a video) of this name, in the folder or in one of its `.tar` chunks.

        Raises:
            BadEntry: as `file`.
        """
        inside = self._inside(name, "video")
        if not self.check or os.path.exists(self.path / inside):
            return self.path / inside
        for chunk in self._chunks:
            if inside in chunk:
                return chunk.path / inside
        if self._packed:
            remedy = f"; its {self._packed} .tar.gz chunks are not read, see `blip3v data unpack`"
        else:
            remedy = f" or in its {len(self._chunks)} .tar chunks"
        raise BadEntry(Reason.MISSING_VIDEO, f"no folder {name} in {self.path}{remedy}")

    @cached_property
    def _chunks(self) -> list[FramesInTar]:
        return [FramesInTar.open(path) for path in sorted(self.path.glob("*.tar"))]

    @cached_property
    def _packed(self) -> int:
        return sum(1 for pattern in ("*.tar.gz", "*.tgz") for _ in self.path.glob(pattern))

    def _inside(self, name: str, key: str) -> str:
        # Names are compared as text: a link in the folder that leads elsewhere was put there by its owner.
        inside = posixpath.normpath(name)
        if not name or "\0" in name or inside.startswith(("/", "../")) or inside in ("..", "."):
            raise BadEntry(
                Reason.LEADS_OUT,
                f"'{key}' leads out of the folder of the file: {name!r}; use a path relative to it",
            )
        return inside
