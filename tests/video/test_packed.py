from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip3v.errors import UserError
from blip3v.video import packed, read_video
from blip3v.video.packed import PackedClip
from blip3v.video.tar_frames import FramesInTar, video_exists

STORED = [3, 10, 11, 30]
FIELDS = {"total_frames": 50, "fps": 25.0, "shown": [2, 40], "indices": STORED}


def picture(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, clips: dict[str, dict[str, Any] | bytes], folder: str = "") -> Path:
    """Packed clips of four frames, whose grey says which frame of the video each is."""
    with tarfile.open(path, "w") as tar:
        for key, fields in clips.items():
            header = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
            files = {"json": header} | {f"{n:03d}.png": picture(k) for n, k in enumerate(STORED)}
            for rest, data in files.items():
                info = tarfile.TarInfo(f"{folder}{key}.{rest}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write(tmp_path / "shard-000000.tar", {"00000000": FIELDS, "00000007": FIELDS})


@pytest.mark.parametrize("at_once", [0, 8 << 20])
def test_the_nearest_frames_of_those_asked_for(
    shard: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "AT_ONCE", at_once)
    asked: list[tuple[int, int]] = []

    def sampler(total: int, n: int) -> np.ndarray:
        asked.append((total, n))
        return np.array([0, 4, 5, 37, 37, 8, 19])

    video = read_video(shard / "00000007", 7, sampler)
    assert asked == [(38, 7)]  # the frames of the span, from 2 to 39
    # Frames 2, 6, 7, 39, 39, 10 and 21 of the video; 6 and 7 are nearer to 3 and 10.
    assert video.indices.tolist() == [3, 3, 10, 30, 30, 10, 30]
    assert video.frames[:, 0, 0, 0].tolist() == video.indices.tolist()
    assert (video.fps, video.total_frames, video.path) == (25.0, 50, str(shard / "00000007"))


def test_of_two_frames_as_near_the_earlier_one(shard: Path) -> None:
    clip = PackedClip(FramesInTar.open(shard), "00000000")
    asked = np.arange(50)
    distances = np.abs(asked[:, None] - np.array(STORED)[None])
    assert clip.nearest(asked).tolist() == distances.argmin(axis=1).tolist()  # argmin takes the first


def test_only_the_frames_asked_for_are_decoded_and_each_once(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blip3v.video import decode

    opened: list[bytes] = []
    read_image = decode.read_image

    def counted(source: io.BytesIO, name: str) -> np.ndarray:
        opened.append(source.getvalue())
        return read_image(source, name)

    monkeypatch.setattr(decode, "read_image", counted)
    read_video(shard / "00000000", 8, lambda total, n: np.array([1, 1, 1, 1, 28, 28, 28, 28]))
    assert opened == [picture(3), picture(30)]


def test_the_tar_is_read_with_one_call(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_video(shard / "00000000", 2)
    calls: list[int] = []
    read = FramesInTar.read

    def counted(self: FramesInTar, offset: int, size: int) -> bytes:
        calls.append(size)
        return read(self, offset, size)

    monkeypatch.setattr(FramesInTar, "read", counted)
    monkeypatch.setattr(Path, "open", None)  # the tar is open already
    read_video(shard / "00000000", 4)
    assert len(calls) == 1 and calls[0] < shard.stat().st_size / 2


def test_keys_are_videos_and_folders_stay_folders(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", {"7": FIELDS, "8": FIELDS}, folder="train/")
    assert FramesInTar.open(path).folders.tolist() == [b"7", b"8"]
    assert video_exists(path / "8") and not video_exists(path / "9")
    # A JSON beside frames in a folder does not make a clip of it: no numbers stand behind its key.
    with tarfile.open(tmp_path / "folder.tar", "w") as tar:
        for name, data in (
            ("clip/0001.json", b"{}"),
            ("clip/0001.png", picture(1)),
            ("clip/a.png", picture(2)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    video = read_video(tmp_path / "folder.tar" / "clip", 2)
    assert video.frames[:, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (b"no json", "is no packed clip"),
        ({"total_frames": 5}, "is no packed clip .'fps'"),
        (FIELDS | {"indices": [1, 2]}, "lists 2 frames, not 4"),
        (FIELDS | {"shown": [5, 5]}, "lists 4 frames"),
        (FIELDS | {"shown": 7}, "is no packed clip"),
    ],
)
def test_a_header_that_is_damaged(tmp_path: Path, fields: Any, message: str) -> None:
    path = write(tmp_path / "x.tar", {"1": fields})
    with pytest.raises(UserError, match=message):
        read_video(path / "1", 2)


def test_errors_name_the_clip(shard: Path) -> None:
    with pytest.raises(UserError, match="no folder of frames 00000003 in"):
        read_video(shard / "00000003", 2)
    with pytest.raises(UserError, match="no packed clip 00000003"):
        PackedClip(FramesInTar.open(shard), "00000003")
    with pytest.raises(UserError, match="leave the span out"):
        read_video(shard / "00000000", 2, span=(0.0, 1.0))


def test_webdataset_sees_one_sample_for_each_clip(shard: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["00000000", "00000007"]
    for sample in samples:
        assert json.loads(sample["json"]) == FIELDS
        assert [sample[f"{number:03d}.png"] for number in range(4)] == [picture(k) for k in STORED]
