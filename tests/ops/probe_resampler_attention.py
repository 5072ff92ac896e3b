"""Runs a perhaps faulty kernel of resampler_attention in the simulator: `python THIS LIBRARY DIRECTION`.

Ends with status 1 at the first thing that is wrong, and prints it; with 0 when nothing was noticed.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

DIM = 96
SCALE = DIM**-0.5
SCHEDULES = {"forward": 0, "reverse": 1, "random": 2}


def struct(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# csrc/resampler_attention/params.h.
c_int, c_long, c_pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
View = struct("View", data=c_pointer, row=c_long, head=c_long, frame=c_long)
Sizes = struct("Sizes", frames=c_int, heads=c_int, queries=c_int, media=c_int, latents=c_int)
Inputs = struct(
    "Inputs",
    sizes=Sizes,
    q=View,
    k_media=View,
    v_media=View,
    k_latents=View,
    v_latents=View,
    lengths=c_pointer,
    keep=c_pointer,
    keep_stride=c_long,
    scale=ctypes.c_float,
    splits=c_int,
)
Forward = struct("Forward", inputs=Inputs, out=View, lse=c_pointer)
Backward = struct(
    "Backward",
    inputs=Inputs,
    out=View,
    dout=View,
    lse=c_pointer,
    dq=View,
    dk_media=View,
    dv_media=View,
    dk_latents=View,
    dv_latents=View,
)


def view(tensor: Tensor) -> ctypes.Structure:
    frame, row, head = (8 if tensor.shape[i] == 1 else tensor.stride(i) for i in range(3))
    return View(tensor.data_ptr(), row, head, frame)


@dataclass(frozen=True)
class Problem:
    """Sizes of one call, and how many random schedules are tried on it."""

    frames: int
    heads: int
    queries: int
    media: int
    latents: int
    splits: int = 1
    masked: bool = False
    keep: bool = True
    seeds: int = 4


PROBLEMS = (
    Problem(1, 1, 128, 729, 128),
    Problem(1, 1, 100, 65, 1, seeds=60),
    Problem(
        4, 2, 128, 70, 10, seeds=8
    ),  # more than the simulated multiprocessors: blocks go on to a next one
    Problem(6, 2, 128, 30, 0, seeds=8),  # one tile each: queries are what the producer gets ahead with
    Problem(3, 1, 128, 200, 70, masked=True, seeds=6),
    Problem(3, 1, 128, 200, 70, masked=True, keep=False, seeds=2),
    Problem(1, 2, 90, 300, 70, splits=3, seeds=8),
    Problem(1, 1, 100, 130, 20, splits=2, seeds=40),  # so few tiles that one consumer may be far ahead
    Problem(3, 1, 128, 150, 0, splits=2, masked=True, seeds=4),
)


class Call:
    """Inputs, what is expected in float64, and memory for the outputs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = p = problem
        generator = torch.Generator().manual_seed(p.media)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).bfloat16()

        self.q, self.dout = (
            normal(p.frames, p.queries, p.heads, DIM),
            normal(p.frames, p.queries, p.heads, DIM),
        )
        # Every tensor with strides of its own.
        k_media, v_media = normal(p.frames, p.media, 2, p.heads, DIM).unbind(2)
        k_latents = 1.5 * normal(p.frames, p.heads, p.latents, DIM).transpose(1, 2)
        v_latents = normal(p.frames, p.latents + 3, p.heads, DIM + 8)[:, 2 : p.latents + 2, :, 8:]
        self.keys_values = (k_media, v_media, k_latents, v_latents)
        self.lengths = self.keep = None
        seen = torch.ones(p.frames, p.media, dtype=torch.bool)
        if p.masked:
            self.lengths = torch.tensor([p.media - 30, 0, p.media], dtype=torch.int32)
            seen = torch.arange(p.media) < self.lengths[:, None]
        if p.masked and p.keep:
            self.keep = (torch.rand(p.frames, p.media, generator=generator) < 0.7).to(torch.uint8)
            seen = self.keep.bool() & seen
        self._solve(torch.cat([seen, torch.ones(p.frames, p.latents, dtype=torch.bool)], 1))

    def _solve(self, seen: Tensor) -> None:
        p = self.problem
        q, *rest = (t.double().requires_grad_() for t in (self.q, *self.keys_values))
        k, v = torch.cat([rest[0], rest[2]], 1), torch.cat([rest[1], rest[3]], 1)
        scores = SCALE * torch.einsum("fqhd,fkhd->fhqk", q, k)
        scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
        lse = scores.logsumexp(-1)
        self.lse = lse.detach()
        weights = (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()
        out = torch.einsum("fhqk,fkhd->fqhd", weights, v)
        self.out = out.detach()
        # The backward kernel is given out as the forward one would round it.
        self.gradients = torch.autograd.grad(out, (q, *rest), self.dout.double())
        self.rounded_out, self.lse32 = self.out.bfloat16(), self.lse.float().contiguous()
        self.sizes = Sizes(p.frames, p.heads, p.queries, p.media, p.latents)

    def inputs(self) -> ctypes.Structure:
        masks = [None if mask is None else mask.data_ptr() for mask in (self.lengths, self.keep)]
        views = [view(tensor) for tensor in (self.q, *self.keys_values)]
        return Inputs(self.sizes, *views, *masks, self.problem.media, SCALE, self.problem.splits)

    def forward(self) -> tuple[ctypes.Structure, dict[str, tuple[Tensor, Tensor]]]:
        # Guard elements behind every output: nobody may write there.
        out = torch.full((self.out.shape[0] + 1, *self.out.shape[1:]), torch.nan, dtype=torch.bfloat16)
        lse = torch.full((self.lse.numel() + 256,), torch.nan)
        self.guards = [out[-1], lse[self.lse.numel() :]]
        out, lse = out[:-1], lse[: self.lse.numel()].view(self.lse.shape)
        call = Forward(self.inputs(), view(out), lse.data_ptr())
        return call, {"out": (out, self.out), "lse": (lse, self.lse)}

    def backward(self) -> tuple[ctypes.Structure, dict[str, tuple[Tensor, Tensor]]]:
        results, self.guards = [], []
        for exact in self.gradients:
            memory = torch.full((exact.shape[0] + 1, *exact.shape[1:]), torch.nan, dtype=torch.bfloat16)
            results.append(memory[:-1])
            self.guards.append(memory[-1])
        views = [view(result) for result in results]
        call = Backward(self.inputs(), view(self.rounded_out), view(self.dout), self.lse32.data_ptr(), *views)
        names = ("dq", "dk_media", "dv_media", "dk_latents", "dv_latents")
        return call, dict(zip(names, zip(results, self.gradients)))


def wrong(name: str, got: Tensor, exact: Tensor) -> str:
    """What rounding to bf16 does not explain, or nothing."""
    if got.dtype == torch.float32:
        infinite = exact == -torch.inf
        if not torch.equal(got.double()[infinite], exact[infinite]):
            return f"{name}: infinities differ"
        worst = (got.double() - exact)[~infinite].abs().amax().item() if not infinite.all() else 0.0
        return "" if worst < 2e-5 else f"{name} off by {worst:.1e}"
    if exact.numel() == 0:
        return ""
    norm = exact.norm().clamp_min(1e-30)
    relative = ((got.double() - exact).norm() / norm).item()
    largest = ((got.double() - exact).abs().amax() / exact.abs().amax().clamp_min(1e-30)).item()
    return (
        "" if relative < 8e-3 and largest < 2e-2 else f"{name}: relative error {relative:.1e}, {largest:.1e}"
    )


def notice(library: ctypes.CDLL, direction: str) -> str:
    """The first thing that is wrong, or nothing."""
    for problem in PROBLEMS:
        call, first = Call(problem), None
        random = (("random", seed) for seed in range(1, problem.seeds + 1))
        runs = [("forward", 1), ("reverse", 1), *random]
        for schedule, seed in runs:
            # Ordinary writes that reach wgmma and TMA late show a missing fence; those that do at once
            # show that a buffer is written too early. Hardware may do either.
            late = schedule != "random" or seed % 2 == 0
            library.configure(SCHEDULES[schedule], ctypes.c_uint64(seed), late)
            arguments, results = getattr(call, direction)()
            where = f"{problem} {schedule} {seed}"
            if report := library.run(ctypes.byref(arguments)):
                return f"{where}: {report.decode()}"
            for name, (got, exact) in results.items():
                if found := wrong(name, got, exact):
                    return f"{where}: {found}"
            if not all(guard.isnan().all() for guard in call.guards):
                return f"{where}: written behind an output"
            bits = {name: got.clone() for name, (got, _) in results.items()}
            if first is not None and not all(torch.equal(first[name], bits[name]) for name in bits):
                return f"{where}: other bits than in the schedule before"
            first = bits
    return ""


def main() -> None:
    library, direction = ctypes.CDLL(sys.argv[1]), sys.argv[2]
    library.run.restype = ctypes.c_char_p
    forward, backward = c_int(), c_int()
    library.sizes(ctypes.byref(forward), ctypes.byref(backward))
    assert (forward.value, backward.value) == (ctypes.sizeof(Forward), ctypes.sizeof(Backward))
    found = notice(library, direction)
    print(found)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
