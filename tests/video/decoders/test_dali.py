from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nvidia.dali", reason="NOT TESTED: needs the dali extra")
av = pytest.importorskip("av")

from benchmarks.decode.files.headers import skip_in_edit_list  # noqa: E402
from benchmarks.decode.files.painted import read_numbers  # noqa: E402
from benchmarks.decode.files.writing import Look, Made, write  # noqa: E402
from blip3v.video.decoders import dali  # noqa: E402
from blip3v.video.decoders.dali import DaliDecoder, read_batch  # noqa: E402
from blip3v.video.decoders.protocol import DecodeError, Limits, UnsupportedVideo  # noqa: E402
from blip3v.video.decoders.pyav import PyAVDecoder  # noqa: E402

FAST = {"deadline": "realtime", "cpu-used": "8", "g": "8"}
VP8, VP9 = Look("libvpx", FAST), Look("libvpx-vp9", FAST)
MJPEG = Look("mjpeg", pix_fmt="yuvj420p")
UNEVEN = np.cumsum([0.0] + [0.04, 0.1, 0.02, 0.5, 0.03] * 6)[:24].tolist()
# name -> look, how it is written
FILES: dict[str, tuple[Look, dict[str, object]]] = {
    "vp8.webm": (VP8, {}),
    "vp8.avi": (VP8, {}),
    "vp8.ivf": (VP8, {}),
    "vp9.webm": (VP9, {}),
    "vp9.mp4": (VP9, {}),
    "vp9_no_cues.webm": (VP9, {"container_options": {"live": "1"}}),
    "vp9_fragments.mp4": (VP9, {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "vp9_uneven.webm": (VP9, {"seconds": UNEVEN}),
    "vp9_late.mkv": (VP9, {"start": 3.0}),
    "vp9_odd.webm": (Look("libvpx-vp9", FAST, size=(97, 65)), {}),
    "vp9_444.webm": (Look("libvpx-vp9", FAST, pix_fmt="yuv444p"), {}),
    "vp9_turned_90.mp4": (Look("libvpx-vp9", FAST, rotation=90), {}),
    "vp9_turned_180.mp4": (Look("libvpx-vp9", FAST, rotation=180), {}),
    "vp9_one_frame.webm": (VP9, {"numbers": [7]}),
    "mjpeg.avi": (MJPEG, {}),
    "mjpeg.mov": (MJPEG, {}),
    "mjpeg.mkv": (MJPEG, {}),
    "mjpeg_uneven.avi": (MJPEG, {"seconds": UNEVEN}),
    "mjpeg_turned_270.mov": (Look("mjpeg", pix_fmt="yuvj420p", rotation=270), {}),
}
MEAN = 3.0  # of 255, from PyAV


def _write(path: Path, look: Look, **settings: object) -> Made:
    return write(path, look, **({"numbers": range(24)} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_a_full_decode(name: str, tmp_path: Path) -> None:
    look, settings = FILES[name]
    made = _write(tmp_path / name, look, **settings)
    count = len(made.numbers)
    asked = np.array([17, 0, 23, 8, 17, 16, 7, 9]) if count > 1 else np.array([0, 0])
    with DaliDecoder("cpu").open(made.path) as video, PyAVDecoder().open(made.path) as reference:
        assert video.info.num_frames == count
        assert (video.info.width, video.info.height) == made.size
        frames = video.frames_at(asked)
        assert frames.dtype == np.uint8 and frames.shape == (len(asked), *made.size[::-1], 3)
        assert read_numbers(frames) == [made.numbers[index] for index in asked]
        every = video.frames_at(range(count))
        assert read_numbers(every) == made.numbers
        apart = np.abs(every.astype(int) - reference.frames_at(range(count)))
        assert apart.mean(axis=(1, 2, 3)).max() <= MEAN


def test_ten_bit() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "decode" / "files" / "vp9_10bit.webm"
    with DaliDecoder("cpu").open(path) as video, PyAVDecoder().open(path) as reference:
        asked = [3, 1, 2]
        apart = np.abs(video.frames_at(asked).astype(int) - reference.frames_at(asked))
        assert apart.mean() <= MEAN


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bt709", [False, True])
def test_colours(bt709: bool, full_range: bool, tmp_path: Path) -> None:
    look = Look("libvpx-vp9", FAST | {"b": "4M"}, bt709=bt709, full_range=full_range)
    path = _write(tmp_path / "a.webm", look).path
    with DaliDecoder("cpu").open(path) as video, PyAVDecoder().open(path) as reference:
        asked = range(0, 24, 5)
        frames, expected = video.frames_at(asked).astype(int), reference.frames_at(asked).astype(int)
        # The lower half: at the edges of the number, colour planes enlarged in another way differ.
        lower = np.s_[:, 36:, 4:-4]
        assert np.abs(frames - expected)[lower].mean() < 1.5
        assert np.abs((frames - expected)[lower].mean(axis=(0, 1, 2))).max() < 1.5
        if bt709:
            video._job = replace(video._job, colours=None)
            wrong = video.frames_at(asked).astype(int)
            assert np.abs(wrong - expected)[lower].mean() > 3  # what the correction is for


def _edited(source: Path, target: Path, edit: Callable[[int, bytes], bytes]) -> Path:
    """Another file with changed packets."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if not packet.size:
                continue
            changed = av.Packet(edit(number, bytes(packet)))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.duration, changed.is_keyframe, changed.stream = (
                packet.duration,
                packet.is_keyframe,
                stream,
            )
            new.mux(changed)
    return target


@pytest.mark.parametrize("container", ["webm", "avi", "ivf"])
def test_hidden_frames_are_not_counted(container: str, tmp_path: Path) -> None:
    made = _write(tmp_path / f"a.{container}", VP8)
    hidden = (3, 8, 9, 20)  # 8 is a key frame
    path = _edited(
        made.path,
        tmp_path / f"b.{container}",
        lambda number, data: bytes([data[0] & ~0x10]) + data[1:] if number in hidden else data,
    )
    shown = [number for number in made.numbers if number not in hidden]
    with DaliDecoder("cpu").open(path) as video:
        assert video.info.num_frames == len(shown)
        assert read_numbers(video.frames_at(range(len(shown)))) == shown
        for index in (16, 7, 3, 6, 19):
            assert read_numbers(video.frames_at([index])) == [shown[index]]
    with pytest.raises(UnsupportedVideo, match="show nothing"):  # NVIDIA's decoder was not tried
        dali.job_for(path, [0], "gpu", Limits())


def test_superframe_that_shows_an_earlier_frame(tmp_path: Path) -> None:
    made = _write(tmp_path / "a.webm", VP9)

    def hide(number: int, data: bytes) -> bytes:
        if number not in (8, 16):
            return data
        # A key frame with show_frame off, and behind it "show reference 0", which it has just become.
        frames = (bytes([data[0] & ~2]) + data[1:], b"\x88")
        index = b"\xd9" + b"".join(len(frame).to_bytes(4, "little") for frame in frames) + b"\xd9"
        return b"".join(frames) + index

    path = _edited(made.path, tmp_path / "b.webm", hide)
    with DaliDecoder("cpu").open(path) as video:
        assert video.info.num_frames == 24
        for indices in ([8], [10, 16, 17], [23, 7], range(24)):
            assert read_numbers(video.frames_at(indices)) == list(indices)


def test_edit_list(tmp_path: Path) -> None:
    made = _write(tmp_path / "a.mp4", VP9)
    skip_in_edit_list(made.path, 5, 25)
    with DaliDecoder("cpu").open(made.path) as video:
        assert video.info.num_frames == 19
        for indices in ([0], [18], [12, 3], range(19)):
            assert read_numbers(video.frames_at(indices)) == [index + 5 for index in indices]


@pytest.mark.parametrize("name", ["vp9.webm", "mjpeg.mkv"])
def test_a_file_that_was_cut_off(name: str, tmp_path: Path) -> None:
    made = _write(tmp_path / name, FILES[name][0])
    made.path.write_bytes(made.path.read_bytes()[: made.path.stat().st_size * 6 // 10])
    with DaliDecoder("cpu").open(made.path) as video:
        count = video.info.num_frames
        assert 3 < count < 24
        whole = count - 1  # the last one may be cut
        assert read_numbers(video.frames_at(range(whole))) == list(range(whole))


def test_indices_outside(tmp_path: Path) -> None:
    with DaliDecoder("cpu").open(_write(tmp_path / "a.webm", VP9).path) as video:
        assert video.frames_at([]).shape == (0, 64, 96, 3)
        for outside in (24, -1):
            with pytest.raises(IndexError):
                video.frames_at([0, outside])


def test_a_batch_of_what_people_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dali._said.clear()
    vp9, odd = (_write(tmp_path / name, FILES[name][0]) for name in ("vp9.webm", "vp9_odd.webm"))
    h264 = [_write(tmp_path / f"{name}.mp4", Look(options={"preset": "ultrafast"})) for name in "ab"]
    broken = tmp_path / "broken.webm"
    broken.write_bytes(vp9.path.read_bytes()[:300])
    # What is damaged in its middle fails in DALI, and then in FFmpeg or not.
    damaged = _edited(
        vp9.path,
        tmp_path / "damaged.webm",
        lambda number, data: data[:1] + bytes(len(data) - 1) if number > 8 and data[0] != 0x82 else data,
    )
    requests = [
        (vp9.path, np.array([3, 20])),
        (h264[0].path, np.array([5])),
        (broken, np.array([0])),
        (odd.path, np.array([1, 1, 22, 0])),
        (damaged, np.array([2, 12])),
        (h264[1].path, np.array([6, 0])),
        (vp9.path, np.array([], dtype=int)),
    ]
    with caplog.at_level(logging.WARNING):
        results = read_batch(requests, "cpu", threads=2)
    assert isinstance(results[2], DecodeError) and "broken.webm" in str(results[2])
    frames = {place: result for place, result in enumerate(results) if isinstance(result, np.ndarray)}
    assert {place: read_numbers(frames[place]) for place in (0, 1, 3, 5)} == {
        0: [3, 20],
        1: [5],
        3: [1, 1, 22, 0],
        5: [6, 0],
    }
    assert frames[3].shape == (4, 65, 97, 3) and frames[6].shape == (0, 64, 96, 3)
    assert isinstance(results[4], DecodeError) or len(results[4]) == 2
    said = [record.getMessage() for record in caplog.records if "h264" in record.getMessage()]
    assert len(said) == 1 and "a.mp4" in said[0]
    assert any("damaged.webm" in record.getMessage() for record in caplog.records)


def test_availability() -> None:
    assert DaliDecoder().available() == ""


@pytest.mark.gpu
@pytest.mark.parametrize(
    "look",
    [
        Look(options={"preset": "veryfast", "g": "8", "bf": "2"}, size=(320, 176)),
        Look(options={"preset": "veryfast", "g": "8", "bf": "2"}, size=(320, 176), bt709=True),
        Look(options={"preset": "veryfast", "g": "8"}, size=(322, 178), rotation=90),
        Look("libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}, size=(320, 176)),
        Look("libvpx-vp9", FAST, size=(320, 176), bt709=True),
    ],
    ids=["h264", "h264-709", "h264-turned", "hevc", "vp9-709"],
)
def test_gpu_gives_the_same_frames(look: Look, tmp_path: Path) -> None:
    made = _write(tmp_path / ("a.webm" if "vpx" in look.encoder else "a.mp4"), look)
    with DaliDecoder("gpu").open(made.path) as video, PyAVDecoder().open(made.path) as reference:
        frames = video.frames_at(range(24))
        assert read_numbers(frames) == made.numbers
        assert read_numbers(video.frames_at([20, 3, 3, 11])) == [20, 3, 3, 11]
        assert np.abs(frames.astype(int) - reference.frames_at(range(24))).mean() <= MEAN


@pytest.mark.gpu
def test_gpu_decodes_files_beside_each_other(tmp_path: Path) -> None:
    """Sixteen files in a batch take less time than one after another: several engines are at work."""
    import time

    look = Look(options={"preset": "veryfast", "g": "24"}, size=(1280, 720))
    path = _write(tmp_path / "a.mp4", look).path
    requests = [(path, np.arange(24))] * 16

    def seconds(batches: list[list[tuple[Path, np.ndarray]]]) -> float:
        begin = time.perf_counter()
        for batch in batches:
            assert all(isinstance(frames, np.ndarray) for frames in read_batch(batch, "gpu"))
        return time.perf_counter() - begin

    seconds([requests]), seconds([requests[:1]])
    assert seconds([requests]) < 0.6 * seconds([[request] for request in requests])
