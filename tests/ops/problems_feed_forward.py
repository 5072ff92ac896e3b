"""Small calls of feed_forward's kernels with known results, for the probe that judges seeded faults.

All three kernels go through the two functions of the binding: `gelu` and `residual` through the forward one.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from blip3v.ops.feed_forward import Arguments
from blip3v.ops.feed_forward.exact import exact
from blip3v.ops.tensor_description import describe
from blip3v.testing import simulator
from blip3v.testing.cases.feed_forward import FeedForwardCase
from tests.ops.problem import Problem, Results

FEW = (
    FeedForwardCase("ragged", (150,), 136, 264),
    FeedForwardCase("strided", (4, 5), 72, 264, layout="strided"),
    FeedForwardCase("one_token", (1,), 8, 8),
)
MANY = (FeedForwardCase("many_rows", (1290,), 72, 136),)


def problems(direction: str) -> list[Problem]:
    """direction: the kernel, `gelu`, `residual` or `dgelu`."""
    backward = direction == "dgelu"
    cases = [(case, 6) for case in FEW] + [(case, 1) for case in MANY]
    return [Problem(case.name, Call(case, backward), seeds) for case, seeds in cases]


class Call:
    """Inputs and what is expected, computed when they are first needed; every output has NaN behind it."""

    def __init__(self, case: FeedForwardCase, backward: bool) -> None:
        self.case, self.backward = case, backward
        self.made: tuple[list[Tensor], dict[str, tuple[Tensor, Tensor]]] | None = None

    def make(self) -> tuple[list[Tensor], dict[str, tuple[Tensor, Tensor]]]:
        inputs = self.case.build(torch.bfloat16)
        inputs.z[..., 0] *= 3  # some h far out
        truth = exact(Arguments(*inputs[:4]), inputs.dout)
        z, residual, dout = (t.reshape(-1, t.shape[-1]) for t in (inputs.z, inputs.residual, inputs.dout))
        width, hidden = self.case.width, self.case.hidden
        expected = {
            name: tuple(t.reshape(-1, width if name == "out" else hidden) for t in truth[name])
            for name in (("dh", "a") if self.backward else ("h", "a", "out"))
        }
        if self.backward:
            return [dout, inputs.w2, truth["h"].value.reshape(-1, hidden).bfloat16()], expected
        return [z, inputs.w1, inputs.w2, residual], expected

    def __call__(self, module: ModuleType) -> Results:
        if self.made is None:
            self.made = self.make()
        given, expected = self.made
        whole = {
            name: torch.full((value.shape[0] + 1, value.shape[1]), torch.nan, dtype=torch.bfloat16)
            for name, (value, _) in expected.items()
        }
        outputs = {name: tensor[:-1] for name, tensor in whole.items()}
        function = module.feed_forward_backward if self.backward else module.feed_forward_forward
        tensors = [*given, *outputs.values()]
        with simulator.only(*tensors):
            function(*(describe(module, tensor) for tensor in tensors), 0)
        if not all(tensor[-1].isnan().all() for tensor in whole.values()):
            raise RuntimeError("written behind an output")
        results = {name: (outputs[name], *expected[name]) for name in outputs}
        # The backward differentiates what is stored: `a` belongs to that h, not to the sum.
        h = (given[-1] if self.backward else outputs["h"]).double()
        return results | {"a of the stored h": (outputs["a"], torch.nn.functional.gelu(h), h.abs() * 2**-10)}
