from __future__ import annotations

import os
import time
from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from blip3v.errors import UserError
from blip3v.train.optimizer import build_adamw, frozen
from blip3v.train.parallel import FullyShard, parallel_named
from blip3v.train.parallel.launch import Launch
from blip3v.train.parallel.processes import Processes
from tests.train.parallel.programs import RECIPE, micro_batches, new_model
from tests.train.parallel.several import run_in_processes


def _numbers() -> dict[str, Any]:
    parallel = parallel_named("auto", RECIPE, "cpu")
    rank = parallel.rank
    found = {
        "type": type(parallel).__name__,
        "total": parallel.total(2**40 + rank),
        "total_loss": float(parallel.total_loss(torch.tensor(0.5 + rank))),
        "any": [parallel.any(False), parallel.any(rank == 1), parallel.any(True)],
    }
    parallel.barrier()
    parallel.close()
    return found


def test_numbers_and_flags_of_all_processes() -> None:
    expected = {
        "type": "FullyShard",
        "total": 2**41 + 1,  # more than 32 bits
        "total_loss": 2.0,
        "any": [False, True, True],
    }
    assert run_in_processes(_numbers) == [expected, expected]


def _missing() -> str:
    launch = Launch.from_environment(os.environ)
    assert launch is not None
    processes = Processes.start(launch, "cpu")
    if launch.rank == 1:
        time.sleep(2)
        return "slept"
    with pytest.raises(UserError) as raised:
        processes.barrier(timedelta(seconds=0.5))
    return str(raised.value)


def test_a_process_that_does_not_come_is_named() -> None:
    message, _ = run_in_processes(_missing)
    assert "process 0 of 2 waited in vain" in message
    assert "Ranks 1 failed" in message


def _different_weights() -> str:
    parallel = parallel_named("fsdp", RECIPE, "cpu")
    torch.manual_seed(parallel.rank)
    with pytest.raises(UserError) as raised:
        parallel.wrap(nn.Linear(3, 3))
    return str(raised.value)


def test_different_weights_are_refused_by_all() -> None:
    for message in run_in_processes(_different_weights):
        assert "different weights" in message


def _wrapped(name: str) -> dict[str, Any]:
    """What wrapping makes of the parameters: who is sharded, who decays."""
    parallel = parallel_named(name, RECIPE, "cpu")
    plain = new_model()
    with frozen(plain, ("vision_encoder",)):
        model = parallel.wrap(plain)
        optimizer = build_adamw(model, RECIPE)
        names = {p: name.removeprefix("module.") for name, p in model.named_parameters()}
        found = {
            "sharded": sorted(names[p] for p in names if isinstance(p, DTensor)),
            "decay": {
                str(group["weight_decay"]): sorted(names[p] for p in group["params"])
                for group in optimizer.param_groups
            },
            "fused": optimizer.defaults["fused"],
            "bytes": sum(p.to_local().nbytes if isinstance(p, DTensor) else 0 for p in names),
            "units": defaultdict(int),
            "time_stamp": str(plain.vision_tokenizer.temporal_encoder.pos_emb.inv_freq.dtype),
        }
        for module in plain.modules():
            if type(module).__name__.startswith("FSDP"):
                found["units"][type(module).__name__] += 1
    found["units"] = dict(found["units"])
    parallel.close()
    return found


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_wrapped_models_have_the_same_groups_and_only_the_trained_is_sharded(name: str) -> None:
    plain = new_model()
    with frozen(plain, ("vision_encoder",)):
        names = {p: name for name, p in plain.named_parameters()}
        expected = {
            str(group["weight_decay"]): sorted(names[p] for p in group["params"])
            for group in build_adamw(plain, RECIPE).param_groups
        }
        outside = {n: p for n, p in plain.named_parameters() if not n.startswith("vision_encoder.")}
    outcomes = run_in_processes(_wrapped, name)
    for found in outcomes:
        assert found["decay"] == expected
        assert found["fused"]
        assert found["time_stamp"] == str(plain.vision_tokenizer.temporal_encoder.pos_emb.inv_freq.dtype)
        assert found["sharded"] == (sorted(outside) if name == "fsdp" else [])
    if name == "fsdp":
        whole = sum(p.nbytes for p in outside.values())
        assert sum(found["bytes"] for found in outcomes) == whole
        assert all(0.4 * whole < found["bytes"] < 0.6 * whole for found in outcomes)
        names = ("Phi3DecoderLayer", "VisionTokenizer", "Blip3VideoForConditionalGeneration")
        counts = dict(zip((f"FSDP{name}" for name in names), (2, 1, 1)))
        assert outcomes[0]["units"] == counts


def _first_of_two(name: str) -> dict[str, Any]:
    """Gradients after the first micro-batch of a step, and after the second."""
    parallel = parallel_named(name, RECIPE, "cpu")
    torch.manual_seed(0)
    plain = nn.Linear(2, 2, bias=False).double()
    model = parallel.wrap(plain)
    found = {}
    for last in (False, True):
        with parallel.accumulate(model, last):
            model(torch.full((1, 2), 1.0 + parallel.rank, dtype=torch.float64)).sum().backward()
        gradient = plain.weight.grad
        whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        found[last] = None if whole is None else whole.tolist()
    parallel.close()
    return found


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_gradients_are_exchanged_in_the_last_pass_of_a_step_only(name: str) -> None:
    for rank, found in enumerate(run_in_processes(_first_of_two, name)):
        assert found[False] == (None if name == "fsdp" else [[1.0 + rank] * 2] * 2)
        assert found[True] == [[3.0] * 2] * 2  # twice the mean of 1 and 2


def _mixed_precision() -> dict[str, Any]:
    """Two steps as on a GPU: computed in bf16, reduced in float32, master weights in float32."""
    FullyShard._precision = lambda self: MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    parallel = parallel_named("fsdp", RECIPE, "cpu")
    plain = new_model().float()
    seen: dict[str, Any] = {}
    layer, stamp = plain.lang_model.model.layers[1], plain.vision_tokenizer.temporal_encoder.pos_emb
    layer.mlp.register_forward_hook(lambda module, args, out: seen.update(computed=str(out.dtype)))
    stamp.register_forward_hook(lambda module, args, out: seen.update(stamp=str(out.dtype)))
    with frozen(plain, ("vision_encoder",)):
        model = parallel.wrap(plain)
        optimizer = build_adamw(model, RECIPE)
        losses = []
        for step in range(2):
            batch = micro_batches(step)[1 + parallel.rank]
            loss = model(**batch, use_cache=False).loss
            loss.backward()
            losses.append(parallel.total_loss(loss).item())
            gradients = {p.grad.dtype for p in model.parameters() if p.grad is not None}
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    trained = {p.dtype for p in model.parameters()}
    parallel.close()
    return seen | {"losses": losses, "gradients": str(gradients), "weights": str(trained)}


def test_blocks_in_bf16_keep_master_weights_gradients_and_time_stamps_in_float32() -> None:
    first, second = run_in_processes(_mixed_precision)
    assert first == second
    assert first["computed"] == "torch.bfloat16"
    assert first["stamp"] == "torch.float32"
    assert first["gradients"] == first["weights"] == "{torch.float32}"
    exact = new_model()
    with frozen(exact, ("vision_encoder",)):
        expected = sum(exact(**b, use_cache=False).loss.item() for b in micro_batches(0)[1:3])
    # bf16 has 8 bits: relative errors of 2^-9 per rounding, a few dozen of them.
    assert first["losses"][0] == pytest.approx(expected, rel=2e-2)
    assert first["losses"][1] != first["losses"][0]
