from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from blip3v.errors import UserError
from blip3v.train.plot import plot_loss


def test_draws_png_and_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = tmp_path / "log.jsonl"
    lines = [{"step": n, "loss": 1 / n, "smoothed_loss": 1 / n, "learning_rate": 0.1} for n in range(1, 9)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    png, svg = plot_loss(log, "a title")
    with Image.open(png) as image:
        assert len(set(image.convert("RGB").get_flattened_data())) > 3
    assert "<svg" in svg.read_text()


def test_an_empty_log_is_a_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(UserError, match="no steps"):
        plot_loss(tmp_path / "log.jsonl")
