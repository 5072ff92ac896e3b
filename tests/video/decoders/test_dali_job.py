from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from benchmarks.decode.files.writing import Look, write  # noqa: E402
from blip3v.video.decoders import dali_job  # noqa: E402
from blip3v.video.decoders.dali_job import Job, NotForDali, job_for, with_indices  # noqa: E402
from blip3v.video.decoders.protocol import DecodeError, Limits, UnsupportedVideo, VideoInfo  # noqa: E402
from blip3v.video.transforms import pad_to_square  # noqa: E402

VP9 = Look("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "8"})


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("size", [(5, 8), (8, 5), (4, 9), (7, 7), (6, 2)])
def test_padding_before_turning_is_padding_after_it(turns: int, size: tuple[int, int]) -> None:
    height, width = size
    coded = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    upright = np.rot90(coded, turns, axes=(1, 2))
    info = VideoInfo(
        Path("a"), "webm", "vp9", upright.shape[2], upright.shape[1], turns, np.zeros(1), duration=1.0
    )
    job = Job(info, np.empty(0, np.uint8), np.zeros(1, np.int32), None)
    assert job.coded_size == size
    start, sides = job.square()
    square = np.full((1, sides[0], sides[1], 3), 127, dtype=np.uint8)
    square[:, -start[0] : height - start[0], -start[1] : width - start[1]] = coded
    np.testing.assert_array_equal(np.rot90(square, turns, axes=(1, 2))[0], pad_to_square(upright[0]))


def test_a_file_and_its_frames(tmp_path: Path) -> None:
    made = write(tmp_path / "a.webm", VP9, range(6))
    job = job_for(made.path, [5, 0, 5], "cpu", Limits())
    assert job.data.tobytes() == made.path.read_bytes() and job.colours is None
    assert job.indices.tolist() == [5, 0, 5] and job.indices.dtype == np.int32
    assert with_indices(job, [1]).indices.tolist() == [1] and job.indices.tolist() == [5, 0, 5]
    for outside in (6, -1):
        with pytest.raises(IndexError, match="has frames 0 to 5"):
            job_for(made.path, [0, outside], "cpu", Limits())


def test_colours_that_the_file_names(tmp_path: Path) -> None:
    made = write(tmp_path / "a.webm", Look("libvpx-vp9", VP9.options, bt709=True), range(2))
    assert job_for(made.path, [0], "cpu", Limits()).colours is not None


def test_codecs_differ_by_device(tmp_path: Path) -> None:
    h264 = write(tmp_path / "a.mp4", Look(options={"preset": "ultrafast"}), range(3)).path
    with pytest.raises(NotForDali, match="does not decode h264 on a cpu") as caught:
        job_for(h264, [0], "cpu", Limits())
    assert caught.value.codec == "h264"
    assert job_for(h264, [0], "gpu", Limits()).info.num_frames == 3


def test_files_that_dali_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, device: str = "cpu", exact: bool = False) -> str:
        with pytest.raises(UnsupportedVideo, match="read it with the decoder pyav") as caught:
            job_for(path, [0], device, Limits(), exact)
        return str(caught.value)

    plain = write(tmp_path / "a.webm", VP9, range(3)).path
    assert "do not tell its frames" in refused(plain, exact=True)

    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream("mjpeg", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert "several videos" in refused(tmp_path / "two.mkv")

    joined = tmp_path / "joined.mjpeg"
    for size in ((96, 64), (32, 32)):
        part = write(tmp_path / "part.mjpeg", Look("mjpeg", pix_fmt="yuvj420p", size=size), range(3))
        with joined.open("ab") as file:
            file.write(part.path.read_bytes())
    assert "several sizes" in refused(joined)

    monkeypatch.setattr(dali_job, "MAX_BYTES", 100)
    assert "larger" in refused(plain)


def test_limits_and_broken_files_are_errors_of_their_own(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.webm", VP9, range(3)).path
    with pytest.raises(DecodeError, match="pixels") as caught:
        job_for(plain, [0], "cpu", Limits(max_pixels=100))
    assert not isinstance(caught.value, UnsupportedVideo)
    (tmp_path / "text.webm").write_text("no video\n" * 50)
    with pytest.raises(DecodeError, match=r"text\.webm"):
        job_for(tmp_path / "text.webm", [0], "cpu", Limits())
