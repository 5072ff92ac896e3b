"""Numbered frames, written as real files, come out of a stream in order and with their times."""

from __future__ import annotations

import http.server
import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.decode.formats import ROWS
from blip3v.errors import UserError
from blip3v.video import read_video
from blip3v.video.stream import BROKEN_IN_A_ROW, VideoStream

RATE, COUNT, GREY = 12, 24, 10


def write(path: Path, count: int = COUNT, codec: str = "libx264") -> Path:
    """`count` frames at RATE per second; frame n is a flat grey of GREY * (n % 24)."""
    options = {"g": "8", "bf": "2"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            image = np.full((48, 64, 3), GREY * (number % 24), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams")
    for name in ("clip.mp4", "clip.mkv", "clip.ts", "clip.h264"):
        write(path / name)
    return path


def read(source: Any, fps: float | None = None) -> tuple[list[int], list[float]]:
    """(numbers of the frames, their times)."""
    frames = list(VideoStream(source).frames(fps))
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    return [round(frame.image.mean() / GREY) for frame in frames], [frame.time for frame in frames]


@pytest.fixture
def as_stdin() -> Iterator[Any]:
    """as_stdin(descriptor) makes it this process's standard input until the test ends."""
    before = os.dup(0)
    yield lambda descriptor: os.dup2(descriptor, 0)
    os.dup2(before, 0)
    os.close(before)


def pour(path: Path, target: Any) -> threading.Thread:
    """Writes the file into an opened descriptor or a named pipe, in a thread."""

    def run() -> None:
        with open(target, "wb") as pipe:
            pipe.write(path.read_bytes())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_every_frame_in_order_with_its_time(folder: Path, name: str) -> None:
    numbers, times = read(folder / name)
    assert numbers == list(range(COUNT))
    assert times[0] == 0
    assert times == pytest.approx([n / RATE for n in range(COUNT)], abs=2e-3)


def test_a_file_without_clock_counts_its_frames(folder: Path) -> None:
    numbers, times = read(folder / "clip.h264")
    assert numbers == list(range(COUNT))
    assert np.diff(times).min() > 0 and np.ptp(np.diff(times)) < 1e-6


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (4, range(0, 24, 3)),
        (12, range(24)),
        (100, range(24)),
        (0.5, [0]),
        (1, [0, 12]),
        # First frame at or after k / 5 s, which is frame ceil(12 k / 5).
        (5, [0, 3, 5, 8, 10, 12, 15, 17, 20, 22]),
    ],
)
def test_frames_per_second(folder: Path, name: str, fps: float, expected: Any) -> None:
    numbers, times = read(folder / name, fps)
    assert numbers == list(expected)
    assert times == pytest.approx([n / RATE for n in expected], abs=2e-3)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts"])
def test_a_pipe_on_standard_input(folder: Path, name: str, as_stdin: Any) -> None:
    end, start = os.pipe()
    as_stdin(end)
    os.close(end)
    thread = pour(folder / name, start)
    assert read("-")[0] == list(range(COUNT))
    thread.join()


def test_a_file_on_standard_input(folder: Path, as_stdin: Any) -> None:
    with open(folder / "clip.mp4", "rb") as file:
        as_stdin(file.fileno())
        assert read("-")[0] == list(range(COUNT))


def test_ctrl_c_while_a_pipe_is_silent(folder: Path, as_stdin: Any) -> None:
    end, start = os.pipe()
    as_stdin(end)
    os.close(end)
    os.write(start, (folder / "clip.ts").read_bytes())
    frames = VideoStream("-").frames()
    next(frames)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(frames)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(start)


def test_a_named_pipe(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "camera")
    thread = pour(folder / "clip.ts", tmp_path / "camera")
    assert read(tmp_path / "camera")[0] == list(range(COUNT))
    thread.join()


def test_an_address(folder: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert read(f"{address}/clip.mkv", fps=4)[0] == list(range(0, 24, 3))
        with pytest.raises(UserError, match=r"cannot open http.*gone\.mkv"):
            VideoStream(f"{address}/gone.mkv")
        server.shutdown()


def test_the_pictures_are_those_of_read_video(folder: Path) -> None:
    """Two decoders with two colour converters: the same within a few of 255."""
    streamed = np.stack([frame.image for frame in VideoStream(folder / "clip.mp4").frames()])
    assert np.abs(streamed.astype(int) - read_video(folder / "clip.mp4", COUNT).frames).max() <= 3


def test_turned_as_the_file_says(tmp_path: Path) -> None:
    path = ROWS["h264_turned_90.mp4"](tmp_path / "turned.mp4").path
    streamed = np.stack([frame.image for frame in VideoStream(path).frames()])
    assert np.array_equal(streamed, read_video(path, len(streamed)).frames)


def test_a_clock_that_starts_anew_is_continued(folder: Path, tmp_path: Path) -> None:
    """Two recordings of a receiver in one file, as `cat a.ts b.ts` makes it."""
    (tmp_path / "both.ts").write_bytes(2 * (folder / "clip.ts").read_bytes())
    numbers, times = read(tmp_path / "both.ts")
    assert len(numbers) >= 2 * COUNT - 2  # the decoder may drop frames at the seam
    assert np.diff(times).min() > 0
    assert times[-1] == pytest.approx((2 * COUNT - 1) / RATE, abs=0.3)


def test_damage_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mkv", codec="mjpeg")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xd8"]
    assert len(starts) == COUNT
    data[starts[5] : starts[5] + 40] = bytes(40)
    path.write_bytes(data)
    numbers = read(path)[0]
    assert set(numbers) >= set(range(COUNT)) - {5}


