from __future__ import annotations

import time

import pytest
import torch

from benchmarks.results_file import IDENTITY
from benchmarks.tokens import bench_tokens, plot, points, stopwatch
from benchmarks.tokens.bench_tokens import TokenBench, token_rows
from benchmarks.tokens.points import COUNTS, Point, config_of
from benchmarks.tokens.published import ENCODERS, SYSTEMS
from benchmarks.tokens.reader import Reader
from blip3v.errors import UserError
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.token_count import TEMPORAL_ENCODER_NAMES

TIMES = {"vision_ms", "vision_encoder_ms", "prefill_ms", "first_token_ms", "tokens_per_s", "median_ms"}


@pytest.fixture
def few_patches(monkeypatch):
    """The small preset on frames of 4 x 4 patches."""
    monkeypatch.setitem(points.IMAGE_SIZE, "small", 32)
    config_of.cache_clear()
    yield
    config_of.cache_clear()


def test_every_encoder_is_there_from_16_to_5832_tokens():
    for preset in ("small", "4b"):
        found = points.points(preset)
        assert {point.encoder for point in found} == set(TEMPORAL_ENCODER_NAMES)
        assert (min(found, key=lambda p: p.tokens).tokens, max(found, key=lambda p: p.tokens)) == (
            16,
            Point("tarsier", 5832),
        )
        assert len(set(found)) == len(found)
        asked = {point.tokens for point in found if point.encoder == "grouped_ttm"}
        assert asked == set(COUNTS[preset])


@pytest.mark.parametrize("preset", ["small", "4b"])
def test_both_presets_make_the_same_tokens_of_a_video(preset):
    natural = {"none": 1024, "video_chatgpt": 737, "pllava": 1152, "kangaroo": 784, "minigpt4_video": 1464}
    natural |= {"llava_next_video": 1352, "llava_onevision": 1568, "tarsier": 5832, "mean_pool": 128}
    found = points.points(preset, list(natural))
    assert found == [Point(name, count) for name, count in natural.items()]
    for point in found:
        config = config_of(preset, point)
        assert config.video_tokens_for(8) == point.tokens
        assert config.patch_grid == 27


def test_chosen_encoders_and_counts():
    assert points.points("small", ["ttm", "tarsier"], [32, 64]) == [Point("ttm", 32), Point("ttm", 64)]
    with pytest.raises(UserError, match="no such encoder makes 7 tokens"):
        points.points("small", ["tarsier"], [7])
    with pytest.raises(UserError, match="no temporal encoder 'lstm'"):
        points.points("small", ["lstm"])


def test_a_case_names_its_tokens():
    assert points.tokens_of(points.case_of("4b", 5832)) == 5832
    for wrong in ("32", "small_32_videos", "tokens", "small_x_tokens"):
        with pytest.raises(UserError, match="named like small_32_tokens"):
            points.tokens_of(wrong)


def test_a_row_is_complete_and_adds_up(few_patches):
    rows = list(token_rows("small", "cpu", ["token_learner", "video_llama"], [16], repeats=2))
    assert [row["encoder"] for row in rows] == ["token_learner", "video_llama"]
    for row in rows:
        assert "reason" not in row
        assert all(row[name] > 0 for name in TIMES)
        assert all(name in row for name in IDENTITY)
        assert row["first_token_ms"] == pytest.approx(row["vision_ms"] + row["prefill_ms"])
        assert row["vision_ms"] > row["vision_encoder_ms"]
        assert row["flops"] == row["vision_flops"] + row["prefill_flops"]
        assert row["kv_cache_bytes"] == 2 * 6 * 512 * (16 + 16) * 4
        assert row["tflops"] == pytest.approx(row["flops"] / row["first_token_ms"] / 1e9)
        assert "peak_memory_bytes" not in row, "nobody counts a CPU's tensors"
        assert row["largest_batch_from"] == "counted"
    one, other = rows
    assert one["prefill_ms"] == other["prefill_ms"], "the language model is timed once per number of tokens"
    assert one["vision_encoder_ms"] == other["vision_encoder_ms"]


def test_what_cannot_run_is_a_row_with_its_reason(few_patches, monkeypatch):
    def out_of_memory(config):
        raise MemoryError("too small for\nthis")

    monkeypatch.setattr(bench_tokens, "VisionTokenizer", out_of_memory)
    row = TokenBench("small", "cpu", repeats=1).row(Point("ttm", 16))
    assert row["reason"] == "MemoryError: too small for"
    assert not TIMES & set(row)
    assert row["vision_flops"] > 0


