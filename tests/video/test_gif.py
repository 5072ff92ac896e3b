"""GIFs written by two programs, with frames that carry their own number."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from blip3v.errors import UserError
from blip3v.video import read_video, segment_indices
from blip3v.video.gif import GifFrames, is_gif

COUNT, SIDE = 20, 16


def coded() -> list[np.ndarray]:
    frames = np.zeros((COUNT, 48, 80, 3), dtype=np.uint8)
    for number in range(COUNT):
        for bit in range(5):
            frames[number, :SIDE, SIDE * bit : SIDE * (bit + 1)] = 255 * (number >> bit & 1)
    return list(frames)


def numbers(frames: np.ndarray) -> list[int]:
    places = [SIDE * bit + SIDE // 2 for bit in range(5)]
    return [sum(int(frame[SIDE // 2, x, 0] > 127) << bit for bit, x in enumerate(places)) for frame in frames]


@pytest.fixture(scope="module")
def gifs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """even: FFmpeg's, 10 frames per second. uneven: Pillow's, 30 ms and 90 ms in turn."""
    folder = tmp_path_factory.mktemp("gifs")
    with av.open(str(folder / "even.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "rgb8"
        for image in coded():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="rgb8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    first, *rest = [Image.fromarray(image) for image in coded()]
    first.save(
        folder / "uneven.gif", save_all=True, append_images=rest, duration=[30, 90] * (COUNT // 2), loop=0
    )
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["even", "uneven"])
def test_frames_asked_for(gifs: dict[str, Path], name: str) -> None:
    video = read_video(gifs[name], 8)
    assert video.frames.shape == (8, 48, 80, 3) and video.frames.dtype == np.uint8
    assert numbers(video.frames) == video.indices.tolist() == [4, 5, 7, 9, 10, 12, 14, 16]
    assert video.total_frames == COUNT
    assert video.fps == pytest.approx(10 if name == "even" else 1 / 0.06)
    sampler = partial(segment_indices, generator=np.random.default_rng(3))
    video = read_video(gifs[name], 30, sampler)
    assert numbers(video.frames) == video.indices.tolist()


def test_a_span_goes_by_the_times_of_the_frames(gifs: dict[str, Path]) -> None:
    clip = GifFrames(gifs["uneven"])
    assert clip.times[:4].tolist() == pytest.approx([0, 0.03, 0.12, 0.15]) and clip.end == pytest.approx(1.2)
    assert numbers(read_video(gifs["uneven"], 4, span=(0.12, 0.36)).frames) == [2, 3, 4, 5]
    with pytest.raises(UserError, match="does not lie in it"):
        read_video(gifs["uneven"], 4, span=(1.2, 2.0))


def test_a_gif_is_told_by_its_first_bytes(gifs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "named.mp4").write_bytes(gifs["even"].read_bytes())
    assert read_video(tmp_path / "named.mp4", 4).total_frames == COUNT
    (tmp_path / "none.gif").write_bytes(b"RIFF")
    assert not is_gif(tmp_path / "none.gif") and not is_gif(tmp_path / "gone.gif")


@pytest.mark.parametrize("kept", [6, 13, 200, 1500])
def test_a_damaged_gif_is_a_clear_error_or_a_shorter_clip(
    gifs: dict[str, Path], tmp_path: Path, kept: int
) -> None:
    (tmp_path / "cut.gif").write_bytes(gifs["even"].read_bytes()[:kept])
    try:
        video = read_video(tmp_path / "cut.gif", 4)
    except UserError as error:
        assert "cut.gif" in str(error)
    else:
        assert video.total_frames < COUNT
