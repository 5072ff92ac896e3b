"""The fused kernel: in Triton's interpreter against the formulas, and compiled for GPUs that are not here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from blip3v.models.fp8 import rows
from blip3v.models.fp8.fused import launch, split

pytest.importorskip("triton", reason="triton is not installed: it comes with a CUDA build of torch")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own, see the last test")
outside = pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")

COLUMNS = [16, 40, 1152, 4304]


def numbers(columns: int, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(columns)
    x = torch.randn(5, columns) * 10.0 ** torch.tensor([[-3.0], [-1], [0], [1], [0]])
    x[4] = 0
    x[:4, 3] *= 50
    return x.to(dtype)


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", COLUMNS)
def test_interpreted_rounding_is_the_formulas_bit_for_bit(columns: int, dtype: torch.dtype) -> None:
    x = numbers(columns, dtype)
    got, expected = launch("NOTHING", x), rows.quantised(x)
    assert torch.equal(got.scale, expected.scale)
    assert torch.equal(got.values.view(torch.uint8), expected.values.view(torch.uint8))


@inside
def test_interpreted_rows_may_lie_apart() -> None:
    x = numbers(96, torch.bfloat16)[:, 16:56]
    got, expected = launch("NOTHING", x), rows.quantised(x)
    assert torch.equal(got.values.view(torch.uint8), expected.values.view(torch.uint8))


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("before", ["LAYER_NORM", "GELU"])
def test_interpreted_results_are_within_half_a_step_of_float64(
    before: str, columns: int, dtype: torch.dtype
) -> None:
    x = numbers(columns, dtype)
    weight, bias = torch.randn(2, columns).to(dtype)
    if before == "GELU":
        got = launch(before, x)
        exact = torch.nn.functional.gelu(x.double(), approximate="tanh")
        formula = rows.gelu_quantised(x)
    else:
        got = launch(before, x, weight, bias, 1e-6)
        exact = torch.nn.functional.layer_norm(x.double(), (columns,), weight.double(), bias.double(), 1e-6)
        formula = rows.norm_quantised(x, weight, bias, 1e-6)
    torch.testing.assert_close(got.scale, formula.scale, rtol=1e-5, atol=0)
    half_step = (exact.abs() / 16).clamp(min=got.scale.double() * 2**-10)
    # What float32 loses before: an absolute part where LayerNorm cancels, and 1e-5 of the number.
    slack = 1e-5 * exact.abs().amax(dim=-1, keepdim=True)
    assert ((got.dequantised() - exact).abs() <= 1.0001 * half_step + slack).all()
    # Sums in another order turn a tie here and there, no more.
    differ = got.values.view(torch.uint8) != formula.values.view(torch.uint8)
    assert differ.float().mean() <= 0.002


@outside
def test_head_and_tail_cover_a_row_and_waste_little() -> None:
    for columns in [*range(1, 70), 1152, 1153, 4304, 8192]:
        head, tail = split(columns)
        assert head <= columns <= head + tail and not head & head - 1 and not tail & tail - 1
    assert split(1152) == (1024, 128) and split(4304) == (4096, 256)


@outside
@pytest.mark.parametrize("capability", [89, 90])
@pytest.mark.parametrize("before", ["NOTHING", "LAYER_NORM", "GELU"])
def test_the_kernel_compiles_and_rounds_in_hardware(before: str, capability: int) -> None:
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from blip3v.models.fp8 import triton_kernels

    kernel = triton_kernels.rows_kernel
    head, tail = split(4304)
    constants = {"BEFORE": getattr(triton_kernels, before).value, "HEAD": head, "TAIL": tail}
    kinds = {"x": "*bf16", "weight": "*fp32", "bias": "*fp32", "values": "*fp8e4nv", "scales": "*fp32"}
    kinds |= {"columns": "i32", "x_row": "i32", "epsilon": "fp32"}
    signature = {name: kinds.get(name, "constexpr") for name in kernel.arg_names}
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if name in kinds and name != "epsilon"
    }
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton_compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    ptx = compiled.asm["ptx"]
    # To nearest even, saturating: what torch's cast does with numbers up to 448. Before Hopper Triton goes
    # through float16, which may turn a tie.
    assert f"cvt.rn.satfinite.e4m3x2.{'f32' if capability == 90 else 'f16x2'}" in ptx
    assert "ld.global.v4" in ptx, "rows must be read 16 bytes at a time"
    assert compiled.metadata.shared <= 1024, "only maxima and sums meet in shared memory"


@outside
def test_the_kernel_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-k", "interpreted", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:]
    assert f"{3 * 2 * len(COLUMNS) + 1} passed" in run.stdout, run.stdout[-2000:]
