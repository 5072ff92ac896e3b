"""Rows of the format table that need more than one stream, other lengths, or headers that lie."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

from benchmarks.decode.files import headers
from benchmarks.decode.files.painted import paint
from benchmarks.decode.files.plain import H264, VP8, VP9, Maker
from benchmarks.decode.files.writing import (
    COUNT,
    RATE,
    SIZE,
    Look,
    Made,
    add_silence,
    add_video,
    send,
    silence,
    write,
)  # fmt: skip

OTHER = 100
"""The first number of a stream that must not be read."""


def two_videos(path: Path) -> Made:
    """Two streams of one size; the first is the one to read, although the second has more bits."""
    fine = Look(options=H264.options | {"crf": "10"})
    with av.open(str(path), "w") as container:
        streams = [add_video(container, H264), add_video(container, fine)]
        streams[0].disposition = Disposition.default
        for stream, look, first in zip(streams, (H264, fine), (0, OTHER), strict=True):
            send(container, stream, look, range(first, first + COUNT))
    return _made(path)


def cover_art(path: Path) -> Made:
    """A still picture as a stream of its own, as music players and shops add it."""
    cover = Look("mjpeg", pix_fmt="yuvj420p", size=(160, 160))
    with av.open(str(path), "w") as container:
        art = add_video(container, cover)
        art.disposition = Disposition.attached_pic
        stream = add_video(container, H264)
        container.start_encoding()
        send(container, art, cover, [OTHER])
        send(container, stream, H264, range(COUNT))
    return _made(path)


def vp8_hidden(path: Path) -> Made:
    """Before each key frame, which needs none, a packet that only changes a reference (RFC 6386, 9.1)."""
    plain = write(path.with_name(f"plain_{path.name}"), VP8).path
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        last = b""
        for packet in (packet for packet in source.demux(video=0) if packet.size):
            data = bytes(packet)
            hidden = bytes([last[0] & ~0x10]) + last[1:] if last and packet.is_keyframe else b""
            for content, time, key in (
                (hidden, packet.pts - 15, False),
                (data, packet.pts, packet.is_keyframe),
            ):
                if content:
                    copy = av.Packet(content)
                    copy.pts = copy.dts = time
                    copy.time_base, copy.stream, copy.is_keyframe = packet.time_base, stream, key
                    container.mux(copy)
            last = data
    plain.unlink()
    return _made(path)


def sound_only(path: Path) -> Made:
    with av.open(str(path), "w") as container:
        silence(container, add_silence(container))
    return _made(path, [])


def no_frames(path: Path) -> Made:
    """A video stream is announced, and nothing comes."""
    with av.open(str(path), "w") as container:
        stream = add_video(container, VP9 if path.suffix == ".webm" else H264)
        container.start_encoding()
        container.mux(stream.encode())
    return _made(path, [])


def edit_list(path: Path) -> Made:
    """Five frames are stored and not shown."""
    write(path, H264)
    headers.skip_in_edit_list(path, 5, RATE)
    return _made(path, list(range(5, COUNT)))


def no_header(path: Path) -> Made:
    """A recording that was cut off: `moov` would have been written at the end."""
    write(path, H264)
    data = path.read_bytes()
    path.write_bytes(data[: headers.atom(data, b"moov") - 8])
    return _made(path, [])


def mp4_durations(factor: float) -> Maker:
    def make(path: Path) -> Made:
        made = write(path, H264)
        headers.scale_mp4_durations(path, factor)
        return made

    return make


def avi_frames(frames: int) -> Maker:
    def make(path: Path) -> Made:
        made = write(path, Look(options={"bf": "0", "g": "8"}))
        headers.set_avi_frames(path, frames)
        return made

    return make


def mkv_duration(milliseconds: float) -> Maker:
    def make(path: Path) -> Made:
        made = write(path, H264)
        headers.set_mkv_duration(path, milliseconds)
        return made

    return make


def two_sizes(path: Path) -> Made:
    """A broadcast that goes on with larger pictures; they are shown in the size of the first.

    Without B-frames, whose delay would move the times of either part.
    """
    options = {"bf": "0", "g": "8"}
    first = write(path, Look(options=options))
    larger = Look(options=options, size=(2 * SIZE[0], 2 * SIZE[1]))
    rest = write(
        path.with_name("rest.ts"),
        larger,
        numbers=range(COUNT, 2 * COUNT),
        start=COUNT / RATE,
        format="mpegts",
    )
    path.write_bytes(path.read_bytes() + rest.path.read_bytes())
    rest.path.unlink()
    return _made(path, first.numbers + rest.numbers)


def vp9_10bit(path: Path) -> Made:
    """Not made here, because PyAV's libvpx codes 8 bits only.

    Frames 0 to 15 of `paint`, written with FFmpeg 5.1: -pix_fmt yuv420p10le -c:v libvpx-vp9 -crf 40 -b:v 0
    -cpu-used 4 -g 8 -bitexact.
    """
    path.write_bytes(Path(__file__).with_name("vp9_10bit.webm").read_bytes())
    return _made(path, list(range(16)))


def uneven_gif(path: Path) -> Made:
    """Pillow's, 30 and 90 ms in turn."""
    first, *rest = [Image.fromarray(paint(number, *SIZE)) for number in range(COUNT)]
    first.save(path, save_all=True, append_images=rest, duration=[30, 90] * (COUNT // 2), loop=0)
    times = np.cumsum([0.0] + [0.03, 0.09] * (COUNT // 2))[:COUNT]
    return Made(path, list(range(COUNT)), times)


def hour(path: Path) -> Made:
    """3,600 s, a frame every four seconds."""
    look = Look(options={"preset": "ultrafast", "g": "60"}, size=(64, 40), bits=12)
    return write(path, look, numbers=range(900), rate=Fraction(1, 4))


def many_frames(path: Path) -> Made:
    """90,000 frames, an hour of 25 per second: 250 that are encoded once and written again and again."""
    look = Look(options={"preset": "ultrafast", "g": "50", "bf": "0"}, size=(32, 32))
    length, times_over = 250, 360
    with av.open(str(path), "w") as container:
        stream = add_video(container, look)
        packets = []
        for place in range(length):
            frame = look.picture(place)
            frame.pts, frame.time_base = place, Fraction(1, RATE)
            packets += stream.encode(frame)
        packets += stream.encode()
        coded = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(length * times_over):
            data, key = coded[number % length]
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.duration, packet.time_base = 1, Fraction(1, RATE)
            packet.stream, packet.is_keyframe = stream, key
            container.mux(packet)
    return _made(path, [number % length for number in range(length * times_over)], look)


def _made(path: Path, numbers: list[int] | None = None, look: Look = H264) -> Made:
    numbers = list(range(COUNT)) if numbers is None else numbers
    return Made(path, numbers, np.arange(len(numbers)) / RATE, look.size, look.bits)


ODD: dict[str, Maker] = {
    "two_videos.mp4": two_videos,
    "two_videos.mkv": two_videos,
    "cover_art.mp4": cover_art,
    "cover_art.mkv": cover_art,
    "sound_only.mp4": sound_only,
    "sound_only.mkv": sound_only,
    "no_frames.mp4": no_frames,
    "no_frames.webm": no_frames,
    "edit_list.mp4": edit_list,
    "no_moov.mp4": no_header,
    "says_10_times_longer.mp4": mp4_durations(10),
    "says_10_times_shorter.mp4": mp4_durations(0.1),
    "says_300_frames.avi": avi_frames(300),
    "says_3_frames.avi": avi_frames(3),
    "says_0_frames.avi": avi_frames(0),
    "says_100_s.mkv": mkv_duration(1e5),
    "says_10_ms.mkv": mkv_duration(10),
    "vp8_hidden_frames.webm": vp8_hidden,
    "two_sizes.ts": two_sizes,
    "vp9_10bit.webm": vp9_10bit,
    "uneven.gif": uneven_gif,
    "hour.mp4": hour,
    "hour.mkv": hour,
    "90000_frames.mp4": many_frames,
}
