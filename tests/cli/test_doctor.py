"""doctor names every part, says why a part does not run, and never fails itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip3v.cli import doctor as doctor_module
from blip3v.cli.doctor import Row, import_row, tool_row
from blip3v.cli.main import main

OPS = (
    *("resampler_attention", "token_learner", "grouped_attention", "feed_forward"),
    *("ttm_read", "ttm_write", "grouped_ttm"),
)
ITEMS = [
    "Python",
    "torch",
    "GPU in torch",
    "NVIDIA driver",
    "nvcc",
    "blip3v._C",
    "CUDA kernels",
    *(f"{op}: {backend}" for op in OPS for backend in ("cuda", "triton", "reference", "simulator")),
    "decoder: pyav",
    "decoder: decord",
    "decoder: dali",
    "attention: SDPA",
    "attention: flex",
    "attention: flash-attn",
    "triton",
]


def test_json_names_every_part_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    rows = {row["item"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ITEMS
    assert all(row["detail"] for row in rows.values())
    assert rows["blip3v._C"]["ok"] and rows["decoder: decord"]["ok"] and rows["decoder: pyav"]["ok"]

    import torch

    assert rows["torch"]["detail"].startswith(torch.__version__)
    assert rows["GPU in torch"]["ok"] == torch.cuda.is_available()


def test_backends_say_where_they_run_and_where_they_were_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from blip3v.ops import registry

    rows = {row.item: row for row in doctor_module.op_rows()}
    reference, cuda = rows["resampler_attention: reference"], rows["resampler_attention: cuda"]
    assert reference.ok and reference.detail.endswith("verified everywhere: it is the formula itself")
    if not torch.cuda.is_available():
        assert not cuda.ok and cuda.detail.startswith("the tensors are on cpu, need a CUDA device")
    table = {"resampler_attention": (registry.Backend("reference", reference_module(), {"sm_90": "x.json"}),)}
    monkeypatch.setattr(registry, "OPS", table)
    (row,) = doctor_module.op_rows()
    assert row.detail.startswith("runs on ") and row.detail.endswith("; verified on sm_90")
    monkeypatch.setattr(
        registry, "OPS", {op: (registry.Backend("reference", reference_module()),) for op in table}
    )
    (row,) = doctor_module.op_rows()
    assert row.detail.endswith("; verified on no device yet: never a default, only by name")


def reference_module() -> str:
    return "blip3v.ops.resampler_attention.reference"


def test_table_shows_remedies_as_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row("good", True, "1.0"), Row("bad", False, "pip install 'x[dali]'")]
    monkeypatch.setattr(doctor_module, "examine", lambda: rows)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "yes" in printed and "no" in printed
    assert "pip install 'x[dali]'" in printed


def test_import_row_tells_missing_from_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn_package.py").write_text("raise OSError('libtorn.so: cannot open shared object file')\n")
    (tmp_path / "hungry_package.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "fine_package.py").write_text("__version__ = '4.2'\n")
    monkeypatch.syspath_prepend(tmp_path)
    missing = import_row("x", "no_such_package.part", "", "pip install x")
    assert missing == Row("x", False, "not installed: pip install x")
    torn = import_row("x", "torn_package", "", "pip install x")
    assert not torn.ok and "libtorn.so" in torn.detail and "broken" in torn.detail
    assert "needs a_package_nobody_has" in import_row("x", "hungry_package", "", "pip install x").detail
    assert import_row("x", "fine_package", "on the CPU", "") == Row("x", True, "4.2 on the CPU")


def test_tool_row_reports_absence_and_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert tool_row("t", ["sometool"], "", "install it") == Row("t", False, "no sometool on PATH: install it")
    tool = tmp_path / "sometool"
    tool.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    tool.chmod(0o755)
    assert tool_row("t", ["sometool"], "", "install it") == Row("t", False, f"broken ({tool})")
