"""feed_forward in machine code: tensor cores and TMA, and an activation without slow functions."""

from __future__ import annotations

import re

from tests.native import machine_code

CUTS = {"128ELi192ELi1ELi2", "128ELi128ELi2ELi1", "64ELi96ELi2ELi2", "256ELi128ELi2ELi1"}


def kernels() -> dict[str, str]:
    """Mangled name -> disassembly."""
    return {
        name: text
        for name, text in machine_code.code().items()
        if re.search(r"6blip3v12feed_forward14product_kernel", name)
    }


def cut_of(name: str) -> str:
    match = re.search(r"3CutILi(\d+ELi\d+ELi\d+ELi\d+)", name)
    assert match, name
    return match[1]


def test_every_cut_multiplies_on_tensor_cores_and_moves_by_tma():
    found = kernels()
    assert len(found) == 6 and {cut_of(name) for name in found} == CUTS
    for name, text in found.items():
        opcodes = machine_code.opcodes(text)
        assert {"HGMMA", "UTMALDG", "UTMASTG", "USETMAXREG", "STSM"} <= opcodes, (name, sorted(opcodes))
        assert "UTMALDG.3D.MULTICAST" in text, name
        assert "STG" not in opcodes, name


def test_gelu_and_its_derivative_are_one_exponential_and_one_reciprocal():
    """No call of erff, no division: two instructions of the special function unit per element of a thread's
    accumulators, also where both are wanted."""
    for name, text in kernels().items():
        cut = cut_of(name)
        if cut in ("128ELi192ELi1ELi2", "128ELi128ELi2ELi1"):
            columns = int(cut.split("ELi")[1])
            elements = columns // 2 * (2 if columns == 128 else 1)  # ping-pong: 128 rows to a warpgroup
            assert text.count("MUFU.EX2") == text.count("MUFU.RCP") == elements, name
            assert "CALL.REL" not in text, name
