"""The Triton kernels compile for GPUs that are not here, use tensor cores and fit in shared memory."""

from __future__ import annotations

import os

import pytest
import torch

from blip3v.ops.resampler_attention.triton import padded, tiles

pytest.importorskip("triton", reason="triton is not installed: it comes with a CUDA build of torch")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

SMALLEST_SHARED_MEMORY = 99 * 1024
"""Bytes a block may have on GPUs of compute capability 8.6 and 8.9; 9.0 has 227 KiB."""

NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
KERNELS = {"forward_kernel": False, "query_gradient_kernel": True, "key_gradients_kernel": True}


def compile_for(capability: int, kernel_name: str, dtype: torch.dtype, dim: int):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from blip3v.ops.resampler_attention import triton_kernels

    kernel = getattr(triton_kernels, kernel_name)
    chosen = tiles(dtype, padded(dim), backward=KERNELS[kernel_name])
    constants = {
        "HAS_LENGTHS": True,
        "HAS_KEEP": True,
        "BLOCK_Q": chosen.queries,
        "BLOCK_K": chosen.keys,
        "BLOCK_D": padded(dim),
    }
    other = {"lengths": "*i32", "keep": "*u8", "lse": "*fp32", "delta": "*fp32", "scale": "fp32"}
    integers = ("heads", "queries", "media", "latents", "dim")
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        stride = name.endswith(("_frame", "_row", "_head"))
        if name in constants:
            signature[name] = "constexpr"
        elif stride or name in integers:
            signature[name] = "i32"
        else:
            signature[name] = other.get(name, f"*{NAMES[dtype]}")
        if stride or signature[name].startswith("*"):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": chosen.warps, "num_stages": chosen.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", [96, 144])
@pytest.mark.parametrize("capability", [80, 90])
def test_tensor_cores_and_shared_memory(capability: int, dim: int, kernel: str) -> None:
    compiled = compile_for(capability, kernel, torch.bfloat16, dim)
    products = "wgmma" if capability == 90 and dim == 96 else "mma"
    assert products in compiled.asm["ptx"]
    assert compiled.metadata.shared <= SMALLEST_SHARED_MEMORY


def test_the_largest_tiles_of_float32_fit() -> None:
    compiled = compile_for(80, "key_gradients_kernel", torch.float32, 144)
    assert compiled.metadata.shared <= SMALLEST_SHARED_MEMORY
