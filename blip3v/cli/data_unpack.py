"""`blip3v data unpack CHUNK ...`: published chunks of frames as plain .tar files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from blip3v.cli.progress import bar
from blip3v.errors import UserError


def unpack(chunks: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path) -> None:
    """Turn .tar.gz chunks of frames into plain .tar files.

    Args:
        chunks: the published files.
        out: folder for the .tar files; those that are there already are left as they are.
    """
    from rich.console import Console

    from blip3v.data.unpack import unpack_chunk
    from blip3v.video.tar_frames import FramesInTar

    if not chunks:
        raise UserError("give the .tar.gz chunks to unpack")
    for chunk in chunks:
        total = chunk.stat().st_size if chunk.is_file() else 0
        with bar(Console(), f"unpacking {chunk.name}", total) as advance:
            path, made = unpack_chunk(chunk, out, advance)
        count = len(FramesInTar.open(path).folders)
        print(f"{path}: {count:,} folders of frames{'' if made else ', there already'}")
