"""BLIP-3-Video: a video becomes a few tokens, and a language model answers questions about it.

Importing this package is light: torch and transformers are loaded when one of the names below is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip3v.inference.streaming import StreamingVideoEncoder
    from blip3v.models.configuration import Blip3VideoConfig, blip3_video_4b, blip3_video_tiny
    from blip3v.models.modeling import Blip3VideoForConditionalGeneration
    from blip3v.models.processing import Blip3VideoProcessor

    __version__: str

_HOME_OF = {
    "Blip3VideoConfig": "blip3v.models.configuration",
    "Blip3VideoForConditionalGeneration": "blip3v.models.modeling",
    "Blip3VideoProcessor": "blip3v.models.processing",
    "StreamingVideoEncoder": "blip3v.inference.streaming",
    "blip3_video_4b": "blip3v.models.configuration",
    "blip3_video_tiny": "blip3v.models.configuration",
}

__all__ = [
    "Blip3VideoConfig",
    "Blip3VideoForConditionalGeneration",
    "Blip3VideoProcessor",
    "StreamingVideoEncoder",
    "__version__",
    "blip3_video_4b",
    "blip3_video_tiny",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("blip3v")
    elif name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module 'blip3v' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
