"""The page says what it must, carries everything with it, and a browser shows it without complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plots
from benchmarks.page import write_page
from blip3v.errors import UserError

pytest.importorskip("jinja2")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MEASURE = """<script>
const width = document.documentElement.clientWidth;
const wide = [...document.querySelectorAll("body *")].filter(
  one => one.getBoundingClientRect().right > width + 1 && !one.closest(".wide"));
document.body.dataset.overflow =
  [document.documentElement.scrollWidth - width, ...wide.map(one => one.tagName)].join(" ");
document.body.dataset.pictures = [...document.querySelectorAll("svg")].filter(
  one => one.getBoundingClientRect().height > 50).length;
</script></body>"""


@pytest.fixture
def page(gpu_file: dict[str, Any], tmp_path: Path) -> str:
    write_page(gpu_file, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_rows_reasons_machine_ceilings_and_commands_are_there(page: str, gpu_file: dict[str, Any]) -> None:
    for text in ("ops, stages on NVIDIA H200", "0123456789ab", "580.65.06", "790 TFLOP/s", "4300 GB/s"):
        assert text in page, text
    assert "WRONG" in page and "output [8,729]: BAD" in page and "below the 0.047 ms" in page
    assert page.count("<li><code>") == len(gpu_file["rows"]) and "Times of a CPU" not in page


def test_a_cpu_is_said_to_be_one(cpu_file: dict[str, Any], tmp_path: Path) -> None:
    write_page(cpu_file, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Times of a CPU" in text and "say nothing about the kernels on a GPU" in text
    assert "CUDA graph" not in text


def test_nothing_comes_from_elsewhere(page: str) -> None:
    assert "<script" not in page and "@import" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"url\((?!#)", page)


def test_what_rows_say_is_text_and_no_markup(gpu_file: dict[str, Any], tmp_path: Path) -> None:
    gpu_file["rows"][3]["reason"] = "<script>alert(1)</script>"
    write_page(gpu_file, tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_names_of_elements_are_unique(page: str) -> None:
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    names = re.findall(r' id="([^"]+)"', page)
    assert referred <= set(names)
    # Equal pieces of two pictures have equal names, made from what they hold.
    assert not any(re.fullmatch(r"[a-z]+\d*_\d+", name) for name in names)


def test_without_matplotlib_the_page_says_so(
    gpu_file: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(file: dict[str, Any]) -> dict[str, Any]:
        raise UserError("plots need matplotlib")

    monkeypatch.setattr(plots, "figures", missing)
    write_page(gpu_file, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "plots need matplotlib" in text and "<svg" not in text


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_it_without_complaint_or_overflow(page: str, width: int, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"NOT TESTED: the page in a browser; none of {', '.join(BROWSERS)} is installed")
    measured = tmp_path / "measured.html"
    measured.write_text(page.replace("</body>", MEASURE), encoding="utf-8")
    command = [
        *(
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--enable-logging=stderr",
        ),
        *("--disable-background-networking", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"),
        *(f"--window-size={width},2000", "--dump-dom", measured.as_uri()),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in answer.stderr.splitlines() if ":CONSOLE" in line]
    assert not complaints
    assert re.search(r'data-overflow="([^"]*)"', answer.stdout).group(1) == "0"  # type: ignore[union-attr]
    assert 'data-pictures="4"' in answer.stdout
