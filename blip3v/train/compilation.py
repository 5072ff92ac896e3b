"""torch.compile of the repeated blocks, each compiled once for all of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch._dynamo
from torch import nn

from blip3v.train.activation import Recomputed
from blip3v.train.regions import repeated_blocks


@contextmanager
def compile_regions(model: nn.Module, backend: str = "inductor") -> Iterator[None]:
    """Within: the forward of every repeated block of `model` is compiled; names of weights do not change.

    Regions instead of the whole model: a decoder layer is compiled once and not 32 times, and what stands
    between the blocks (splicing video tokens into the text, the loss) needs no static shape. A kind of block
    is compiled for the first shapes that it meets, and once more when a length changes, with that length as a
    variable; further lengths compile nothing. Before the model is wrapped or sharded.

    What is compiled is `forward` and not the call around it as `nn.Module.compile` does: hooks, with which
    FSDP gathers and frees weights, stay outside, where they run as they were written. Recomputing stays
    outside too (see `blip3v.train.activation`): traced into a block, it does not understand the masks of
    packed rows.

    NOT RUN on a GPU yet; on CPUs the tests trace and differentiate with `aot_eager`.

    Args:
        backend: of torch.compile; "aot_eager" traces without generating code.
    """
    undo = ExitStack()
    for block in repeated_blocks(model):
        forward = block.forward
        if isinstance(forward, Recomputed):
            undo.callback(setattr, forward, "inner", forward.inner)
            forward.inner = torch.compile(forward.inner, backend=backend)
        else:
            undo.callback(_put_back, block, vars(block).get("forward"))
            vars(block)["forward"] = torch.compile(forward, backend=backend)
    # Compiling inside DDP, PyTorch would cut each region into pieces of DDP's buckets, which serves to
    # overlap the exchange of one large graph; regions overlap by themselves.
    with undo, torch._dynamo.config.patch(optimize_ddp=False):
        yield


def _put_back(block: nn.Module, forward: Any) -> None:
    del vars(block)["forward"]
    if forward is not None:
        vars(block)["forward"] = forward
