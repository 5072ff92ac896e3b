from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blip3v.files import leftovers, written_aside


def test_a_file_appears_whole_and_in_a_folder_that_it_makes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "trace.json.gz"
    with written_aside(path) as aside:
        aside.write_text("half")
        assert not path.exists() and aside.name.endswith("trace.json.gz")
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_one_that_breaks_off_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    with pytest.raises(KeyError), written_aside(path) as aside:
        aside.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_leaves_is_found(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from blip3v.files import written_aside\n"
        "with written_aside(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for name in ("a.tar.npz", "b.json"):
        (tmp_path / name).write_text("whole")
        assert (
            subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False).returncode == -9
        )
    (left,) = leftovers(tmp_path, ".npz")
    assert left.read_text() == "half" and left.name.endswith(".a.tar.npz")
    assert (tmp_path / "a.tar.npz").read_text() == "whole"
