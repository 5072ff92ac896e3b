"""What is opened, what is refused and in which words, and that a refusal leaves nothing open."""

from __future__ import annotations

import errno
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from benchmarks.decode.files.odd import cover_art, no_frames, two_sizes
from benchmarks.decode.files.plain import H264, VP9
from benchmarks.decode.files.writing import Look, add_silence, add_video, send, silence, write
from blip3v.video.decoders import container as module
from blip3v.video.decoders.container import (
    CONTAINERS,
    LOCKED,
    check_regular,
    check_size,
    is_cover,
    open_container,
    reason,
    why_closed,
)
from blip3v.video.decoders.protocol import DecodeError, Limits
from blip3v.video.decoders.pyav import PyAVDecoder

LIMITS = Limits()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", H264).path


def _open_files() -> int:
    gc.collect()  # what earlier tests left would be closed at any time
    return len(os.listdir("/proc/self/fd"))


def _run(code: str, *arguments: str) -> str:
    """What a process of its own prints; nothing that waits for ever is waited for."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("enough", [96 * 64, 96 * 64 + 1])
def test_the_decoder_is_set_up_and_has_read_nothing(
    clip: Path, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THREADED", enough)
    container, stream = open_container(clip, LIMITS, threads=2)
    with container:
        context = stream.codec_context
        assert (context.name, context.width, context.height) == ("h264", 96, 64)
        assert context.thread_count == (2 if enough == 96 * 64 else 1)
        assert not context.is_open
        assert next(container.demux(stream)).is_keyframe


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "endless.mp4").symlink_to("/dev/zero")
    (tmp_path / "nothing.mp4").symlink_to("/dev/null")
    (tmp_path / "linked_pipe.mp4").symlink_to("pipe.mp4")
    names = sorted(path.name for path in tmp_path.iterdir())
    said = _run(
        "import sys; from pathlib import Path\n"
        "from blip3v.video.decoders import DecodeError, Limits\n"
        "from blip3v.video.decoders.container import open_container\n"
        "for name in sys.argv[2:]:\n"
        "    try: open_container(Path(sys.argv[1]) / name, Limits(), 1)\n"
        "    except DecodeError as error: print(error)\n",
        str(tmp_path),
        *names,
    )
    assert said.splitlines() == [
        f"{tmp_path / name} is no regular file; `blip3v stream` reads pipes and cameras" for name in names
    ]


def test_a_link_to_a_video_is_a_video(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(clip)
    open_container(tmp_path / "link.mp4", LIMITS, 1)[0].close()


@pytest.mark.parametrize("name", ["gone.mp4", "circle.mp4", "zero\0byte.mp4", "x" * 300])
def test_what_is_not_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "circle.mp4").symlink_to("circle.mp4")
    with pytest.raises(DecodeError, match=r"^cannot open .* \(.+\); give the path of a video file$"):
        check_regular(tmp_path / name)


def test_a_file_that_may_not_be_read(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("NOT TESTED: this user may read everything")
    with pytest.raises(DecodeError, match=r"mine\.mp4 may not be read; change its permissions"):
        open_container(path, LIMITS, 1)


DECOY = {"file:": "file:other.mp4", "concat:": "concat:other.mp4|other.mp4"}
DECOY |= {"subfile": "subfile,,start,0,end,0,,:other.mp4", "pattern": "%03d.mp4", "pipe": "pipe:0"}
DECOY |= {"line": "other.mp4\n", "dash": "-i", "home": "~", "bytes": os.fsdecode(b"\xfe\xff.mp4")}
DECOY |= {
    "data": "data:video,x",
    "fragment": "other.mp4#t=1",
    "query": "other.mp4?x",
    "quotes": '"other.mp4"',
}


@pytest.mark.parametrize("kind", DECOY)
def test_a_name_opens_its_own_file_beside_the_one_that_it_hints_at(
    kind: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.mp4").write_bytes(clip.read_bytes())
    Path("001.mp4").write_bytes(clip.read_bytes())
    write(tmp_path / "vp9.mp4", VP9, numbers=range(3)).path.rename(DECOY[kind])
    container, stream = open_container(Path(DECOY[kind]), LIMITS, 1)
    with container:
        assert stream.codec_context.name == "vp9"


def test_lists_are_refused(clip: Path, tmp_path: Path) -> None:
    """Under a video's name; with the name of a playlist, FFmpeg would follow this one."""
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{clip}\n#EXT-X-ENDLIST\n"
    lists = {
        "concat.mp4": (f"ffconcat version 1.0\nfile '{clip}'\n", "not a format of videos"),
        "list.m3u8": (playlist, "not a format of videos"),
        "playlist.mp4": (playlist, "Invalid data found when processing input"),
        "subtitles.mp4": ("1\n00:00:00,000 --> 00:00:01,000\nhello\n", "not a format of videos"),
    }
    for name, (text, why) in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DecodeError) as caught:
            open_container(tmp_path / name, LIMITS, 1)
        assert str(caught.value) == (
            f"cannot open {tmp_path / name} as a video ({why}); check that it plays, or convert it to H.264 "
            "with ffmpeg"
        )


