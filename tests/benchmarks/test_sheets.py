"""What a reader sees of rows: order, marks, rounding, and no number where there must be none."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.columns import memory, number
from benchmarks.sheets import BEST, BUG, UNTIMED, WRONG, Line, contest, device_name, ratio, sheets


def lines_of(file: dict[str, Any], sheet: int = 0) -> dict[tuple[str, str], Line]:
    groups = sheets(file)[sheet].groups
    return {(group.title.split()[0], line.name): line for group in groups for line in group.lines}


def test_a_sheet_per_op_with_ours_first_and_the_fastest_marked(gpu_file: dict[str, Any]) -> None:
    first, second = sheets(gpu_file)
    assert (first.title, second.title) == ("ops: token_learner", "stages: vit")
    names = [[line.name for line in group.lines] for group in first.groups]
    assert names[0] == ["cuda", "reference", "compile max-autotune", "einsum", "flash-attn"]
    assert names[1] == ["cuda", "reference", "compile default", "sdpa cudnn"]
    best = [line.name for group in first.groups for line in group.lines if line.state == BEST]
    assert best == ["cuda", "cuda"]
    assert first.groups[0].floor == "floor 0.000605 ms (memory)"
    assert first.groups[0].result == "cuda against compile max-autotune, the best other: 2.29x"


def test_what_has_nothing_to_beat_is_not_marked(gpu_file: dict[str, Any]) -> None:
    assert lines_of({**gpu_file, "rows": gpu_file["rows"][2:5]})["one_video", "cuda"].state == ""


def test_rows_in_any_order_make_the_same_sheets(gpu_file: dict[str, Any]) -> None:
    shuffled = {**gpu_file, "rows": gpu_file["rows"][1::2] + gpu_file["rows"][::2]}
    titles = [[group.title for group in sheet.groups] for sheet in sheets(shuffled)]
    assert sorted(titles) == sorted([group.title for group in sheet.groups] for sheet in sheets(gpu_file))


def test_wrong_impossible_and_missing_rows_show_no_number(gpu_file: dict[str, Any]) -> None:
    lines = lines_of(gpu_file)
    head = sheets(gpu_file)[0].head
    for backend, state in (("einsum", WRONG), ("flash-attn", UNTIMED)):
        line = lines["one_video", backend]
        assert line.cells[0] == line.state == state and line.note == line.row["reason"]
        assert not any(cell for name, cell in zip(head[1:], line.cells[1:]) if name != "error")
    impossible = lines["sixteen_videos", "compile default"]
    assert impossible.cells == (BUG, *[""] * (len(head) - 1)) and "data sheet" in impossible.note


def test_an_impossible_time_wins_nothing(gpu_file: dict[str, Any]) -> None:
    rows = [row for row in gpu_file["rows"] if row["case"] == "sixteen_videos"]
    ours, other = contest(rows)
    assert ours is not None and other is not None
    assert (ours["backend"], other["backend"]) == ("cuda", "sdpa cudnn")
    assert contest([rows[1]]) == (None, None)


def test_a_ratio_says_when_it_is_noise(gpu_file: dict[str, Any]) -> None:
    ours, other = gpu_file["rows"][-2:]
    assert ratio(ours, other) == "1.02x (noise)"
    assert (
        ratio(ours, other | {"graph_median_ms": 7.6, "graph_p20_ms": 7.59, "graph_p80_ms": 7.61}) == "1.04x"
    )
    assert ratio(ours, {**other, "graph_repeats": 2}) == "1.02x (noise)"


def test_times_are_the_eager_ones_and_rates_the_better_ones(gpu_file: dict[str, Any]) -> None:
    sheet = sheets(gpu_file)[0]
    cells = dict(zip(sheet.head, lines_of(gpu_file)["one_video", "cuda"].cells))
    assert cells["ms"] == "0.0310" and cells["graph ms"] == "0.0248" and cells["p20, p80"] == "-1.0% +2.0%"
    assert cells["TFLOP/s"] == number(0.23 / 0.0248) and cells["GB/s"] == number(2.6 / 0.0248)
    assert cells["memory"] == "118 MiB" and cells["error"] == "2.1e-3" and cells["roofline"] == "2.4%"


def test_a_lost_graph_is_told_beside_the_time(gpu_file: dict[str, Any]) -> None:
    file = copy.deepcopy(gpu_file)
    file["rows"][4] |= {"graph_reason": "RuntimeError: capture"}
    assert lines_of(file)["one_video", "cuda"].note == "no graph: RuntimeError: capture"


def test_what_compares_nothing_is_a_list_with_all_its_numbers() -> None:
    rows = [
        {
            "level": "end_to_end",
            "op": "step",
            "case": f"{tokens}_tokens",
            "backend": "blip3v",
            "dtype": "float32",
        }
        | {"median_ms": 12.0, "samples_per_s": 1234.5, "mfu": 0.25, "video_bytes": 2**20, "batch": 4}
        for tokens in (16, 32)
    ]
    (sheet,) = sheets({"machine": {}, "rows": rows})
    assert sheet.title == "end_to_end: float32 blip3v"
    assert sheet.head == ("ms", "samples/s", "mfu", "video", "batch")
    (group,) = sheet.groups
    assert [line.name for line in group.lines] == ["16_tokens", "32_tokens"]
    assert group.lines[0].cells == ("12.0", "1234", "25%", "1.00 MiB", "4")


def test_encoders_of_as_many_tokens_have_no_common_floor() -> None:
    rows = [
        {"level": "tokens", "op": "first_token", "case": "32", "backend": backend, "bound": "memory"}
        | {"median_ms": 2.0, "floor_ms": floor, "prefill_ms": 1.0, "largest_batch": 8, "vision_flops": 1e9}
        for backend, floor in (("ttm", 1.0), ("token_learner", 0.5))
    ]
    (sheet,) = sheets({"machine": {}, "rows": rows})
    assert sheet.groups[0].floor == "" and sheet.head == ("ms", "prefill ms", "largest batch")


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (0.5, "0.500"), (12.345, "12.3"), (123456, "123456"), (0, "0")]
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


def test_bytes_and_devices_by_name(gpu_file: dict[str, Any], cpu_file: dict[str, Any]) -> None:
    assert [memory(value) for value in (12, 2**11, 3 * 2**20, 2.5 * 2**30)] == [
        *("12.0 B", "2.00 KiB", "3.00 MiB", "2.50 GiB")
    ]
    assert device_name(gpu_file["machine"]) == "NVIDIA H200"
    assert device_name(cpu_file["machine"]) == "CPU (A processor, 2 threads)"