def test_damage_here_and_there_never_ends_a_stream(tmp_path: Path) -> None:
    """More damaged frames in all than may come in a row."""
    count = 2 * BROKEN_IN_A_ROW + 40
    path = write(tmp_path / "clip.mkv", count, codec="mjpeg")
    head, *frames = path.read_bytes().split(b"\xff\xd8")
    mixed = [frame[:2] + bytes(40) + frame[42:] if n % 2 else frame for n, frame in enumerate(frames)]
    path.write_bytes(head + b"".join(b"\xff\xd8" + frame for frame in mixed))
    assert read(path)[0] == [number % 24 for number in range(0, count, 2)]


def test_a_source_that_only_sends_damage_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mkv", count=2 * BROKEN_IN_A_ROW, codec="mjpeg")
    head, *frames = path.read_bytes().split(b"\xff\xd8")
    damaged = [frame[:2] + bytes(40) + frame[42:] for frame in frames[3:]]
    path.write_bytes(head + b"".join(b"\xff\xd8" + frame for frame in frames[:3] + damaged))
    with pytest.raises(UserError, match=r"clip\.mkv breaks off behind 3 frames"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"this is no video at all\n" * 50])
def test_a_file_that_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.mp4").write_bytes(content)
    with pytest.raises(
        UserError, match=r"cannot open .*broken\.mp4 as a video \(Invalid data.*\); check"
    ) as caught:
        VideoStream(tmp_path / "broken.mp4")
    assert "\n" not in str(caught.value)


def test_a_file_cut_short(folder: Path, tmp_path: Path) -> None:
    """What can be decoded is given; a header alone is an error."""
    data = (folder / "clip.ts").read_bytes()
    (tmp_path / "half.ts").write_bytes(data[: len(data) * 2 // 3])
    numbers = read(tmp_path / "half.ts")[0]
    assert 4 < len(numbers) < COUNT and numbers == sorted(set(numbers))
    data = (folder / "clip.mkv").read_bytes()
    (tmp_path / "head.mkv").write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    with pytest.raises(UserError, match=r"head\.mkv"):
        read(tmp_path / "head.mkv")


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source, message in (
        ("nowhere.mp4", r"no such video: nowhere\.mp4; give a file"),
        ("/dev/video97", "no such camera: /dev/video97"),
        (str(tmp_path), "is a folder; a stream is"),
        ("/dev/null", "cannot open /dev/null as a video .* no other program"),
        ("udf://nowhere", "cannot open udf://nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            VideoStream(source)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="no pictures in it"):
        VideoStream(tmp_path / "song.m4a")


def test_a_list_that_leads_elsewhere_is_not_followed(folder: Path, tmp_path: Path, as_stdin: Any) -> None:
    """FFmpeg takes this text for a playlist, whatever its name, and would read the file in it."""
    listed = tmp_path / "clip.mp4"
    listed.write_text(f"ffconcat version 1.0\nfile {folder.name}/clip.ts\n")
    shutil.copytree(folder, tmp_path / folder.name)
    with pytest.raises(UserError, match="not a format of videos"):
        VideoStream(listed)
    with listed.open("rb") as file:
        as_stdin(file.fileno())
        with pytest.raises(UserError, match="not a format of videos"):
            VideoStream("-")


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_fps_out_of_range(folder: Path, fps: float) -> None:
    with pytest.raises(UserError, match="fps must be above 0"):
        VideoStream(folder / "clip.mp4").frames(fps)


def test_what_is_live() -> None:
    """Decides whether frames may be dropped; nothing can be opened here, so only errors say what it was."""
    with pytest.raises(UserError, match="connected"):
        VideoStream("rtsp://127.0.0.1:9/none", patience=1.0)
    with pytest.raises(UserError, match="check that it plays"):
        VideoStream("http://127.0.0.1:9/none", patience=1.0)


def test_the_source_is_closed_with_the_iterator(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("NOT TESTED: this system does not show what is open")
    # A file of its own: what other tests left open is closed whenever it is collected.
    path = write(tmp_path / "clip.mp4")

    def opened() -> int:
        return sum(file.samefile(path) for file in Path("/proc/self/fd").iterdir() if file.exists())

    frames = VideoStream(path).frames()
    next(frames)
    assert opened() == 1
    frames.close()
    assert opened() == 0


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    path = write(tmp_path / "long.mkv", count=4000, codec="mpeg4")
    for number, _ in enumerate(VideoStream(path).frames()):
        if number == 500:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert number == 3999
    # 3,500 frames of 9 kB would be 32 MB; ru_maxrss is in kB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8000
