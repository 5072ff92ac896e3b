"""Small calls of grouped_attention's kernels with known results, for the probe that judges seeded faults."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor

from blip3v.ops.grouped_attention import Arguments
from blip3v.ops.grouped_attention.exact import Exact, exact
from blip3v.ops.tensor_description import describe
from blip3v.testing import simulator
from blip3v.testing.cases.grouped_attention import GroupCase
from tests.ops.problem import Problem, Results

EPS = 0.1
"""Large, so that it shows."""

HELD = (
    # Blocks of the backward go on to further groups: there are three in the simulator.
    (GroupCase("model", groups=2), torch.bfloat16, 2),
    (GroupCase("strided", groups=7, heads=3, dim=20, layout="strided"), torch.float32, 16),
    (GroupCase("eight_tokens", groups=4, tokens=8, heads=2, dim=62), torch.bfloat16, 4),
    (GroupCase("two_tokens", groups=4, tokens=2, heads=2, dim=70), torch.float32, 8),
    (GroupCase("loud", groups=1, heads=2, dim=16, loud=True), torch.bfloat16, 1),
)
TILED = (
    (GroupCase("tiles", groups=2, tokens=21, heads=3, dim=20, layout="strided"), torch.float32, 3),
    (GroupCase("wide_tiles", groups=1, tokens=9, heads=2, dim=140), torch.bfloat16, 2),
    (GroupCase("many_heads", groups=5, heads=9, dim=4), torch.float32, 3),
    (GroupCase("loud_tiles", groups=1, tokens=9, heads=2, dim=16, loud=True), torch.bfloat16, 1),
)


def problems(direction: str) -> list[Problem]:
    """direction: `forward` or `backward`."""
    return [
        Problem(case.name, Call(case, dtype, direction == "backward"), seeds)
        for case, dtype, seeds in HELD + TILED
    ]


class Call:
    """Inputs and what is expected, computed when they are first needed; every output has NaN around it."""

    def __init__(self, case: GroupCase, dtype: torch.dtype, backward: bool) -> None:
        self.case, self.dtype, self.backward = case, dtype, backward
        self.made: tuple[list[Tensor], Arguments, Mapping[str, Exact] | None] | None = None

    def make(self) -> tuple[list[Tensor], Arguments, Mapping[str, Exact] | None]:
        inputs = self.case.build(self.dtype)
        arguments = Arguments(*inputs[:4])._replace(
            norm_weight=inputs.norm_weight.float(), norm_bias=inputs.norm_bias.float()
        )
        if not self.backward:
            return list(arguments), arguments, None
        y = exact(arguments, inputs.x, EPS)["y"].value.to(self.dtype)
        truth = exact(arguments, y, EPS, inputs.dy, inputs.dz)
        statistics = [truth[name].value.float() for name in ("mean", "rstd")]
        given = [inputs.dy, inputs.dz, inputs.qkv, arguments.norm_weight, y, *statistics]
        return given, arguments, truth

    def __call__(self, module: ModuleType) -> Results:
        if self.made is None:
            self.made = self.make()
        given, arguments, truth = self.made
        results = self.run_backward(module, given) if self.backward else self.run_forward(module, given)
        # The forward's LayerNorm is judged from the y that was written.
        truth = truth or exact(arguments, results["y"], EPS)
        return {name: (tensor, *truth[name]) for name, tensor in results.items()}

    def run_forward(self, module: ModuleType, given: list[Tensor]) -> dict[str, Tensor]:
        x = given[0]
        y, z = Output(x.shape, x.dtype), Output(x.shape, x.dtype)
        mean, rstd = Output(x.shape[:2], torch.float32), Output(x.shape[:2], torch.float32)
        outputs = (y, z, mean, rstd)
        call(module, module.grouped_attention_forward, [*given, *(o.tensor for o in outputs)], EPS, 0)
        return dict(zip(("y", "z", "mean", "rstd"), (output.finished() for output in outputs)))

    def run_backward(self, module: ModuleType, given: list[Tensor]) -> dict[str, Tensor]:
        qkv, y = given[2], given[4]
        groups, tokens, width = y.shape
        heads, dim = qkv.shape[3:]
        blocks = min(groups, module.grouped_attention_backward_blocks())
        dx, dqkv = Output(y.shape, y.dtype), Output(qkv.shape, qkv.dtype)
        partials = Output((blocks, 2, width), torch.float32)
        row_sums = None
        if not module.grouped_attention_holds_group(tokens, heads, dim):
            row_sums = torch.full((2, groups, heads, tokens), torch.nan)
        outputs = (dx, dqkv, partials)
        tensors = [*given, *(o.tensor for o in outputs), row_sums]
        call(module, module.grouped_attention_backward, tensors, 0)
        weight, bias = partials.finished().sum(0)
        return {"dx": dx.finished(), "dqkv": dqkv.finished(), "dnorm_weight": weight, "dnorm_bias": bias}


class Output:
    """NaN, with NaN behind it that must stay."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.whole = torch.full((shape[0] + 1, *shape[1:]), torch.nan, dtype=dtype)
        self.tensor = self.whole[:-1]

    def finished(self) -> Tensor:
        if not self.whole[-1].isnan().all():
            raise RuntimeError("written behind an output")
        return self.tensor


def call(module: ModuleType, function, tensors: list[Tensor | None], *rest) -> None:  # type: ignore[no-untyped-def]
    with simulator.only(*(tensor for tensor in tensors if tensor is not None)):
        function(*(describe(module, tensor) for tensor in tensors), *rest)
