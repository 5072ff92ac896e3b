"""The tensors of a checkpoint under names that do not depend on how the model is spread over devices.

`model.<name>`, `optimizer.<what>.<name>` (what: exp_avg, exp_avg_sq, step) and `random.<rank>.<device>`. A
name is that of the plain model, whatever DDP, FSDP2, torch.compile or activation checkpointing put around it.

The frozen vision encoder is stored too: 0.43 G parameters are 1.7 GB of the 4B preset's 48 GB in fp32
(weights and two moments of 3.9 G trained parameters), 4 percent for a checkpoint that can be exported alone.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.tensor import DTensor

from blip3v.train.optimizer import trainable_parameters

MODEL, OPTIMIZER, RANDOM = "model.", "optimizer.", "random."
# What wrappers put into the names of parameters: DDP, torch.compile, activation checkpointing.
_WRAPPERS = ("module.", "_orig_mod.", "_checkpoint_wrapped_module.")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer, sharing memory with the model; tied ones once."""
    tensors = get_model_state_dict(model)
    once = {plain_name(model, name) for name, _ in model.named_parameters()}
    every = {plain_name(model, name) for name, _ in model.named_parameters(remove_duplicate=False)}
    return {MODEL + name: tensors[name].detach() for name in tensors if name not in every - once}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each trained parameter; nothing of one that never had a gradient.

    (torch's `get_optimizer_state_dict` would take a step to fill what is missing, and store learning rates
    too; hyper-parameters here come from the recipe.)
    """
    return {
        f"{OPTIMIZER}{key}.{plain_name(model, name)}": value.detach()
        for name, parameter in trainable_parameters(model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def empty_optimizer_tensors(model: nn.Module, stored: Metadata) -> dict[str, Tensor]:
    """Room for a checkpoint's optimizer tensors, laid out like their parameters.

    Raises:
        ValueError: state of a parameter that the model does not train.
    """
    parameters = {plain_name(model, name): p for name, p in trainable_parameters(model).items()}
    room = {}
    for key, found in stored.state_dict_metadata.items():
        if not key.startswith(OPTIMIZER) or not isinstance(found, TensorStorageMetadata):
            continue
        _, _, name = key.split(".", 2)
        if name not in parameters:
            raise ValueError(f"the checkpoint trains {name}, which is frozen or absent here")
        parameter, dtype = parameters[name].detach(), found.properties.dtype
        # Moments are sharded as their parameter is; a step count is not.
        shaped = found.size == parameter.shape
        room[key] = (
            torch.empty_like(parameter, dtype=dtype)
            if shaped
            else torch.empty(found.size, dtype=dtype, device=parameter.device)
        )
    return room


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`; hyper-parameters stay those of the optimizer."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        _, what, name = key.split(".", 2)
        states.setdefault(name, {})[what] = value
    names = {parameter: plain_name(model, name) for name, parameter in trainable_parameters(model).items()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    # A parameter that never had a gradient has no state yet.
    state = {index: states[name] for index, name in enumerate(order) if name in states}
    # The optimizer's own loader moves each tensor to where its parameter lives.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def plain_name(model: nn.Module, name: str) -> str:
    """The name that a parameter has in the model without wrappers."""
    # Only DDP wraps at the root; a model's own submodule may be called `module` anywhere else.
    if isinstance(model, nn.parallel.DistributedDataParallel):
        name = name.removeprefix(_WRAPPERS[0])
    for wrapper in _WRAPPERS[1:]:
        name = name.replace(wrapper, "")
    return name


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is spread over ranks; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators that a run on `device` draws from, uint8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Inverse of `generator_states`; a generator of a device that is not used here is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def seed_generators(entropy: Collection[int]) -> None:
    """Start torch's generators from several numbers, such as (seed, step, rank)."""
    torch.manual_seed(int(np.random.SeedSequence([*entropy]).generate_state(1, np.uint64)[0] >> 1))
