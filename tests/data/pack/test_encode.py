from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.decode.formats import ROWS
from blip3v.data.pack import encode
from blip3v.data.pack.encode import encode_clip
from blip3v.data.pack.plan import ClipJob, Plan, Settings
from blip3v.errors import UserError
from blip3v.video import Video, read_video
from blip3v.video.transforms import square_frames


def opened(images: list[bytes]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])


@pytest.mark.parametrize("size", [32, 0])
@pytest.mark.parametrize("at_once", [3, 100])
def test_png_holds_the_frames_themselves(
    corpus: Path, size: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "AT_ONCE", at_once)
    settings = Settings(frames=8, size=size, format="png")
    clip = encode_clip(ClipJob(0, corpus.parent / "a.mp4", "a.mp4", (0.5, 2.0), False, (), settings))
    indices = np.array(clip.fields["indices"])
    assert indices.tolist() == [5, 7, 9, 11, 13, 15, 17, 19]  # the middle of eighths of frames 5 to 19
    frames = read_video(corpus.parent / "a.mp4", 40, lambda total, n: np.arange(total)).frames[indices]
    assert np.array_equal(opened(clip.images), square_frames(frames, size) if size else frames)
    assert clip.fields | {"indices": 0} == {
        "source": "a.mp4", "span": (0.5, 2.0), "fps": 10.0, "total_frames": 40, "shown": [5, 20],
        "indices": 0, "times": [index / 10 for index in indices], "width": 64, "height": 48, "size": size,
    }  # fmt: skip


def test_an_image_and_a_folder_have_no_clock(plan_of: Callable[..., Plan], corpus: Path) -> None:
    plan = plan_of(frames=4)
    jobs = {job.source: job for job in map(plan.job, range(plan.num_clips))}
    image, folder = encode_clip(jobs["still.png"]), encode_clip(jobs["frames"])
    assert image.fields["times"] is None and image.fields["indices"] == [0] and len(image.images) == 1
    assert (image.fields["width"], image.fields["height"]) == (50, 30)
    assert folder.fields["times"] is None and folder.fields["indices"] == [1, 4, 7, 10]
    assert opened(folder.images).shape == (4, 32, 32, 3)


def test_times_are_those_of_the_frames(tmp_path: Path) -> None:
    """Frames last differently long, so `index / fps` would be wrong; and they are read in two pieces."""
    made = ROWS["h264_uneven.mp4"](tmp_path / "a.mp4")
    settings = Settings(frames=20, size=0, format="jpg")
    job = ClipJob(0, made.path, "a.mp4", None, False, (), settings)
    fields = encode_clip(job).fields
    expected = np.asarray(made.times)[fields["indices"]]
    assert len(fields["times"]) == 20 > encode.AT_ONCE
    assert np.abs(np.array(fields["times"]) - expected).max() < 1e-3
    assert np.abs(np.array(fields["indices"]) / fields["fps"] - expected).max() > 0.01


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no video")
    (tmp_path / "x.png").write_bytes(b"no image")
    for name, is_image in (("x.mp4", False), ("x.png", True), ("gone.mp4", False)):
        with pytest.raises(UserError, match=name):
            encode_clip(ClipJob(0, tmp_path / name, name, None, is_image, (), Settings()))


def test_a_video_that_is_shorter_than_it_seemed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames from 30 on do not decode, which shows when one of them is asked for."""

    def read(path: Path, num: int, sampler: Callable[..., np.ndarray], span: Any, decoder: str) -> Video:
        indices = sampler(40, num)
        if indices.max() >= 30:
            indices = sampler(30, num)
        frames = np.broadcast_to(indices[:, None, None, None], (len(indices), 2, 2, 3)).astype(np.uint8)
        return Video(frames, indices, 10.0, 30, str(path))

    monkeypatch.setattr(encode, "read_video", read)
    settings = Settings(frames=20, size=0, format="png")
    clip = encode_clip(ClipJob(0, Path("x.mp4"), "x.mp4", None, False, (), settings))
    assert clip.fields["shown"] == [0, 30] and len(clip.images) == 20
    assert opened(clip.images)[:, 0, 0, 0].tolist() == clip.fields["indices"]
    assert max(clip.fields["indices"]) < 30
