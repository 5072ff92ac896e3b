"""Things under a video's name that are none: pipes, links, lists that lead to other files or addresses."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from benchmarks.decode.damage import Damaged
from benchmarks.decode.files.headers import atoms
from benchmarks.decode.files.plain import H264
from benchmarks.decode.files.writing import write

SPECIAL, LEADS_ELSEWHERE = "not a file", "leads elsewhere"


def special_files(folder: Path) -> Iterator[Damaged]:
    """What waits for ever, does not exist, goes in circles or may not be read."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to("gone.mp4")
    (folder / "circle.mp4").symlink_to("circle.mp4")
    (folder / "endless.mp4").symlink_to("/dev/zero")
    (folder / "nothing.mp4").symlink_to("/dev/null")
    for name in ("pipe", "folder", "dangling", "circle", "endless", "nothing", "never_was"):
        yield Damaged(folder / f"{name}.mp4", SPECIAL)
    unreadable = folder / "unreadable.mp4"
    unreadable.touch(mode=0o000)
    yield Damaged(unreadable, SPECIAL)


def leading_elsewhere(folder: Path, secret: Path, address: str) -> Iterator[Damaged]:
    """Lists and containers that name other files or addresses, each also under the name of a video.

    Args:
        secret: a good video that must not be reached through them.
        address: where a server would notice that somebody asks, http://host:port.
    """
    texts = {
        "file.m3u8": _m3u8(f"file://{secret}"),
        "address.m3u8": _m3u8(f"{address}/clip.ts"),
        "relative.m3u8": _m3u8(os.path.relpath(secret, folder)),
        "file.ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "relative.ffconcat": f"ffconcat version 1.0\nfile '{os.path.relpath(secret, folder)}'\n",
        "address.ffconcat": f"ffconcat version 1.0\nfile '{address}/clip.mp4'\n",
        "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 49170 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "manifest.mpd": _dash(f"{address}/clip.mp4"),
        "file.mpd": _dash(f"file://{secret}"),
        "list.asx": f'<asx version="3.0"><entry><ref href="{address}/clip.mp4"/></entry></asx>',
        "list.imf": f'<?xml version="1.0"?><AssetMap><Path>{address}/clip.mxf</Path></AssetMap>',
        "rtsp.sdp": f"rtsp://{address.removeprefix('http://')}/clip\n",
    }
    for name, text in texts.items():
        for target in (folder / name, folder / f"{name.replace('.', '_')}.mp4"):
            target.write_text(text)
            yield Damaged(target, LEADS_ELSEWHERE)
    outside = write(folder / "reference.mov", H264).path
    outside.write_bytes(with_reference(outside.read_bytes(), str(secret)))
    yield Damaged(outside, LEADS_ELSEWHERE)


def with_reference(movie: bytes, path: str) -> bytes:
    """A QuickTime movie whose samples lie in another file, told by an alias (QuickTime File Format, `dref`).

    The table of references of the first track is written anew, and the sizes of the atoms around it; `moov`
    must come last, as FFmpeg writes it.
    """
    name = Path(path).name.encode()[:63]
    alias = bytes(4) + bytes(10) + b"\x04disk".ljust(28, b"\0") + bytes(12)
    alias += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 0, 0) + bytes(16)
    place = path.encode() + b"\0" * (len(path.encode()) % 2)
    alias += struct.pack(">hH", 2, len(place)) + place + struct.pack(">hH", -1, 0)
    entry = struct.pack(">I4s", 8 + len(alias), b"alis") + alias
    data, found = bytearray(movie), {kind: (begin, end) for kind, begin, end in atoms(movie)}
    begin, end = found[b"dref"]
    content = struct.pack(">II", 0, 1) + entry
    grown = len(content) - (end - begin)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        size = found[kind][0] - 8
        struct.pack_into(">I", data, size, struct.unpack_from(">I", data, size)[0] + grown)
    return bytes(data[:begin]) + content + bytes(data[end:])


def _m3u8(address: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{address}\n#EXT-X-ENDLIST\n"


def _dash(address: str) -> str:
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1.2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000">'
        f"<BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period></MPD>\n"
    )
