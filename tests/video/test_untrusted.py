"""Files, names and archives that try to lead somewhere else."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.decode.files.painted import read_numbers
from benchmarks.decode.files.plain import H264, VP9
from benchmarks.decode.files.writing import COUNT, write
from benchmarks.decode.impostors import leading_elsewhere, with_reference
from blip3v.data.unpack import unpack_chunk
from blip3v.errors import UserError
from blip3v.video import read_video
from blip3v.video.decoders import DECODERS


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and the paths that somebody asked it for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def installed(decoder: str) -> str:
    if DECODERS[decoder].available():
        pytest.skip(f"NOT TESTED: {DECODERS[decoder].available()}")
    return decoder


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_list_leads_to_a_file_or_an_address(
    decoder: str, tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    installed(decoder)
    address, asked = server
    secret = write(tmp_path / "secret.ts", H264).path
    lists = tmp_path / "lists"
    lists.mkdir()
    found = list(leading_elsewhere(lists, secret, address))
    assert len(found) > 20
    for file in found:
        with pytest.raises(UserError) as caught:
            read_video(file.path, 4, decoder=decoder)
        assert str(file.path) in str(caught.value)
        assert "secret" not in str(caught.value)
    assert asked == []


@pytest.mark.parametrize("scheme", ["http", "tcp", "rtsp"])
def test_an_address_is_no_path(scheme: str, server: tuple[str, list[str]]) -> None:
    address, asked = server
    with pytest.raises(UserError, match="no such video"):
        read_video(f"{scheme}{address.removeprefix('http')}/clip.mp4", 4)
    assert asked == []


def test_a_reference_of_quicktime_is_one_that_ffmpeg_would_follow(tmp_path: Path) -> None:
    """With the option that says so, else the refusal above would prove nothing."""
    import av

    movie = write(tmp_path / "movie.mov", H264).path
    (tmp_path / "there").mkdir()
    reference = tmp_path / "there" / "reference.mov"
    reference.write_bytes(with_reference(movie.read_bytes(), str(movie)))
    followed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(reference), options=followed) as container:
        assert len(list(container.decode(video=0))) == COUNT
    with pytest.raises(UserError, match=r"reference\.mov"):
        read_video(reference, 4)


NAMES = (
    "concat:a.mp4|b.mp4",
    "http:clip.mp4",
    "-i.mp4",
    "%03d.mp4",
    "a\nb.mp4",
    'it\'s "a" $(clip).mp4',
    "é☂.mp4",
    os.fsdecode(b"\xff\xfe.mp4"),
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_name_is_only_a_name(
    decoder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(decoder)
    monkeypatch.chdir(tmp_path)
    made = write(tmp_path / "plain.mp4", VP9 if decoder == "dali" else H264)
    made.path.rename(name)
    try:
        video = read_video(Path(name), 8, decoder=decoder)
    except UserError:
        assert decoder != "pyav"  # the others may refuse a name that is not UTF-8 or looks like an address
    else:
        assert read_numbers(video.frames) == video.indices.tolist()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def picture(grey: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (grey, grey, grey)).save(out, "PNG")
    return out.getvalue()


def hostile_tar(path: Path, secret: Path, mode: str) -> Path:
    """One good frame in `clip`, and links, devices and names that lead out."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name in (
            "frames/clip/0.png",
            "frames/other/0.png",
            "../../up/0.png",
            f"{path.parent}/absolute/0.png",
        ):
            data = picture(40)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        members = [
            ("frames/clip/1.png", tarfile.SYMTYPE, str(secret)),
            ("frames/clip/2.png", tarfile.SYMTYPE, "../../../secret.png"),
            ("frames/clip/3.png", tarfile.LNKTYPE, str(secret)),
            ("frames/clip/4.png", tarfile.LNKTYPE, "frames/clip/0.png"),
            ("frames/clip/5.png", tarfile.CHRTYPE, ""),
            ("frames/clip/6.png", tarfile.BLKTYPE, ""),
            ("frames/clip/7.png", tarfile.FIFOTYPE, ""),
            ("frames/clip/8.png", tarfile.DIRTYPE, ""),
            ("frames/linked", tarfile.SYMTYPE, str(secret.parent)),
        ]
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.devmajor, info.devminor = kind, target, 1, 5
            tar.addfile(info)
    return path


@pytest.mark.parametrize("packed", [False, True], ids=["as it is", "unpacked"])
def test_nothing_in_a_tar_leads_out_of_it(packed: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(200))
    if packed:
        hostile_tar(root / "in" / "chunk.tar.gz", secret, "w:gz")
        chunk, _ = unpack_chunk(root / "in" / "chunk.tar.gz", root / "out")
    else:
        chunk = hostile_tar(root / "in" / "chunk.tar", secret, "w")
    before = set(tmp_path.rglob("*"))
    video = read_video(chunk / "frames" / "clip", 4)
    assert video.total_frames == 1 and (video.frames == 40).all()
    for inside in ("frames/linked", "frames/linked/secret.png", "../secret.png", "frames/clip/1.png"):
        with pytest.raises(UserError):
            read_video(chunk / inside, 1)
    made = set(tmp_path.rglob("*")) - before
    assert {path.name for path in made} <= {chunk.name + ".frames.npz"}
    assert not (tmp_path / "up").exists() and not (root / "in" / "absolute").exists()


def test_a_folder_of_frames_is_read_as_its_owner_laid_it_out(tmp_path: Path) -> None:
    """A link to a picture is followed there; one that leads nowhere is an error by its name."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "0.png").write_bytes(picture(10))
    (tmp_path / "clip" / "1.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"1\.png"):
        read_video(tmp_path / "clip", 2)
