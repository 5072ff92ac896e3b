"""The Triton kernel compiles for GPUs that are not here, uses tensor cores and fits in shared memory."""

from __future__ import annotations

import os

import pytest
import torch

from blip3v.ops.feed_forward.triton import tiles

pytest.importorskip("triton", reason="triton is not installed: it comes with a CUDA build of torch")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

SMALLEST_SHARED_MEMORY = 99 * 1024
"""Bytes a block may have on GPUs of compute capability 8.6 and 8.9; 9.0 has 227 KiB."""

NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}


def compile_for(capability: int, dtype: torch.dtype, epilogue: int):
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from blip3v.ops.feed_forward.triton_kernels import product_kernel

    chosen = tiles(dtype)
    constants = {"EPILOGUE": epilogue, "BLOCK_M": chosen.rows, "BLOCK_N": chosen.columns}
    # b is a weight that is read transposed, or, for the derivative, as it is stored.
    constants |= {"BLOCK_K": chosen.depth, "a_depth": 1, "b_column" if epilogue == 2 else "b_depth": 1}
    signature, attributes = {}, {}
    for index, name in enumerate(product_kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        pointer = name in ("a", "b", "read", "out", "second")
        signature[name] = f"*{NAMES[dtype]}" if pointer else "i32"
        if pointer or name != "rows":
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(product_kernel, signature, constants, attributes)
    options = {"num_warps": chosen.warps, "num_stages": chosen.stages}
    return triton_compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("epilogue", [0, 1, 2], ids=["gelu", "residual", "dgelu"])
@pytest.mark.parametrize("capability", [80, 90])
def test_tensor_cores_and_shared_memory(capability: int, epilogue: int) -> None:
    compiled = compile_for(capability, torch.bfloat16, epilogue)
    assert ("wgmma" if capability == 90 else "mma.sync") in compiled.asm["ptx"]
    assert compiled.metadata.shared <= SMALLEST_SHARED_MEMORY


def test_the_tiles_of_float32_fit() -> None:
    assert compile_for(80, torch.float32, 2).metadata.shared <= SMALLEST_SHARED_MEMORY
