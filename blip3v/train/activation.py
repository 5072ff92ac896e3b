"""Activations that the backward pass computes again, instead of keeping them from the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from blip3v.errors import UserError
from blip3v.train.regions import repeated_blocks

Mode = Literal["none", "selective", "full"]

MATRIX_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "linear", "convolution"})
ATTENTION = "_scaled_dot_product_"
"""How the names of PyTorch's attention operators begin; there is one per backend."""
FUSED = frozenset({"blip3v", "torch_attn"})
"""Namespaces whose operators are all worth keeping: ours, and PyTorch's attention on packed rows."""


class Recomputed:
    """In the place of a block's forward: the same, but computed again in the backward pass.

    Args:
        block: acts in training mode only.
        inner: its forward.
        selective: keep matrix products and attentions.
    """

    def __init__(self, block: nn.Module, inner: Callable[..., Any], selective: bool) -> None:
        self.block, self.inner, self.selective = block, inner, selective

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        left_to_compiler = self.selective and is_compiled(self.inner)
        if left_to_compiler or not (self.block.training and torch.is_grad_enabled()):
            return self.inner(*args, **kwargs)
        contexts = _keeping_products if self.selective else noop_context_fn
        return checkpoint(self.inner, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def is_compiled(function: Any) -> bool:
    """Whether torch.compile made it."""
    return hasattr(function, "_torchdynamo_orig_callable")


@contextmanager
def checkpoint_activations(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Within: each repeated block keeps less for the backward pass, in the place of the model given.

    Gradients are the same numbers; dropout is drawn the same. Blocks act so in training mode only, and
    `repeated_blocks` says which they are. With `compile_regions`, in either order, the compiled block is what
    is computed again. Before the model is sharded, so that recomputing finds the block's weights gathered.

    Args:
        mode: `full` keeps a block's input and runs the block a second time; `selective` keeps the outputs of
            matrix products and attentions too and repeats what is cheap: norms, activations, rotary
            embeddings, casts. Compiled blocks leave that choice to Inductor, which makes it by itself, and
            `selective` adds nothing to them. `none` changes nothing.

    Raises:
        UserError: no such mode; a block whose forward something else has replaced.
    """
    if mode not in ("none", "selective", "full"):
        raise UserError(f"no way to keep activations called {mode!r}: choose none, selective or full")
    blocks = [] if mode == "none" else repeated_blocks(model)
    before = [vars(block).get("forward") for block in blocks]
    for block, forward in zip(blocks, before, strict=True):
        if forward is not None and not is_compiled(forward):
            raise UserError(
                f"a {type(block).__name__} has a forward of its own already: use "
                "activation_checkpointing none with offloading or other hooks"
            )
    for block in blocks:
        vars(block)["forward"] = Recomputed(block, block.forward, mode == "selective")
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


def _keeping_products() -> Any:
    return create_selective_checkpoint_contexts(keep_products)


def keep_products(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """PyTorch's question for each operator in a block: keep its output, or compute it again?"""
    namespace, _, name = operator.name().partition("::")
    name = name.partition(".")[0]
    kept = (
        name in MATRIX_PRODUCTS or name.startswith(ATTENTION) if namespace == "aten" else namespace in FUSED
    )
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
