from __future__ import annotations

import pytest

from blip3v.cli.duration import seconds_of
from blip3v.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("500ms", 0.5), ("1.5m", 90), ("1h", 3600), ("3", 3), (" .5s ", 0.5), ("2.s", 2)],
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text, "--every") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "0", "0s", "-1s", "2 s s", "1d", "nan", "1e3", "2s1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--every must be a time above 0 such as 2s"):
        seconds_of(text, "--every")
