"""Rows of the format table that need nothing but an encoder, a container and settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decode.files.writing import COUNT, RATE, Look, Made, write

Maker = Callable[[Path], Made]
"""Writes the file of a row, at the path given."""

# The AV1 encoder prints a page about itself for each file.
os.environ.setdefault("SVT_LOG", "1")

VPX = {"deadline": "realtime", "cpu-used": "8"}
ALT_REF = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "16"}
AV1 = {"preset": "8", "crf": "10"}
OPEN = "keyint=8:open-gop=1:bframes=3"
X265 = "log-level=none:pools=1:frame-threads=1"

H264 = Look(options={"preset": "veryfast", "g": "8", "bf": "2"})
HEVC = Look("libx265", {"preset": "ultrafast", "x265-params": X265})
HEVC_OPEN = Look("libx265", {"preset": "ultrafast", "x265-params": f"{X265}:{OPEN}:b-adapt=0"})
VP8, VP9 = Look("libvpx", VPX | {"g": "8"}), Look("libvpx-vp9", VPX | {"g": "8"})
MJPEG = Look("mjpeg", pix_fmt="yuvj420p")
MPEG2 = Look("mpeg2video", {"bf": "2"})

UNEVEN = np.cumsum([0.0] + [0.04, 0.1, 0.02, 0.5, 0.03] * 6)[:COUNT].tolist()
"""Times of a variable frame rate, in seconds."""
GAP = [k / RATE + (10 if k > COUNT // 2 else 0) for k in range(COUNT)]
"""Ten seconds without a frame."""


def row(look: Look, **settings: Any) -> Maker:
    """`write` with everything but the path."""
    return partial(write, look=look, **settings)


PLAIN: dict[str, Maker] = {
    "h264.mp4": row(H264),
    "h264.mov": row(H264),
    "h264.mkv": row(H264),
    "h264.avi": row(Look(options={"bf": "0"})),
    "h264_keyframes.avi": row(Look(options={"bf": "0", "g": "8"})),
    "h264_b_frames.avi": row(H264),
    "h264.ts": row(H264),
    "h264.flv": row(H264),
    "h264_elementary.h264": row(H264),
    "h264_open_gop.mp4": row(Look(options={"x264-params": f"{OPEN}:b-pyramid=normal:b-adapt=0"})),
    "h264_open_gop.mkv": row(Look(options={"x264-params": f"{OPEN}:b-pyramid=normal:b-adapt=0"})),
    "h264_open_gop.ts": row(Look(options={"x264-params": f"{OPEN}:b-pyramid=normal:b-adapt=0"})),
    "h264_one_keyframe.mp4": row(Look(options={"g": "9999", "bf": "2"})),
    "h264_intra.mp4": row(Look(options={"g": "1"})),
    "h264_fragmented.mp4": row(
        H264, container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    ),
    "h264_negative_dts.mp4": row(H264, container_options={"movflags": "negative_cts_offsets"}),
    "h264_10bit.mp4": row(Look(pix_fmt="yuv420p10le")),
    "h264_444.mp4": row(Look(pix_fmt="yuv444p")),
    "h264_full_range.mp4": row(Look(full_range=True)),
    "h264_bt709.mp4": row(Look(bt709=True)),
    "h264_bt709_full_range.mp4": row(Look(bt709=True, full_range=True)),
    "h264_ntsc.mp4": row(H264, rate=Fraction(30000, 1001)),
    "h264_uneven.mp4": row(H264, seconds=UNEVEN),
    "h264_uneven.mkv": row(H264, seconds=UNEVEN),
    "h264_gap.mp4": row(H264, seconds=GAP),
    "h264_late_start.mp4": row(H264, start=3.0),
    "h264_late_start.mkv": row(H264, start=3.0),
    "h264_late_start.ts": row(H264, start=3.0),
    "h264_sound.mp4": row(H264, sound=True),
    "h264_sound.mkv": row(H264, sound=True),
    "h264_one_frame.mp4": row(H264, numbers=[7]),
    **{f"h264_turned_{r}.mp4": row(Look(rotation=r)) for r in (90, 180, 270)},
    "h264_turned_90.mkv": row(Look(rotation=90)),
    **{f"h264_{w}_wide.mp4": row(Look(size=(w, 64))) for w in (16, 24, 48, 72)},
    "h264_16x16.mp4": row(Look(size=(16, 16))),
    "h264_95x67.mp4": row(Look(pix_fmt="yuv444p", size=(95, 67))),
    "hevc.mp4": row(HEVC),
    "hevc.mkv": row(HEVC),
    "hevc.ts": row(HEVC),
    "hevc_open_gop.mp4": row(HEVC_OPEN),
    "hevc_10bit.mp4": row(Look("libx265", HEVC.options, pix_fmt="yuv420p10le")),
    "vp8.webm": row(VP8),
    "vp9.webm": row(VP9),
    "vp9.mp4": row(VP9),
    "vp9.mkv": row(VP9),
    "vp9_hidden_frames.webm": row(Look("libvpx-vp9", ALT_REF)),
    "vp9_no_cues.webm": row(VP9, container_options={"live": "1"}),
    "vp9_444.webm": row(Look("libvpx-vp9", VPX, pix_fmt="yuv444p")),
    "vp9_bt709.webm": row(Look("libvpx-vp9", VPX, bt709=True)),
    "vp9_full_range.webm": row(Look("libvpx-vp9", VPX, full_range=True)),
    "vp9_gap.webm": row(VP9, seconds=GAP),
    "vp9_uneven.webm": row(VP9, seconds=UNEVEN),
    "vp9_sound.webm": row(VP9, sound=True),
    "vp9_one_frame.webm": row(VP9, numbers=[7]),
    "vp9_16x16.webm": row(Look("libvpx-vp9", VPX, size=(16, 16))),
    "vp9_95x67.webm": row(Look("libvpx-vp9", VPX, size=(95, 67))),
    "av1.mp4": row(Look("libsvtav1", AV1)),
    "av1.webm": row(Look("libsvtav1", AV1)),
    "av1_10bit.mkv": row(Look("libsvtav1", AV1, pix_fmt="yuv420p10le")),
    "mjpeg.avi": row(MJPEG),
    "mjpeg.mov": row(MJPEG),
    "mjpeg.mkv": row(MJPEG),
    "mjpeg_95x67.avi": row(Look("mjpeg", pix_fmt="yuvj420p", size=(95, 67))),
    "mpeg4.avi": row(Look("mpeg4", {"g": "8"})),
    "mpeg4_b_frames.avi": row(Look("mpeg4", {"bf": "2", "g": "8"})),
    "mpeg4.mp4": row(Look("mpeg4", {"g": "8"})),
    "mpeg4_b_frames.mp4": row(Look("mpeg4", {"bf": "2", "g": "8"})),
    "mpeg2.mpg": row(MPEG2),
    "mpeg2.ts": row(MPEG2),
    # Many packets a group, in which seeking goes astray.
    "mpeg2_larger.mpg": row(
        Look("mpeg2video", {"bf": "2", "g": "15", "b": "4000k"}, size=(720, 400)), numbers=range(60)
    ),
    "mpeg2_sound.mpg": row(MPEG2, sound=True),
    "even.gif": row(Look("gif", pix_fmt="rgb8")),
    "ffv1.mkv": row(Look("ffv1")),
    "ffv1.avi": row(Look("ffv1")),
    "prores.mov": row(Look("prores_ks", pix_fmt="yuv422p10le")),
    "wmv2.wmv": row(Look("wmv2")),
    "flv1.flv": row(Look("flv")),
    "h263.3gp": row(Look("h263", size=(176, 144))),
    "raw.avi": row(Look("rawvideo")),
    "cinepak.avi": row(Look("cinepak", pix_fmt="rgb24")),
}
