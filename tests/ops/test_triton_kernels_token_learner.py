"""The Triton kernels of token_learner compile for GPUs that are not here and fit in shared memory."""

from __future__ import annotations

import os

import pytest
import torch

from blip3v.ops.token_learner.triton import NORM_WARPS, padded, rows_of_norms, tiles

pytest.importorskip("triton", reason="triton is not installed: it comes with a CUDA build of torch")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

SMALLEST_SHARED_MEMORY = 99 * 1024
"""Bytes a block may have on GPUs of compute capability 8.6 and 8.9; 9.0 has 227 KiB."""

NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
FLOAT32 = ("logits", "hidden", "lse", "delta", "partials")
INTEGERS = ("tokens", "width", "inner", "made", "all_rows")
STRIDES = ("x_video", "x_row")


def compile_for(capability: int, kernel_name: str, dtype: torch.dtype, made: int, width: int = 1152):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from blip3v.ops.token_learner import triton_kernels

    kernel = getattr(triton_kernels, kernel_name)
    chosen = tiles(dtype, made)
    constants = {**chosen.options, "BLOCK_J": chosen.hidden, "HAS_KEEP": True, "STORES_HIDDEN": True}
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    if kernel_name == "norms_gradient_kernel":
        constants, options = (
            {"ROWS": rows_of_norms(width), "PADDED": padded(width)},
            {"num_warps": NORM_WARPS},
        )
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in INTEGERS or name in STRIDES:
            signature[name] = "i32"
        elif name == "eps":
            signature[name] = "fp32"
        elif name == "keep":
            signature[name] = "*u8"
        else:
            signature[name] = "*fp32" if name in FLOAT32 else f"*{NAMES[dtype]}"
        if name in STRIDES or signature[name].startswith("*"):
            attributes[(index,)] = [["tt.divisibility", 16]]
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("kernel", ["logits_kernel", "pool_kernel", "mlp_gradient_kernel"])
@pytest.mark.parametrize("made", [32, 256])
@pytest.mark.parametrize("capability", [80, 90])
def test_tensor_cores_and_shared_memory(capability: int, made: int, kernel: str) -> None:
    compiled = compile_for(capability, kernel, torch.bfloat16, made)
    assert "mma" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= SMALLEST_SHARED_MEMORY


@pytest.mark.parametrize("width", [1152, 8192])
def test_the_kernel_of_the_norms_compiles(width: int) -> None:
    assert (
        compile_for(90, "norms_gradient_kernel", torch.bfloat16, 32, width).metadata.shared
        <= SMALLEST_SHARED_MEMORY
    )


@pytest.mark.parametrize("kernel", ["logits_kernel", "mlp_gradient_kernel"])
def test_the_largest_tiles_of_float32_fit(kernel: str) -> None:
    assert compile_for(80, kernel, torch.float32, 256).metadata.shared <= SMALLEST_SHARED_MEMORY
