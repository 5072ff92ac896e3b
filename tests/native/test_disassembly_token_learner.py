"""token_learner in machine code: tensor cores and TMA in every kernel but the one that folds parameters."""

from __future__ import annotations

import re

from tests.native import machine_code

KERNELS = {
    "logits": {"64", "128", "256"},
    "pool": {"64,1", "192,1", "192,2"},
    "slopes": {"64", "128", "256"},
    "inputs": {"64", "192"},
}


def test_every_kernel_multiplies_on_tensor_cores_and_loads_by_tma():
    found: dict[str, set[str]] = {name: set() for name in KERNELS}
    for name, text in machine_code.code().items():
        match = re.search(r"token_learner\d+(\w+?)_kernelI((?:Li\d+E)+)E", name)
        if match is None:
            continue
        kernel, sizes = match[1], ",".join(re.findall(r"Li(\d+)E", match[2]))
        found[kernel].add(sizes)
        opcodes = machine_code.opcodes(text)
        wanted = {"HGMMA", "UTMALDG", "USETMAXREG"} | ({"UTMASTG"} if kernel == "inputs" else set())
        assert wanted <= opcodes, (kernel, sizes, sorted(opcodes))
    assert found == KERNELS


def test_rows_are_added_up_while_their_chunk_is_multiplied():
    """In the first pass, between the start of a product and the wait for it: the sums over a chunk's rows."""
    for name, text in machine_code.code().items():
        if re.search(r"token_learner\d+logits_kernel", name):
            between = re.findall(
                r"HGMMA[^\n]*gsb0((?:(?!HGMMA).)*?)WARPGROUP\.DEPBAR\.LE gsb0, 0x1", text, re.DOTALL
            )
            assert between and max(part.count("FFMA") for part in between) >= 64, name
