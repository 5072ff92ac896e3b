from __future__ import annotations

from math import ceil

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from blip3v.models.temporal import compared_systems as systems
from blip3v.models.token_count import video_token_count

DIM = 8
MODULES = {
    "video_chatgpt": lambda: systems.VideoChatGPT(),
    "pllava": lambda: systems.PLLaVA(),
    "video_llama": lambda: systems.VideoLLaMA(DIM, 5),
    "kangaroo": lambda: systems.Kangaroo(DIM),
    "minigpt4_video": lambda: systems.MiniGPT4Video(DIM),
    "llava_next_video": lambda: systems.LLaVANeXTVideo(),
    "llava_onevision": lambda: systems.LLaVAOneVision(),
    "tarsier": lambda: systems.Tarsier(),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("grid", [1, 2, 3, 13, 14])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_token_count(randomised, normal, name, grid, frames):
    if name == "llava_next_video" and grid == 1:
        return  # one patch has no cell of 2 x 2: test_one_patch_cannot_be_pooled
    spec = {"temporal_encoder": name, "video_tokens": 5, "num_frames": 8, "patch_grid": grid}
    out = randomised(MODULES[name]())(normal(2, frames, grid * grid, DIM))
    assert out.shape == (2, video_token_count(spec, frames), DIM)
    assert out.isfinite().all()


def test_token_counts_at_the_published_grid():
    """8 frames of 27 x 27 patches; the systems themselves use other grids and frame counts."""
    expected = {
        "video_chatgpt": 729 + 8,
        "pllava": 8 * 144,
        "video_llama": 32,
        "kangaroo": 4 * 14 * 14,
        "minigpt4_video": 8 * 183,
        "llava_next_video": 8 * 13 * 13,
        "llava_onevision": 8 * 14 * 14,
        "tarsier": 8 * 729,
    }
    spec = {"video_tokens": 32, "num_frames": 8, "patch_grid": 27}
    assert {name: video_token_count(spec | {"temporal_encoder": name}, 8) for name in MODULES} == expected


def patch(x: Tensor, b: int, t: int, row: int, column: int, grid: int) -> Tensor:
    """The patch at a place of the grid, zeros outside it."""
    inside = t < x.shape[1] and row < grid and column < grid
    return x[b, t, row * grid + column] if inside else torch.zeros_like(x[0, 0, 0])


def test_video_chatgpt(normal):
    x = normal(1, 3, 4, DIM)
    over_time = [sum(x[0, t, s] for t in range(3)) / 3 for s in range(4)]
    over_space = [sum(x[0, t, s] for s in range(4)) / 4 for t in range(3)]
    assert_close(systems.VideoChatGPT()(x)[0], torch.stack(over_time + over_space))


@pytest.mark.parametrize("grid", [5, 12, 17])
def test_pllava_averages_each_cell(normal, grid):
    x, side = normal(1, 2, grid * grid, DIM), min(grid, 12)
    expected = []
    for t in range(2):
        for i in range(side):
            for j in range(side):
                rows = range(i * grid // side, ceil((i + 1) * grid / side))
                columns = range(j * grid // side, ceil((j + 1) * grid / side))
                cell = [patch(x, 0, t, row, column, grid) for row in rows for column in columns]
                expected.append(sum(cell) / len(cell))
    assert_close(systems.PLLaVA()(x)[0], torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_video_llama_is_a_bert_layer_with_cross_attention(formulas, randomised, normal):
    heads, module = 8, randomised(systems.VideoLLaMA(DIM, 3))
    state = module.state_dict()
    x = normal(2, 2, 4, DIM)
    out = module(x)

    def attention(queries: list[Tensor], context: list[Tensor], name: str) -> list[Tensor]:
        q = [formulas.linear(v, state, f"{name}.to_q") for v in queries]
        kv = [formulas.linear(v, state, f"{name}.to_kv").chunk(2) for v in context]
        mixed = formulas.attend(q, [k for k, _ in kv], [v for _, v in kv], heads)
        return [formulas.linear(v, state, f"{name}.to_out") for v in mixed]

    def add_and_norm(tokens: list[Tensor], updates: list[Tensor], name: str) -> list[Tensor]:
        return [formulas.layer_norm(a + b, state, name) for a, b in zip(tokens, updates, strict=True)]

    for b in range(2):
        frames = [x[b, t, s] + formulas.time_stamp(t, DIM) for t in range(2) for s in range(4)]
        queries = [formulas.layer_norm(v, state, "norm") for v in state["queries"]]
        for name in ("layers.0", "layers.1"):
            updates = attention(queries, queries, f"{name}.self_attention")
            queries = add_and_norm(queries, updates, f"{name}.self_norm")
            updates = attention(queries, frames, f"{name}.cross_attention")
            queries = add_and_norm(queries, updates, f"{name}.cross_norm")
            hidden = [formulas.gelu(formulas.linear(v, state, f"{name}.ff.0")) for v in queries]
            updates = [formulas.linear(v, state, f"{name}.ff.2") for v in hidden]
            queries = add_and_norm(queries, updates, f"{name}.ff_norm")
        assert_close(out[b], torch.stack(queries), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dim", "heads"), [(1152, 8), (12, 4), (6, 2)])
def test_video_llama_finds_heads_that_divide_its_width(dim, heads):
    assert systems.VideoLLaMA(dim, 2).layers[0].self_attention.heads == heads


@pytest.mark.parametrize(("frames", "grid"), [(4, 4), (3, 3), (1, 1)])
def test_kangaroo_convolves_cells_of_two_frames(formulas, randomised, normal, frames, grid):
    module = randomised(systems.Kangaroo(DIM))
    state = module.state_dict()
    kernel = state["patchify.weight"]
    x = normal(1, frames, grid * grid, DIM)
    expected = []
    for t in range(0, frames, 2):
        for row in range(0, grid, 2):
            for column in range(0, grid, 2):
                cell = state["patchify.bias"].clone()
                for a, b, c in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
                    cell += kernel[:, 0, a, b, c] * patch(x, 0, t + a, row + b, column + c, grid)
                expected.append(formulas.linear(cell, state, "pointwise"))
    assert_close(module(x)[0], torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_minigpt4_video_joins_four_consecutive_patches(formulas, randomised, normal):
    module = randomised(systems.MiniGPT4Video(DIM))
    x = normal(1, 2, 9, DIM)
    expected = []
    for t in range(2):
        padded = [*x[0, t], *torch.zeros(3, DIM, dtype=x.dtype)]
        for first in range(0, 12, 4):
            joined = torch.cat(padded[first : first + 4])
            expected.append(formulas.linear(joined, module.state_dict(), "merge"))
    assert_close(module(x)[0], torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("grid", [4, 5])
def test_llava_next_video_averages_two_by_two(normal, grid):
    x = normal(1, 2, grid * grid, DIM)
    expected = []
    for t in range(2):
        for row in range(0, grid - 1, 2):
            for column in range(0, grid - 1, 2):
                cell = [patch(x, 0, t, row + a, column + b, grid) for a in (0, 1) for b in (0, 1)]
                expected.append(sum(cell) / 4)
    assert_close(systems.LLaVANeXTVideo()(x)[0], torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("grid", [4, 5, 1])
def test_llava_onevision_resamples_bilinearly(normal, grid):
    """Output centre i + 1/2 lies at (i + 1/2) * grid / side in the input; edges repeat."""
    x, side = normal(1, 2, grid * grid, DIM), ceil(grid / 2)

    def corners(i: int) -> list[tuple[int, float]]:
        place = max((i + 0.5) * grid / side - 0.5, 0.0)
        low, part = int(place), place - int(place)
        return [(low, 1 - part), (min(low + 1, grid - 1), part)]

    expected = []
    for t in range(2):
        for i in range(side):
            for j in range(side):
                weighted = [
                    wr * wc * patch(x, 0, t, row, column, grid)
                    for row, wr in corners(i)
                    for column, wc in corners(j)
                ]
                expected.append(sum(weighted))
    assert_close(systems.LLaVAOneVision()(x)[0], torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_tarsier_keeps_every_token(normal):
    x = normal(1, 3, 4, DIM)
    assert torch.equal(systems.Tarsier()(x)[0], torch.cat(list(x[0])))


@pytest.mark.parametrize("name", ["pllava", "kangaroo", "llava_next_video", "llava_onevision"])
def test_patches_that_are_no_square_are_refused(name):
    with pytest.raises(ValueError, match="square patch grids"):
        MODULES[name]()(torch.zeros(1, 2, 5, DIM))


def test_one_patch_cannot_be_pooled():
    with pytest.raises(ValueError, match="cells of 2 x 2 patches"):
        systems.LLaVANeXTVideo()(torch.zeros(1, 2, 1, DIM))


def test_low_precision_stays_low():
    for make in MODULES.values():
        module: nn.Module = make().bfloat16()
        x = torch.randn(1, 3, 9, DIM).bfloat16().requires_grad_()
        out = module(x)
        out.float().sum().backward()
        assert out.dtype == x.grad.dtype == torch.bfloat16
        assert out.isfinite().all()
        assert x.grad.isfinite().all()
