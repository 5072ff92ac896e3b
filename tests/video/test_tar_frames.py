from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip3v.errors import UserError
from blip3v.video import read_video
from blip3v.video.tar_frames import INDEX_SUFFIX, FramesInTar, scan, split_tar_path, video_exists


def picture(grey: int, size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


@pytest.fixture
def chunk(tmp_path: Path) -> Path:
    """Two clips of 12 and 2 frames, in an order that is not theirs, and things that are no frames."""
    members = {f"./frames/b/c01_{n}.png": picture(10 * n) for n in reversed(range(12))}
    members |= {"./frames/a/1.png": picture(200), "./frames/a/2.png": picture(210)}
    members |= {"./frames/a/notes.txt": b"x", "./frames/a/._1.png": b"left by an archive", "readme.txt": b"x"}
    return write(tmp_path / "chunk.tar", members, links=("./frames/a/3.png", "./frames/c/1.png"))


def test_frames_are_read_in_place_and_in_order(chunk: Path) -> None:
    video = read_video(chunk / "b", 12)
    assert video.frames[:, 0, 0, 0].tolist() == [10 * n for n in range(12)]
    assert (video.total_frames, video.fps, video.path) == (12, None, str(chunk / "b"))
    assert read_video(chunk / "a", 2).frames[:, 0, 0, 0].tolist() == [200, 210]  # not the link


def test_which_folders_are_there(chunk: Path) -> None:
    frames = FramesInTar.open(chunk)
    assert frames.folders.tolist() == [b"a", b"b"]
    assert "a" in frames and "c" not in frames and "ab" not in frames and "x" * 500 not in frames
    assert (frames.count("b"), frames.count("c")) == (12, 0)
    assert video_exists(chunk / "a") and video_exists(chunk) and not video_exists(chunk / "c")
    assert split_tar_path(chunk / "a") == (chunk, "a")
    assert split_tar_path(chunk.parent / "a") is None
    with pytest.raises(UserError, match="no folder of frames c in"):
        read_video(chunk / "c", 2)


def test_folders_below_folders_and_one_alone(tmp_path: Path) -> None:
    data = picture(0)
    several = write(tmp_path / "several.tar", {"x/1/a.png": data, "x/2/a.png": data, "x/2/y/a.png": data})
    assert FramesInTar.open(several).folders.tolist() == [b"1", b"2", b"2/y"]
    alone = write(tmp_path / "alone.tar", {"deep/inside/clip/a.png": data})
    assert FramesInTar.open(alone).folders.tolist() == [b"clip"]
    mixed = write(tmp_path / "mixed.tar", {"/etc/a.png": data, "../up/a.png": data, "b/a.png": data})
    assert read_video(mixed / "b", 1).total_frames == 1
    assert not (tmp_path.parent / "up").exists()


def test_the_index_is_kept_beside_the_tar(chunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FramesInTar.open(chunk)
    kept = chunk.with_name(chunk.name + INDEX_SUFFIX)
    assert kept.is_file() and [path.name for path in chunk.parent.iterdir()].count(kept.name) == 1
    monkeypatch.setattr("blip3v.video.tar_frames.scan", None)  # whoever walks over the tar again fails
    os.link(chunk, chunk.with_name("same.tar"))
    os.link(kept, chunk.with_name("same.tar" + INDEX_SUFFIX))
    again = FramesInTar.open(chunk.with_name("same.tar"))
    assert np.array_equal(again.offsets, first.offsets) and np.array_equal(again.folders, first.folders)


@pytest.mark.parametrize("content", [b"", b"no index", None])
def test_an_index_that_does_not_fit_is_made_anew(chunk: Path, content: bytes | None) -> None:
    FramesInTar.open(chunk)
    kept = chunk.with_name(chunk.name + INDEX_SUFFIX)
    if content is not None:
        kept.write_bytes(content)
        os.utime(chunk, ns=(1, 1))
    else:
        write(chunk, {"new/clip/1.png": picture(5)})
        os.utime(chunk, ns=(2, 2))
    expected = scan(chunk)
    assert np.array_equal(FramesInTar.open(chunk).offsets, expected.offsets)


def test_a_folder_that_cannot_be_written_to(chunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("blip3v.video.tar_frames.os.replace", refuse)
    assert FramesInTar.open(chunk).count("b") == 12
    assert [path.name for path in chunk.parent.iterdir()] == [chunk.name]


def test_damaged_and_empty_tars(chunk: Path, tmp_path: Path) -> None:
    whole = chunk.read_bytes()
    for name, content in (("none.tar", b""), ("text.tar", b"no tar" * 500), ("cut.tar", whole[:5000])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            FramesInTar.open(tmp_path / name)
    with pytest.raises(UserError, match="no such chunk"):
        FramesInTar.open(tmp_path / "gone.tar")


def test_a_broken_image_and_two_sizes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.tar",
        {
            "a/1.jpg": b"\xff\xd8\xff broken",
            "b/1.png": picture(1),
            "b/2.png": picture(1, (9, 9)),
            "c/1.png": b"",
        },
    )
    for folder, message in (
        ("a", r"cannot read image .*x\.tar/a"),
        ("b", "different sizes"),
        ("c", "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            read_video(path / folder, 2)
    with pytest.raises(UserError, match="does not say when"):
        read_video(path / "b", 1, span=(0, 1))
