"""grouped_ttm against its peers: `blip3v bench ops --op grouped_ttm`.

What a row says, and when it shows no time: benchmarks/rows.py. The peers hold the same weights: PyTorch's
modules eager and compiled, and the einsum spelling of public repositories. Under a CUDA graph (the graph
columns) the gaps between launches are gone: that is the bar, not eager.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.rows import Bench
from benchmarks.stages.einsum_modules import EinsumTTMUnit
from benchmarks.subject import Subject
from blip3v.models.temporal.token_turing_machine import TTMUnit
from blip3v.ops.grouped_ttm import Weights, grouped_ttm
from blip3v.testing.cases.grouped_ttm import CASES, LARGE, RecurrenceCase

OURS = ("cuda", "triton", "reference", "simulator")
COMPILED = {"compile default": "default", "compile max-autotune": "max-autotune-no-cudagraphs"}
PEERS = (*OURS, "modules", "einsum", *COMPILED)
BOUND = 0.05
"""A recurrence rounds dozens of times one after the other: so much of a tensor's largest element bfloat16 may
be off. In float32 it is a thousand times less."""


class Recurrence(Subject):
    """A case on a device: what the rows measure."""

    def __init__(self, case: RecurrenceCase, dtype: torch.dtype, device: str) -> None:
        self.case, self.dtype, self.device = case, dtype, device
        self.tensors = case.build(dtype, device)
        self.inputs = (self.tensors.frames, self.tensors.memory, *self.tensors.weights)
        self.cotangents = [self.tensors.dmemory]
        self.truth = self._truth()

    def _truth(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The modules in float64; as terms, what makes `BOUND` of a tensor's largest element the bound."""
        inputs = [tensor.double().requires_grad_() for tensor in self.inputs]
        run = self._modules(torch.float64, checkpointed=True)
        out = run(*inputs)
        gradients = torch.autograd.grad(out, inputs, self.tensors.dmemory.double())
        unit = 2.0**-8 if self.dtype == torch.bfloat16 else 2.0**-18
        share = BOUND * (1.0 if self.dtype == torch.bfloat16 else 1e-3)
        names = ("memory", *(f"gradient {index}" for index in range(len(inputs))))
        return {
            name: (value.detach(), value.detach().abs().amax().expand_as(value) * share / unit)
            for name, value in zip(names, (out, *gradients))
        }

    def peer(self, backend: str) -> Callable[..., Tensor]:
        if backend in OURS:
            heads, stamps = self.tensors.heads, self.tensors.stamps
            return lambda frames, memory, *weights: grouped_ttm(
                frames, memory, Weights.of(weights), heads=heads, stamps=stamps, backend=backend
            )
        if backend in COMPILED:
            torch.compiler.reset()
            return torch.compile(self._modules(self.dtype), dynamic=False, mode=COMPILED[backend])
        return self._modules(self.dtype, EinsumTTMUnit if backend == "einsum" else None)

    def roundings(self, backend: str) -> int:
        return 1

    def work(self, direction: str) -> tuple[float, float]:
        return work(self.case, direction, self.tensors.frames.element_size())

    def _modules(
        self, dtype: torch.dtype, einsum: type[nn.Module] | None = None, checkpointed: bool = False
    ) -> Callable[..., Tensor]:
        """The recurrence over modules that are called with the given weights.

        checkpointed: for the truth, whose float64 activations of 256 frames would not fit.
        """
        case, tensors = self.case, self.tensors
        sizes = {"dim": case.dim, "slots": case.slots, "positions": case.positions, "depth": case.depth}
        sizes |= {"heads": case.heads, "ff_mult": case.mult}
        unit: nn.Module
        if einsum is None:
            unit = TTMUnit(**sizes, gain=1.0, implementation="sdpa")
        else:
            unit = einsum(**sizes)
        unit.to(self.device, dtype)
        stamps = None if tensors.stamps is None else tensors.stamps.to(dtype)

        def advance(memory: Tensor, frame: Tensor, named: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(unit, named, (memory, frame))

        def run(frames: Tensor, memory: Tensor, *weights: Tensor) -> Tensor:
            named = _named(Weights.of(weights))
            for step in range(frames.shape[1]):
                frame = frames[:, step] if stamps is None else frames[:, step] + stamps[step]
                if checkpointed:
                    memory = checkpoint(advance, memory, frame, named, use_reentrant=False)
                else:
                    memory = advance(memory, frame, named)
            return memory

        return run


def _named(weights: Weights) -> dict[str, Tensor]:
    """The weights under the names of the modules."""
    named = {}
    for number, layer in enumerate(weights.layers):
        attention, ff = f"process_layers.{number}.0", f"process_layers.{number}.1"
        q, k, v = layer.qkv_weight.chunk(3)
        named |= {f"{attention}.norm.weight": layer.norm_weight, f"{attention}.norm.bias": layer.norm_bias}
        named |= {f"{attention}.to_{name}.weight": part for name, part in zip("qkv", (q, k, v))}
        named |= {f"{ff}.0.weight": layer.ff_norm_weight, f"{ff}.0.bias": layer.ff_norm_bias}
        named |= {f"{ff}.1.weight": layer.w1, f"{ff}.3.weight": layer.w2}
    write = weights.write
    named |= {"write_layer.norm.weight": write.norm1_weight, "write_layer.norm.bias": write.norm1_bias}
    named |= {"write_layer.mlp.0.weight": write.norm2_weight, "write_layer.mlp.0.bias": write.norm2_bias}
    return named | {"write_layer.mlp.1.weight": write.w1, "write_layer.mlp.3.weight": write.w2}


def work(case: RecurrenceCase, direction: str, element: int) -> tuple[float, float]:
    """(FLOP, bytes): every step reads all weights, too many for a cache, and writes and reads what a layer's
    products hand on. The backward has twice the products, and recomputes nothing here."""
    rows = case.videos * case.positions * (case.slots + 1)
    hidden = case.mult * case.dim
    matrices = case.depth * case.dim * (3 * case.dim + 2 * hidden)
    attention = case.depth * 2 * (case.slots + 1) * case.dim
    write = case.videos * case.positions * (2 * case.slots + 1) * 2 * case.slots * case.dim
    flops = case.steps * (2 * rows * (matrices + attention) + 2 * write)
    # x in and out, qkv, y, h, each written and read.
    activations = case.depth * rows * 2 * (2 * case.dim + 3 * case.dim + hidden)
    moved = element * case.steps * (matrices + activations)
    passes = 1 if direction == "forward" else 3
    return passes * flops, passes * moved


BENCH = Bench(
    op="grouped_ttm",
    cases=CASES,
    presets={
        "4b": tuple(case.name for case in LARGE),
        "small": ("small", "one_frame"),
    },
    peers=PEERS,
    build=Recurrence,
)