def test_numbers_that_are_not_finite_have_no_time(few_patches, monkeypatch):
    def broken(config):
        tokenizer = VisionTokenizer(config)
        torch.nn.init.constant_(tokenizer.projection.weight, torch.nan)
        return tokenizer

    VisionTokenizer = bench_tokens.VisionTokenizer
    monkeypatch.setattr(bench_tokens, "VisionTokenizer", broken)
    row = TokenBench("small", "cpu", repeats=1).row(Point("token_learner", 16))
    assert "not finite" in row["reason"]
    assert not TIMES & set(row)


def test_the_timed_road_gives_the_model_s_first_token(few_patches):
    """Video tokens, then text: the same choice as the whole model's forward makes."""
    config = config_of("small", Point("token_learner", 16))
    torch.manual_seed(1)
    model = Blip3VideoForConditionalGeneration(config).eval()
    reader = Reader(config, "cpu", "float32", text_tokens=5, repeats=1)
    reader.model.load_state_dict(model.lang_model.state_dict())
    pixels = torch.randn(1, 8, 3, 32, 32)
    ids = torch.cat([torch.full((1, 16), config.image_token_id), reader.text], dim=1)
    with torch.inference_mode():
        whole = model(input_ids=ids, pixel_values_videos=pixels, logits_to_keep=1).logits
        token, cache = reader._prefill(model.encode_video(pixels))
    assert token.item() == whole.argmax().item()
    assert cache.get_seq_length() == 21


def test_long_calls_are_repeated_seldom(monkeypatch):
    monkeypatch.setattr(stopwatch, "PATIENCE", 0.02)
    calls: list[float] = []

    def slow() -> tuple[float, ...]:
        begin = time.perf_counter()
        time.sleep(0.03)
        calls.append(time.perf_counter() - begin)
        return (calls[-1],)

    (timing,) = stopwatch.repeated(slow, 10, "cpu")
    assert (len(calls), timing.repeats) == (2, 2)
    calls.clear()
    stopwatch.repeated(slow, 10, "cuda")
    assert len(calls) == 3, "on a GPU the first call may have loaded kernels and does not count"


def test_short_calls_are_repeated_as_often_as_asked():
    calls = iter(range(100))
    (timing,) = stopwatch.repeated(lambda: (next(calls) * 1.0,), 4, "cuda")
    assert (timing.repeats, timing.median) == (4, 2.5)


def test_published_numbers_name_their_table_and_a_known_encoder():
    for row in SYSTEMS + ENCODERS:
        assert row.table
        assert row.encoder in TEMPORAL_ENCODER_NAMES
        assert all(0 < value < 100 for value in row.accuracy.values())
    best = {row.tokens: row.accuracy["MSVD-QA"] for row in ENCODERS if row.encoder == "grouped_ttm"}
    assert best == {16: 76.17, 32: 77.11, 128: 77.86, 256: 77.67}


def test_the_plot_says_what_is_published_and_shows_every_timed_row(tmp_path):
    times = {"prefill_ms": 5.0, "first_token_ms": 9.0, "dtype": "float32"}
    rows = [
        {"encoder": "token_learner", "tokens": 16, "case": "small_16_tokens", **times},
        {"encoder": "tarsier", "tokens": 5832, "case": "small_5832_tokens", **times},
        {"encoder": "none", "tokens": 1024, "case": "small_1024_tokens", "reason": "too large"},
    ]
    page = plot.plot_tokens(rows)
    cost, gain = page.axes
    assert "Measured: small preset" in cost.get_title()
    assert gain.get_title().startswith("PUBLISHED, not measured here")
    named = [text.get_text() for text in cost.texts]
    assert named == ["16: token_learner", "5,832: tarsier"]
    shown = {tuple(offset) for dots in cost.collections for offset in dots.get_offsets().tolist()}
    assert {(16, 9), (5832, 9)} <= shown
    assert not any(tokens == 1024 for tokens, _ in shown)
    page.savefig(tmp_path / "tokens.svg")
    with pytest.raises(UserError, match="no row of the level `tokens`"):
        plot.plot_tokens(rows[2:])
