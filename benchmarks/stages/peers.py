"""What each stage is compared with: our backends, and what a user would run instead.

A peer is a callable that takes the stage's input; those that share the stage's module run on its very
weights, the einsum modules on the same numbers. A peer that cannot run raises, and its rows say why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.stages import bench_reference
from benchmarks.stages.stage_modules import DecodeStep, Stage, set_attention
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.ops.registry import AUTO, OPS, kind_of_device, use_backend, wished

SDPA = {
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}
COMPILED = {"compile default": "default", "compile max-autotune": "max-autotune-no-cudagraphs"}
"""CUDA graphs are a column of their own, for everybody."""

PLAIN = "eager reference"
"""The formula with its scores in memory: what bounds the errors of all others."""

EINSUM = "einsum"
OF_TRANSFORMERS = ("blip3v", PLAIN, *SDPA, "flash_attention_2", *COMPILED)
OF_OPS = (
    "blip3v",
    "blip3v cuda",
    "blip3v triton",
    PLAIN,
    *SDPA,
    EINSUM,
    *COMPILED,
    "compile max-autotune einsum",
)
PEERS = tuple(dict.fromkeys((*OF_OPS, *OF_TRANSFORMERS)))

WITHOUT_ATTENTION = ("token_learner", "token_learner_per_frame")
WITH_EINSUM = ("resampler", "grouped_ttm", "transformer", "ttm", "token_learner")


def peers_of(stage: Stage) -> tuple[str, ...]:
    """Those that are something else than another in this stage."""
    if not stage.trains:
        return OF_TRANSFORMERS
    peers = [peer for peer in OF_OPS if not (stage.name in WITHOUT_ATTENTION and peer in SDPA)]
    if not stage.ops:
        peers = [peer for peer in peers if peer not in ("blip3v cuda", "blip3v triton")]
    return tuple(peer for peer in peers if stage.name in WITH_EINSUM or EINSUM not in peer)


def default_peers(stage: Stage, device: str) -> tuple[str, ...]:
    """All; but a CPU has one SDPA kernel, which `blip3v` takes, and compiling for it takes minutes in all."""
    if torch.device(device).type == "cuda":
        return peers_of(stage)
    return tuple(peer for peer in peers_of(stage) if peer not in SDPA and "compile" not in peer)


class Peer:
    """One peer of one stage, ready to be called: `call(x)` -> the stage's output.

    owner: the module whose parameters it uses. ran: the backend of each op, where ops run.
    """

    def __init__(
        self, name: str, stage: Stage, module: nn.Module, config: Blip3VideoConfig, like: Tensor
    ) -> None:
        self.owner = module
        around: list[Callable[[], AbstractContextManager[object]]] = []
        function: Callable[[Tensor], Tensor] = module
        attention = {PLAIN: "eager", "flash_attention_2": "flash_attention_2"}.get(name, "sdpa")
        if isinstance(module, DecodeStep):
            module.prepare(like, static=name in COMPILED)
        if EINSUM in name:
            function = self.owner = einsum_module(stage, module, config, like)
        else:
            set_attention(module, attention)
        if name in SDPA:
            around.append(partial(sdpa_kernel, SDPA[name]))
        if name != "blip3v":
            around.append(
                partial(use_backend, name.removeprefix("blip3v ") if "blip3v" in name else "reference")
            )
        for compiled, mode in COMPILED.items():
            if name.startswith(compiled):
                torch.compiler.reset()
                function = torch.compile(function, dynamic=False, mode=mode)
        self._function, self._around = function, around
        with self._inside():
            self.ran = _backends(stage.ops, str(like.device)) if EINSUM not in name else ""

    def __call__(self, x: Tensor) -> Tensor:
        with self._inside():
            return self._function(x)

    def _inside(self) -> AbstractContextManager[object]:
        if not self._around:
            return nullcontext()
        stack = ExitStack()
        for context in self._around:
            stack.enter_context(context())
        return stack


def _backends(ops: Sequence[str], device: str) -> str:
    """`resampler_attention: reference, ...`: what was asked for, or what the choice without asking takes."""
    kind = kind_of_device(device)
    names = []
    for op in ops:
        name = wished(op, None, device)
        if name == AUTO:
            name = next(backend.name for backend in OPS[op] if backend.is_verified(kind))
        names.append(f"{op}: {name}")
    return ", ".join(names)


def einsum_module(stage: Stage, module: nn.Module, config: Blip3VideoConfig, like: Tensor) -> nn.Module:
    """The spelling of public repositories on this stage's weights, cast whole as its users cast it.

    Raises:
        ValueError: there is none of this stage.
    """
    widths = bench_reference.Widths(
        frames=config.num_frames,
        patches=config.patch_grid**2,
        dim=config.vision_config.hidden_size,
        latents=config.num_latents,
        resampler_depth=config.resampler_depth,
        resampler_heads=config.resampler_heads,
        dim_head=config.resampler_dim_head,
        temporal_depth=config.temporal_depth,
        temporal_heads=config.temporal_heads,
        slots=config.memory_slots,
        tokens=config.video_tokens,
        ff_mult=config.temporal_ff_mult,
    )
    for pair in bench_reference.stages(widths):
        if pair.name == stage.name:
            with torch.device("meta"):
                other = pair.einsum()
            other.load_state_dict(module.state_dict(), assign=True)
            return other.to(like.dtype)
    raise ValueError(f"there is no einsum module of {stage.name}")
