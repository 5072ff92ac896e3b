"""Times as people write them on a command line."""

from __future__ import annotations

import re

from blip3v.errors import UserError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str, option: str) -> float:
    """2s, 500ms, 1.5m, 1h, or a plain number of seconds, as seconds.

    Raises:
        UserError: anything else, or no time at all; `option` is named in it.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms|s|m|h)?", text.strip())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if seconds <= 0:
        raise UserError(f"{option} must be a time above 0 such as 2s, 500ms or 1m, got {text!r}")
    return seconds
