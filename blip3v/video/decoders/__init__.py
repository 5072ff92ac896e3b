"""Libraries that decode video files, behind one interface (`protocol`)."""

from __future__ import annotations

import os

from blip3v.errors import UserError
from blip3v.video.decoders.dali import DaliDecoder
from blip3v.video.decoders.decord import DecordDecoder
from blip3v.video.decoders.protocol import (
    DecodeError,
    Limits,
    OpenVideo,
    UnsupportedVideo,
    VideoDecoder,
    VideoInfo,
    WrongCount,
)
from blip3v.video.decoders.pyav import PyAVDecoder

DECODERS: dict[str, VideoDecoder] = {
    decoder.name: decoder for decoder in (PyAVDecoder(), DecordDecoder(), DaliDecoder())
}
DEFAULT = "pyav"
"""The one that gives the right frames of every file that was tried, and no slower (docs/video.md)."""
VARIABLE = "BLIP3V_VIDEO_DECODER"
"""Environment variable that chooses another one for `auto`."""


def decoder_named(name: str = "auto") -> VideoDecoder:
    """A decoder that can be used.

    Args:
        name: a key of DECODERS; `auto` is what BLIP3V_VIDEO_DECODER names, without it PyAV.

    Raises:
        UserError: no such decoder, or its package is missing.
    """
    chosen, asked = name, f"decoder {name!r}"
    if name == "auto":
        chosen = os.environ.get(VARIABLE) or DEFAULT
        asked = f"{VARIABLE}={chosen}"
    if chosen not in DECODERS:
        raise UserError(f"{asked} is not known; choose auto, {', '.join(DECODERS)}")
    missing = DECODERS[chosen].available()
    if missing:
        raise UserError(f"{asked} cannot be used: {missing}")
    return DECODERS[chosen]


__all__ = [
    "DECODERS",
    "DecodeError",
    "Limits",
    "OpenVideo",
    "UnsupportedVideo",
    "VideoDecoder",
    "VideoInfo",
    "WrongCount",
    "decoder_named",
]
