from __future__ import annotations

import copy
from itertools import chain

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from blip3v.errors import UserError
from blip3v.models.temporal.token_turing_machine import GroupedTokenTuringMachine, TokenTuringMachine
from blip3v.ops import use_backend

DIM, HEADS = 8, 2


def vanilla(time_stamp: bool, final_memory: bool, implementation: str = "sdpa") -> TokenTuringMachine:
    return TokenTuringMachine(
        DIM,
        memory_tokens=4,
        read_tokens=3,
        tokens_per_step=None if final_memory else 2,
        depth=2,
        heads=HEADS,
        ff_mult=2,
        time_stamp=time_stamp,
        implementation=implementation,
    )


def grouped(
    time_stamp: bool = True, tokens: int | None = None, positions: int = 3, implementation: str = "sdpa"
) -> GroupedTokenTuringMachine:
    return GroupedTokenTuringMachine(
        DIM,
        positions,
        slots=2,
        tokens=tokens,
        depth=2,
        heads=HEADS,
        ff_mult=2,
        time_stamp=time_stamp,
        implementation=implementation,
    )


def frame_tokens(formulas, video: Tensor, t: int, time_stamp: bool) -> list[Tensor]:
    return [token + time_stamp * formulas.time_stamp(t, DIM) for token in video[t]]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("final_memory", [False, True])
