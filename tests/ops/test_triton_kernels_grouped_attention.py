"""The Triton kernels of grouped_attention compile for GPUs that are not here and fit in shared memory."""

from __future__ import annotations

import os

import pytest
import torch

from blip3v.ops.grouped_attention.triton import blocks, columns

pytest.importorskip("triton", reason="triton is not installed: it comes with a CUDA build of torch")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

SMALLEST_SHARED_MEMORY = 99 * 1024
"""Bytes a block may have on GPUs of compute capability 8.6 and 8.9; 9.0 has 227 KiB."""

NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
FLOAT32 = ("mean", "rstd", "partials", "norm_weight", "norm_bias")
INTEGERS = ("tokens", "heads", "dim", "width", "rows")
NUMBERS = ("scale", "eps")


def compile_for(capability: int, kernel_name: str, dtype: torch.dtype, tokens: int, dim: int):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from blip3v.ops.grouped_attention import triton_kernels

    kernel = getattr(triton_kernels, kernel_name)
    constants = blocks(tokens, dim) if "attention" in kernel_name else columns(8 * dim)
    options = {"num_warps": constants.pop("num_warps")}
    if "ROWS" in kernel.arg_names:
        constants["ROWS"] = 4
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        stride = name.endswith(("_group", "_token"))
        if name in constants:
            signature[name] = "constexpr"
        elif stride or name in INTEGERS:
            signature[name] = "i32"
        elif name in NUMBERS:
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32" if name in FLOAT32 else f"*{NAMES[dtype]}"
        if stride or signature[name].startswith("*"):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("kernel", ["attention_kernel", "attention_backward_kernel"])
@pytest.mark.parametrize("tokens", [5, 64])
@pytest.mark.parametrize("capability", [80, 90])
def test_tensor_cores_and_shared_memory(capability: int, tokens: int, kernel: str) -> None:
    compiled = compile_for(capability, kernel, torch.bfloat16, tokens, 144)
    assert "mma" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= SMALLEST_SHARED_MEMORY


@pytest.mark.parametrize("kernel", ["norm_kernel", "norm_backward_kernel"])
def test_the_kernels_of_the_norm_compile(kernel: str) -> None:
    assert compile_for(90, kernel, torch.bfloat16, 5, 144).metadata.shared <= SMALLEST_SHARED_MEMORY


def test_small_groups_of_float32_fit() -> None:
    compiled = compile_for(80, "attention_kernel", torch.float32, 5, 144)
    assert compiled.metadata.shared <= SMALLEST_SHARED_MEMORY
