from __future__ import annotations

import multiprocessing
import tarfile
from pathlib import Path

import pytest

from blip3v.data.pack import shards
from blip3v.data.pack.encode import Encoded
from blip3v.data.pack.shards import add_clip, only_one, written_shard, written_whole
from blip3v.errors import UserError


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(KeyboardInterrupt), written_whole(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not path.exists()
    with written_whole(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"] and path.read_bytes() == b"whole"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"), written_whole(tmp_path / "x") as file:
        file.write(b"1")
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_the_clips_decides_the_bytes(tmp_path: Path) -> None:
    clip = Encoded({"source": "ä.mp4"}, [b"one", b"two"])
    for name in ("a.tar", "b.tar"):
        with written_shard(tmp_path / name) as shard:
            add_clip(shard, "00000007", clip, "jpg")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            "00000007.json",
            "00000007.000.jpg",
            "00000007.001.jpg",
        ]
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}


def _pack_too(folder: Path) -> None:
    with only_one(folder):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    codes = []
    with only_one(tmp_path / "out"):
        other = context.Process(target=_pack_too, args=(tmp_path / "out",))
        other.start()
        other.join(20)
        codes.append(other.exitcode)
    other = context.Process(target=_pack_too, args=(tmp_path / "out",))
    other.start()
    other.join(20)
    assert [*codes, other.exitcode] == [1, 0]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"), only_one(tmp_path / "file"):
        pass
