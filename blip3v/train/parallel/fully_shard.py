"""FSDP2: weights, gradients and moments in shards; each block is gathered when it runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from blip3v.errors import UserError
from blip3v.models.vision import VisionTokenizer
from blip3v.train.parallel.every_part import is_trained, run_every_part
from blip3v.train.parallel.processes import Processes
from blip3v.train.recipe import Recipe
from blip3v.train.regions import transformer_layers


class FullyShard:
    """`fully_shard` over all processes; parameters become DTensors, with their names unchanged.

    Units, each gathered in one exchange: every layer of Phi-3 (and of SigLIP where it is trained), the whole
    vision tokenizer, and the rest (embeddings, head, norms). The tokenizer is not cut further: its resampler
    projects keys and values outside its layers' forward passes and its temporal encoder reads weights past
    theirs, so parts of it would be found in shards. At 4B it is 0.3 GB in bf16.

    A frozen vision encoder stays whole on every device, as it was handed in: nothing of it is reduced, its
    428 million parameters are no burden, and whole it can be captured in a graph or run in FP8.

    dtypes: parameters stay as they are, fp32 master weights. With the recipe's `bf16` on a GPU, blocks are
    gathered and computed in bf16 and gradients reduced in `reduce_dtype`; a CPU computes and reduces in the
    parameters' own. Buffers are never cast: time-stamps keep float32 frequencies.

    The micro-batches before the last of a step are not exchanged: their gradients wait whole on each device,
    in `reduce_dtype` (15 GB in float32 at 4B).

    Every process must hand in the same weights, and the processes check that on a sample of each parameter.

    NOT RUN on GPUs yet: tests run it over gloo on CPUs, mixed precision too; nccl and streams by none.
    """

    def __init__(self, processes: Processes, recipe: Recipe) -> None:
        self.processes, self.recipe = processes, recipe
        self.device, self.rank, self.world_size = processes.device, processes.rank, processes.world_size
        self.total, self.total_loss = processes.total, processes.total_loss
        self.any, self.barrier, self.close = processes.any, processes.barrier, processes.close
        self.mesh = self._mesh()

    def _mesh(self) -> DeviceMesh:
        return init_device_mesh(self.device.type, (self.world_size,), mesh_dim_names=("shard",))

    def wrap(self, model: nn.Module) -> nn.Module:
        """
        Raises:
            UserError: the processes hand in different weights.
        """
        if isinstance(model, FSDPModule):
            return model
        self._require_equal(model)
        run_every_part(model)
        # A linear layer's output is a view, which would matter if somebody wrote into it in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        whole = _frozen_vision(model)
        if whole is not None:
            whole.to(self.device)
        ignored = set() if whole is None else set(whole.parameters())
        policy = self._precision()
        for unit in shard_units(model):
            fully_shard(unit, mesh=self.mesh, mp_policy=policy)
        fully_shard(model, mesh=self.mesh, mp_policy=policy, ignored_params=ignored)
        return model

    def _precision(self) -> MixedPrecisionPolicy:
        if not self.recipe.bf16 or self.device.type != "cuda":
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(torch.bfloat16, getattr(torch, self.recipe.reduce_dtype))

    @contextmanager
    def accumulate(self, model: nn.Module, last: bool) -> Iterator[None]:
        cast(FSDPModule, model).set_requires_gradient_sync(last)
        yield

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _require_equal(self, model: nn.Module) -> None:
        seen = [p.detach().flatten()[:64].double().sum().cpu() for p in model.parameters()]
        mine = torch.stack(seen)
        first = mine.clone().to(self.device)
        dist.broadcast(first, src=0)
        if self.any(not torch.equal(first.cpu(), mine)):
            raise UserError(
                "the processes start from different weights: give all of them the same model folder, and "
                "the same seed where weights are fresh"
            )


class HybridShard(FullyShard):
    """Shards within a node, a copy per node: weights travel inside nodes, only gradients between them.

    Takes more memory than `fsdp` and less network: for several nodes whose links are slower than NVLink.
    The mesh is (nodes, processes per node), from torchrun's LOCAL_WORLD_SIZE.
    """

    def _mesh(self) -> DeviceMesh:
        within = self.processes.launch.local_world_size
        shape = (self.world_size // within, within)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))


def shard_units(model: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one by one, inner before outer; the model itself comes after them."""
    whole = _frozen_vision(model)
    left_alone = set() if whole is None else set(whole.modules())
    units = [*transformer_layers(model), *(m for m in model.modules() if isinstance(m, VisionTokenizer))]
    return [unit for unit in units if unit not in left_alone]


def _frozen_vision(model: nn.Module) -> nn.Module | None:
    """The vision encoder, if nothing of it is trained."""
    vision = getattr(model, "vision_encoder", None)
    return None if vision is None or is_trained(vision) else vision
