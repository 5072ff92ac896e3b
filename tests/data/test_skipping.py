from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from blip3v.data.skipping import EXAMPLES, Reason, Skipped, SkipReport


def _report() -> SkipReport:
    report = SkipReport()
    for kind in ("action", "action", None):
        report.keep("tgif", "open", kind)
    for number in range(5):
        report.skip("tgif", Skipped(f"x.csv:{number}", Reason.EMPTY_ANSWER, "'answer' [red]is empty"))
    report.skip("mira", Skipped("y.csv:1", Reason.TOO_LONG, "90 s"))
    return report


def test_counts() -> None:
    report = _report()
    assert (report.num_kept, report.num_skipped, report.sources) == (3, 6, ["tgif", "mira"])
    assert report.share_skipped == pytest.approx(6 / 9)
    assert SkipReport().share_skipped == 0


def test_json() -> None:
    fields = json.loads(json.dumps(_report().to_json()))
    tgif = fields["sources"]["tgif"]
    assert (tgif["kept"], tgif["kinds"]) == ({"open": 3}, {"action": 2})
    skipped = tgif["skipped"]["empty answer"]
    assert skipped["count"] == 5 and len(skipped["examples"]) == EXAMPLES
    assert skipped["examples"][0] == {"where": "x.csv:0", "detail": "'answer' [red]is empty"}
    assert fields["sources"]["mira"]["kept"] == {}


def test_table() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(_report().table())
    text = out.getvalue()
    for words in (
        "kept as open",
        "skipped: empty answer",
        "x.csv:0: 'answer' [red]is empty",
        "action 2",
        "90 s",
    ):
        assert words in text