@pytest.mark.parametrize("time_stamp", [False, True])
def test_the_vanilla_machine_is_the_formula(
    formulas, randomised, normal, time_stamp, final_memory, implementation
):
    machine = randomised(vanilla(time_stamp, final_memory, implementation))
    state = machine.state_dict()
    x = normal(2, 3, 5, DIM)
    out = machine(x)
    assert out.shape == (2, 4 if final_memory else 3 * 2, DIM)
    for b in range(2):
        memory, outputs = list(state["initial_memory"]), []
        for t in range(3):
            frame = frame_tokens(formulas, x[b], t, time_stamp)
            read = formulas.token_learner(memory + frame, state, "read_layer")
            processed = formulas.transformer(read, state, "process_layers", HEADS)
            memory = formulas.token_learner(memory + processed, state, "write_layer")
            if not final_memory:
                outputs += formulas.token_learner(processed, state, "final_output")
        tolerance = 1e-4 if time_stamp else 1e-9
        expected = torch.stack(memory if final_memory else outputs)
        assert_close(out[b], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("tokens", [None, 4])
@pytest.mark.parametrize("time_stamp", [False, True])
def test_the_grouped_machine_is_the_formula(formulas, randomised, normal, time_stamp, tokens, implementation):
    machine = randomised(grouped(time_stamp, tokens, implementation=implementation))
    state = machine.state_dict()
    x = normal(2, 3, 3, DIM)
    out = machine(x)
    assert out.shape == (2, tokens or 3, DIM)
    for b in range(2):
        final = []
        for position in range(3):
            memory = list(state["initial_memory"][position])
            for t in range(3):
                group = [*memory, frame_tokens(formulas, x[b], t, time_stamp)[position]]
                processed = formulas.transformer(group, state, "ttm_unit.process_layers", HEADS)
                memory = formulas.token_learner(memory + processed, state, "ttm_unit.write_layer")
            final.append(memory)
        if tokens is None:
            expected = [sum(memory) / 2 for memory in final]
        else:
            expected = formulas.token_learner(list(chain(*final)), state, "final_output")
        tolerance = 1e-4 if time_stamp else 1e-9
        assert_close(out[b], torch.stack(expected), rtol=tolerance, atol=tolerance)


def test_positions_of_the_grouped_machine_are_independent(randomised, normal):
    """Permuting positions, with their memories, permutes the mean output; no position sees another."""
    machine = randomised(grouped())
    x = normal(2, 4, 3, DIM)
    before = machine(x)
    order = [2, 0, 1]
    with torch.no_grad():
        machine.initial_memory.copy_(machine.initial_memory[order].clone())
    assert_close(machine(x[:, :, order]), before[:, order], rtol=1e-9, atol=1e-10)

    changed = x[:, :, order].clone()
    changed[:, :, 1] += 1
    moved = (machine(changed) - before[:, order]).abs().amax(dim=(0, 2))
    assert moved[1] > 1e-6
    assert max(moved[0], moved[2]) < 1e-12


@pytest.mark.parametrize("machine", ["grouped", "vanilla"])
def test_a_later_frame_cannot_change_earlier_memory(randomised, normal, machine):
    """The memory after t frames is the machine's output on those t frames, or a prefix of its outputs."""
    x = normal(1, 5, 3, DIM)
    y = x.clone()
    y[:, 3:] = normal(1, 2, 3, DIM)
    if machine == "vanilla":
        module = randomised(vanilla(time_stamp=False, final_memory=False))
        first, second = module(x), module(y)
        assert torch.equal(first[:, :6], second[:, :6])
        assert not torch.allclose(first[:, 6:], second[:, 6:])
        return
    module = randomised(grouped())
    memories = {"x": [], "y": []}
    for name, video in (("x", x), ("y", y)):
        hook = module.ttm_unit.register_forward_hook(lambda *args, name=name: memories[name].append(args[2]))
        module(video)
        hook.remove()
    same = [torch.equal(a, b) for a, b in zip(memories["x"], memories["y"], strict=True)]
    assert same == [True, True, True, False, False]


@pytest.mark.parametrize("tokens", [None, 4])
def test_gradient_reaches_the_first_of_eight_frames(normal, tokens):
    torch.manual_seed(0)
    machine = grouped(tokens=tokens).double()
    x = normal(1, 8, 3, DIM).requires_grad_()
    (machine(x) * normal(1, tokens or 3, DIM)).sum().backward()
    assert (x.grad.abs().amax(dim=(0, 3)) > 1e-12).all()
    trained = {name for name, p in machine.named_parameters() if p.grad is not None and p.grad.any()}
    never = {name for name, _ in machine.named_parameters() if ".read_layer." in name}
    assert trained == {name for name, _ in machine.named_parameters()} - never


def test_frames_in_another_order_give_another_memory(randomised, normal):
    machine = randomised(grouped(time_stamp=False))
    x = normal(1, 4, 3, DIM)
    assert not torch.allclose(machine(x), machine(x.flip(1)), atol=1e-3)


def published_token_learner(name: str, k: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.norm.weight": (1152,),
        f"{name}.norm.bias": (1152,),
        f"{name}.mlp.0.weight": (1152,),
        f"{name}.mlp.0.bias": (1152,),
        f"{name}.mlp.1.weight": (2 * k, 1152),
        f"{name}.mlp.3.weight": (k, 2 * k),
    }


@pytest.mark.parametrize("tokens", [None, 32])
def test_published_names_and_size(tokens):
    with torch.device("meta"):
        machine = GroupedTokenTuringMachine(1152, 128, 4, tokens, depth=4, heads=8, ff_mult=4)
    shapes = {"initial_memory": (128, 4, 1152), "pos_emb.inv_freq": (576,)}
    for i in range(4):
        layer = f"ttm_unit.process_layers.{i}"
        shapes |= {
            f"{layer}.{norm}.{part}": (1152,) for norm in ("0.norm", "1.0") for part in ("weight", "bias")
        }
        shapes |= {f"{layer}.0.to_{part}.weight": (1152, 1152) for part in "qkv"}
        shapes |= {f"{layer}.1.1.weight": (4608, 1152), f"{layer}.1.3.weight": (1152, 4608)}
    shapes |= published_token_learner("ttm_unit.read_layer", 128)
    shapes |= published_token_learner("ttm_unit.write_layer", 4)
    size = 59_346_976
    if tokens:
        shapes |= published_token_learner("final_output", tokens)
        size += 80_384
    else:
        assert len(shapes) == 50
    assert {name: tuple(value.shape) for name, value in machine.state_dict().items()} == shapes
    assert sum(p.numel() for p in machine.parameters()) == size


def test_the_wrong_number_of_positions_is_refused(normal):
    with pytest.raises(ValueError, match="memory for 3 tokens, got 4"):
        grouped()(normal(1, 2, 4, DIM).float())


def bf16_machine(randomised) -> GroupedTokenTuringMachine:
    machine = GroupedTokenTuringMachine(64, 3, slots=4, tokens=8, depth=2, heads=4, ff_mult=2)
    return randomised(machine).to(torch.bfloat16)


def results(machine: GroupedTokenTuringMachine, x: Tensor, backend: str) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of everything that is trained."""
    leaf = x.detach().clone().requires_grad_()
    machine.zero_grad()
    with use_backend(backend):
        out = machine(leaf)
    out.float().square().sum().backward()
    gradients = {name: p.grad for name, p in machine.named_parameters() if p.requires_grad}
    return {
        name: tensor.float() for name, tensor in {"out": out.detach(), "x": leaf.grad, **gradients}.items()
    }


def test_the_grouped_machine_is_the_same_through_its_op(simulator_module, randomised, normal) -> None:
    """Kernels in the simulator are as close to float32 as PyTorch's modules are in bfloat16."""
    machine, x = bf16_machine(randomised), normal(2, 3, 3, 64).to(torch.bfloat16)
    expected = results(copy.deepcopy(machine).float(), x.float(), "reference")
    theirs, ours = results(machine, x, "reference"), results(machine, x, "simulator")
    assert expected.keys() == theirs.keys() == ours.keys()
    for name, exact in expected.items():
        their, our = ((found[name] - exact).norm() / exact.norm() for found in (theirs, ours))
        assert our < 1.5 * their + 0.02, (name, our, their)


def test_frames_in_two_calls_are_the_frames_in_one_through_the_op(
    simulator_module, randomised, normal
) -> None:
    machine, x = bf16_machine(randomised), normal(1, 5, 3, 64).to(torch.bfloat16)
    with use_backend("simulator"), torch.no_grad():
        first = machine.advance(machine.start(x), x[:, :2])
        second = machine.advance(first, x[:, 2:], first=2)
        assert torch.equal(machine.read_out(second), machine(x))


def test_a_named_backend_does_not_pass_over_hooks_or_adapters(randomised, normal) -> None:
    machine, x = bf16_machine(randomised), normal(1, 2, 3, 64).to(torch.bfloat16)
    seen = []
    layer = machine.ttm_unit.process_layers[0][0].to_q
    layer.register_forward_hook(lambda *call: seen.append(call))
    machine(x)
    assert len(seen) == 2
    with use_backend("simulator"), pytest.raises(UserError, match="layers with adapters or hooks"):
        machine(x)
