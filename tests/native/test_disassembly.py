"""What the compiler made of the kernels, all of them: nothing in local memory, no order of arrival."""

from __future__ import annotations

import re

from blip3v.ops.registry import COMPOSED, OPS
from tests.native import machine_code

ATOMICS = {"ATOM", "ATOMG", "RED", "REDG", "UTMAREDG"}


def op_of(mangled: str) -> str | None:
    """`_ZN6blip3v19resampler_attention...` -> the op, None for what belongs to none."""
    match = re.search(r"6blip3v\d+(" + "|".join(OPS) + ")", mangled)
    return match[1] if match else None


def test_no_kernel_spills_or_uses_local_memory(capsys):
    used = {name: use for name, use in machine_code.resources().items() if op_of(name)}
    assert {op_of(name) for name in used} == set(OPS) - COMPOSED
    with capsys.disabled():
        for name, use in sorted(used.items()):
            short = name[name.index(str(op_of(name))) :][:72]
            print(f"\n{use['REG']:4} registers  {short}", end="")
    for name, use in used.items():
        assert use["STACK"] == 0 and use["LOCAL"] == 0, (name, use)
        assert use["SHARED"] <= 1024, (name, use)  # static: what CUDA reserves, none of ours


def test_no_kernel_has_atomics_or_touches_local_memory():
    """Atomics would make the results depend on the order of arrival."""
    for name, text in machine_code.code().items():
        if op_of(name):
            found = machine_code.opcodes(text) & (ATOMICS | {"LDL", "STL"})
            assert not found, (name, found)
