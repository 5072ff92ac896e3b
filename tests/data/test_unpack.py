from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data import unpack
from blip3v.data.unpack import unpack_chunk
from blip3v.errors import UserError
from blip3v.video import read_video


@pytest.fixture
def chunk(put: Callable[..., Path]) -> Path:
    folder = put("packed/one", "packed/two")
    with tarfile.open(folder / "chunk_0.tar.gz", "w:gz") as tar:
        tar.add(folder / "packed" / "one", "one")
        tar.add(folder / "packed" / "two", "../../two")
    return folder / "chunk_0.tar.gz"


def test_a_chunk_becomes_a_tar_that_is_read_in_place(chunk: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    path, made = unpack_chunk(chunk, tmp_path / "out", steps.append)
    assert (path, made) == (tmp_path / "out" / "chunk_0.tar", True)
    assert sum(steps) == chunk.stat().st_size
    assert read_video(path / "one", 4).total_frames == 20
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, path.name + ".frames.npz"}
    before = path.stat().st_mtime_ns
    assert unpack_chunk(chunk, tmp_path / "out") == (path, False)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["cut", "bytes", "no gzip", "no tar"])
def test_a_damaged_chunk_leaves_nothing_behind(chunk: Path, tmp_path: Path, damage: str) -> None:
    import gzip

    whole = chunk.read_bytes()
    middle = len(whole) // 2
    chunk.write_bytes(
        {
            "cut": whole[:middle],
            "bytes": whole[:middle] + bytes(100) + whole[middle + 100 :],
            "no gzip": b"x" * 100,
            "no tar": gzip.compress(b"x" * 2000),
        }[damage]
    )
    with pytest.raises(UserError, match=r"chunk_0\.tar"):
        unpack_chunk(chunk, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(
    chunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpack.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        unpack_chunk(chunk, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").touch()
    for name in ("x.tar", "gone.tar.gz"):
        with pytest.raises(UserError, match="give the published chunks"):
            unpack_chunk(tmp_path / name, tmp_path)
