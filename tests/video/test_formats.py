"""The format table: every kind of file through every decoder, each cell expected and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.decode.files.odd import ODD
from benchmarks.decode.files.painted import UNREADABLE, paint, read_number, read_numbers
from benchmarks.decode.files.plain import H264, PLAIN
from benchmarks.decode.files.writing import COUNT, SIZE, Made, write
from benchmarks.decode.format_table import OK, REFUSED, WRONG, Cell, check, in_order
from benchmarks.decode.formats import ROWS, markdown, table
from blip3v.video import read_video
from blip3v.video.decoders import DECODERS

NO_FRAMES = {"sound_only.mp4", "sound_only.mkv", "no_frames.mp4", "no_frames.webm", "no_moov.mp4"}
AV1 = {"av1.mp4", "av1.webm", "av1_10bit.mkv"}

REFUSED_BY = {
    # Everything that holds frames is read.
    "pyav": NO_FRAMES,
    # decord 0.6.0 has no AV1 and refuses GIFs; its seeking gives other frames in streams of MPEG packets and
    # in AVI with H.264; narrow pictures fail; it plays no edit lists.
    "decord": NO_FRAMES
    | AV1
    | {"even.gif", "uneven.gif", "cinepak.avi", "h264_elementary.h264", "vp9_no_cues.webm", "edit_list.mp4"}
    | {"vp8_hidden_frames.webm"}
    | {"says_0_frames.avi", "says_3_frames.avi", "says_300_frames.avi", "says_10_ms.mkv"}
    | {"h264_keyframes.avi", "h264_b_frames.avi", "h264_turned_90.mkv"}
    | {f"h264_{size}.mp4" for size in ("16x16", "16_wide", "24_wide", "48_wide", "72_wide")}
    | {"vp9_16x16.webm"}
    | {"h264.ts", "h264_late_start.ts", "h264_open_gop.ts", "hevc.ts", "mpeg2.ts", "two_sizes.ts"}
    | {"mpeg2.mpg", "mpeg2_larger.mpg", "mpeg2_sound.mpg"}
    # It takes the stream with the most bits; what Matroska holds as a cover says so to nobody.
    | {"two_videos.mp4", "two_videos.mkv", "cover_art.mkv"},
    # On a CPU DALI decodes VP8, VP9 and MJPEG.
    "dali": {name for name in ROWS if not name.startswith(("vp8", "vp9", "mjpeg"))},
}


def decoders() -> list[str]:
    """Those that can be used; DALI with a GPU reads more, which no machine with one has confirmed yet."""
    from blip3v.video.decoders.dali_run import device_named

    found = [name for name, decoder in DECODERS.items() if not decoder.available()]
    return [name for name in found if name != "dali" or device_named("auto") == "cpu"]


def test_all_decoders_of_the_table_can_be_used() -> None:
    missing = {name: why for name, decoder in DECODERS.items() if (why := decoder.available())}
    if missing:
        pytest.skip(f"NOT TESTED: {missing}")


@pytest.mark.parametrize("row", ROWS)
def test_row(row: str, tmp_path: Path) -> None:
    ((_, cells),) = table(tmp_path, [row], decoders())
    expected = {name: REFUSED if row in REFUSED_BY[name] else OK for name in cells}
    assert {name: cell.outcome for name, cell in cells.items()} == expected, cells


@pytest.mark.gpu
@pytest.mark.parametrize("row", ROWS)
def test_dali_on_a_gpu_gives_right_frames_or_none(row: str, tmp_path: Path) -> None:
    ((_, cells),) = table(tmp_path, [row], ["dali"])
    assert cells["dali"].outcome != WRONG, cells


def test_every_kind_of_file_has_a_row() -> None:
    assert PLAIN.keys().isdisjoint(ODD)
    kinds = {name.rpartition(".")[2] for name in ROWS}
    assert kinds >= {"mp4", "mov", "mkv", "webm", "avi", "gif", "mpg", "ts", "flv", "3gp", "wmv"}
    for codec in ("h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "mpeg4", "mpeg2", "ffv1", "prores"):
        assert any(name.startswith(codec) for name in ROWS), codec
    assert all(names <= ROWS.keys() for names in REFUSED_BY.values())


def test_a_folder_of_frames(tmp_path: Path) -> None:
    for number in range(COUNT):
        Image.fromarray(paint(number, *SIZE)).save(tmp_path / f"frame{number}.jpeg", quality=90)
    video = read_video(tmp_path, 8)
    assert read_numbers(video.frames) == video.indices.tolist() and video.total_frames == COUNT


def test_read_video_gives_what_the_table_promises(tmp_path: Path) -> None:
    for row in (
        "h264_open_gop.mp4",
        "hevc.mkv",
        "vp9_hidden_frames.webm",
        "mpeg2.ts",
        "uneven.gif",
        "av1.webm",
    ):
        made = ROWS[row](tmp_path / row)
        video = read_video(made.path, 8)
        assert read_numbers(video.frames) == video.indices.tolist(), row
        assert (video.total_frames, video.frames.shape[1:]) == (COUNT, (*made.size[::-1], 3)), row


@pytest.mark.parametrize("size", [(16, 16), (95, 67), (96, 64)])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_painted_number_is_read_back_only_when_upright(size: tuple[int, int], bits: int) -> None:
    if bits == 12 and size == (16, 16):
        pytest.skip("too small for 12 bits")
    for number in (1, 100, 2**bits - 2):
        frame = paint(number, *size, bits)
        assert read_number(frame, bits) == number
        for other in (frame[::-1], frame[:, ::-1], np.rot90(frame), np.rot90(frame, 2)):
            assert read_number(other, bits) != number
    torn = np.vstack([paint(5, *size, bits)[: size[1] // 6], paint(6, *size, bits)[size[1] // 6 :]])
    assert read_number(torn, bits) == UNREADABLE
    with pytest.raises(ValueError, match="does not fit"):
        paint(1 << bits, *size, bits)


@pytest.mark.parametrize("fault", ["numbers", "count", "times", "size", "pixels"])
def test_the_check_sees_each_fault(tmp_path: Path, fault: str) -> None:
    made = write(tmp_path / "good.mp4", H264)
    reference = in_order(made)
    assert reference is not None
    assert check(DECODERS["pyav"], made, reference).outcome == OK
    changed = {
        "numbers": Made(made.path, [*made.numbers[1:], 0], made.times),
        "count": Made(made.path, made.numbers[1:], made.times[1:]),
        "times": Made(made.path, made.numbers, made.times * 1.01),
        "size": Made(made.path, made.numbers, made.times, (SIZE[0] + 1, SIZE[1])),
        "pixels": made,
    }[fault]
    shown = reference[:, :, ::-1] if fault == "pixels" else reference
    assert check(DECODERS["pyav"], changed, shown).outcome == WRONG


def test_the_table_as_text() -> None:
    cells = {
        "a.mp4": {"pyav": Cell(OK, "", 0.25), "decord": Cell(REFUSED, "no"), "dali": Cell(WRONG, "torn")}
    }
    assert markdown(cells).splitlines() == [
        "| file | pyav | decord | dali |",
        "|---|---|---|---|",
        "| a.mp4 | ok, 0.25 | refused | **wrong**: torn |",
    ]
