from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from blip3v.data.media import MediaFolder
from blip3v.data.skipping import BadEntry, Reason
from blip3v.errors import UserError


def test_names_inside(put: Callable[..., Path]) -> None:
    folder = put("a/x.mp4")
    media = MediaFolder(folder)
    assert media.file("a/x.mp4") == media.file("a/./b/../x.mp4") == folder / "a/x.mp4"
    assert media.first(["a/x.avi", "a/x.mp4"]) == folder / "a/x.mp4"
    assert media.found(["a/x.avi"]) is None


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", ".", "", "a\0b"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    media = MediaFolder(tmp_path, check=False)
    for ask in (media.file, media.frames, lambda one: media.first([one])):
        with pytest.raises(BadEntry) as error:
            ask(name)
        assert error.value.reason is Reason.LEADS_OUT


def test_a_name_longer_than_any_file_is_missing(tmp_path: Path) -> None:
    media = MediaFolder(tmp_path)
    for ask in (media.file, media.frames, lambda one: media.first([one])):
        with pytest.raises(BadEntry) as error:
            ask("x" * 5000)
        assert error.value.reason is Reason.MISSING_VIDEO


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder of videos"):
        MediaFolder(tmp_path / "gone")
    assert MediaFolder(tmp_path / "gone", check=False).file("x") == tmp_path / "gone" / "x"
