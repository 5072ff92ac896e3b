from __future__ import annotations

from pathlib import Path

from blip3v.train.checkpoint import write_aside


def test_write_aside_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_aside(tmp_path / "new", lambda folder: (folder / "x").touch())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "other"]
