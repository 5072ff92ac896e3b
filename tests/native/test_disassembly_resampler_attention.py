"""resampler_attention in machine code: tensor cores and TMA, and the softmax where it is hidden."""

from __future__ import annotations

import re

from blip3v import native
from tests.native import machine_code


def kernels() -> dict[tuple[str, int], str]:
    """("forward", 96) -> its disassembly."""
    found = {}
    for name, text in machine_code.code().items():
        if match := re.search(r"resampler_attention\d+(forward|backward)_kernelILi(\d+)E", name):
            found[match[1], int(match[2])] = text
    return found


def test_every_kernel_multiplies_on_tensor_cores_and_loads_by_tma():
    found = kernels()
    dims = native.load().resampler_attention_head_dims
    assert set(found) == {(direction, d) for direction in ("forward", "backward") for d in dims}
    for kernel, text in found.items():
        opcodes = machine_code.opcodes(text)
        assert {"HGMMA", "UTMALDG", "UTMASTG", "USETMAXREG"} <= opcodes, (kernel, sorted(opcodes))


def test_the_forward_computes_the_softmax_while_its_other_product_runs():
    """Between the wait for S(j) and the wait for O(j-1): the exponentials of a tile, two rows of 16 each.

    ptxas is free to move them behind the second wait, where nothing hides them, and did so once.
    """
    for kernel, text in kernels().items():
        if kernel[0] == "forward":
            between = re.search(
                r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1(.*?)WARPGROUP\.DEPBAR\.LE gsb0, 0x0", text, re.DOTALL
            )
            assert between, kernel
            assert between[1].count("MUFU.EX2") >= 32, kernel