def test_every_container_of_the_list_is_one_that_ffmpeg_knows() -> None:
    assert LOCKED["format_whitelist"].split(",") == list(CONTAINERS)
    known = {name for formats in av.formats_available for name in formats.split(",")}
    assert set(CONTAINERS) <= known
    elsewhere = {
        "concat",
        "hls",
        "dash",
        "image2",
        "sdp",
        "rtsp",
        "tty",
        "imf",
        "lavfi",
        "webm_dash_manifest",
    }
    assert elsewhere.isdisjoint(CONTAINERS)


def test_size_is_refused_by_what_it_claims(clip: Path) -> None:
    with pytest.raises(DecodeError, match=r"frames of 96x64, more than 6,143 pixels; .*Limits\.max_pixels"):
        open_container(clip, Limits(max_pixels=96 * 64 - 1), 1)
    open_container(clip, Limits(max_pixels=96 * 64), 1)[0].close()
    check_size(8192, 4352, clip, LIMITS)
    with pytest.raises(DecodeError, match="8192x4353"):
        check_size(8192, 4353, clip, LIMITS)


def test_a_size_beyond_the_limit_costs_no_memory(tmp_path: Path) -> None:
    """8192x8192 is 100 MB a frame, and FFmpeg decodes one to find out what a stream of start codes holds."""
    path = tmp_path / "large.h264"
    _run(
        "import sys, av\n"
        "with av.open(sys.argv[1], 'w') as container:\n"
        "    stream = container.add_stream('libx264', rate=5, options={'preset': 'ultrafast'})\n"
        "    stream.width = stream.height = 8192\n"
        "    frame = av.VideoFrame(8192, 8192, 'yuv420p')\n"
        "    for frame.pts in range(3): container.mux(stream.encode(frame))\n"
        "    container.mux(stream.encode())\n",
        str(path),
    )
    said = _run(
        "import resource, sys, av; from pathlib import Path\n"
        "from blip3v.video.decoders import DecodeError, Limits\n"
        "from blip3v.video.decoders.container import open_container\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = most()\n"
        "try: open_container(Path(sys.argv[1]), Limits(max_pixels=1000000), 1)\n"
        "except DecodeError: print(most() - before)\n",
        str(path),
    )
    assert int(said) < 100  # MiB


@pytest.mark.parametrize("width", [96, 72, 16])
def test_a_file_just_at_the_limit_decodes(width: int, tmp_path: Path) -> None:
    path = write(tmp_path / "narrow.mp4", Look(size=(width, 64)), numbers=range(3)).path
    with PyAVDecoder().open(path, limits=Limits(max_pixels=width * 64)) as video:
        assert video.frames_at([0, 2]).shape == (2, 64, width, 3)


def test_a_stream_that_grows_keeps_the_size_of_its_first_frame(tmp_path: Path) -> None:
    path = two_sizes(tmp_path / "grows.ts").path
    for exact in (False, True):
        with PyAVDecoder().open(path, limits=Limits(max_pixels=2 * 96 * 64), exact=exact) as video:
            assert video.info.num_frames == 60
            assert video.frames_at([3, 29, 40]).shape == (3, 64, 96, 3)


def test_the_cover_of_an_album_is_not_its_video(tmp_path: Path) -> None:
    container, stream = open_container(cover_art(tmp_path / "film.mp4").path, LIMITS, 1)
    with container:
        covers = [is_cover(stream) for stream in container.streams.video]
        assert stream.codec_context.name == "h264" and sorted(covers) == [False, True]
    song = tmp_path / "song.mp4"
    cover = Look("mjpeg", pix_fmt="yuvj420p")
    with av.open(str(song), "w") as writing:
        art = add_video(writing, cover)
        art.disposition = Disposition.attached_pic
        sound = add_silence(writing)
        writing.start_encoding()
        send(writing, art, cover, [1])
        silence(writing, sound)
    with pytest.raises(DecodeError, match=r"song\.mp4 holds no video, only sound or data; leave it out"):
        open_container(song, LIMITS, 1)


def _sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        silence(container, add_silence(container))
    return path


def _text(path: Path) -> Path:
    path.write_text("no video\n" * 200)
    return path


REFUSED: dict[str, Callable[[Path], Path]] = {
    "sound.mp4": _sound,
    "text.mp4": _text,
    "no_frames.mp4": lambda path: no_frames(path).path,
    "clip.mp4": lambda path: write(path, H264).path,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_closes_the_file(name: str, tmp_path: Path) -> None:
    path = REFUSED[name](tmp_path / name)
    limits = [Limits(max_pixels=10), Limits(max_frames=3), Limits(max_seconds=0.5)]
    before, kept = _open_files(), []
    for limit in limits if name == "clip.mp4" else [LIMITS] * 3:
        with pytest.raises(DecodeError) as caught:
            PyAVDecoder().open(path, limits=limit)
        kept.append(caught)  # whoever keeps the error keeps no open file
    assert _open_files() == before


def test_why_closed() -> None:
    assert why_closed(OSError(errno.EINVAL, "Invalid argument", "/a/b.mp4")) == "not a format of videos"
    assert why_closed(OSError(errno.EIO, "Input/output error", "/a/b.mp4")) == "Input/output error"
    assert reason(ValueError("one line\nand another")) == "one line"
    assert reason(ValueError()) == "ValueError"
    with pytest.raises(av.FFmpegError) as caught:
        av.open("/nowhere/at/all.mp4")
    assert re.fullmatch("No such file or directory", why_closed(caught.value))
