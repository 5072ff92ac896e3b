from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from blip3v.data.batches import Place
from blip3v.train.activation import checkpoint_activations
from blip3v.train.compilation import compile_regions
from blip3v.train.optimizer import frozen
from tests.train.parallel.programs import Decoder, embeddings, micro_batches, new_model
from tests.train.parallel.test_trainer import Conversations, packed


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()
    counters.clear()


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_layers_of_a_kind_are_compiled_once_and_once_more_for_all_other_lengths() -> None:
    torch.manual_seed(4)
    plain, compiled = Decoder().double().train(), Decoder().double().train()
    compiled.load_state_dict(plain.state_dict())
    names = list(plain.state_dict())
    with checkpoint_activations(compiled, "full"), compile_regions(compiled, "aot_eager"):
        assert list(compiled.state_dict()) == names
        for x in embeddings():
            expected, found = plain(x).loss, compiled(x).loss
            assert found.item() == pytest.approx(expected.item(), rel=1e-12)
            expected.backward()
            found.backward()
    assert not any("forward" in vars(module) for module in compiled.modules())
    for name, gradient in _gradients(plain).items():
        torch.testing.assert_close(_gradients(compiled)[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2


def test_the_whole_model_gives_the_same_gradients() -> None:
    plain, compiled = new_model("transformer"), new_model("transformer")
    batch = micro_batches(2)[3]
    assert "pixel_values_videos" in batch
    with frozen(plain, ("vision_encoder",)):
        plain(**batch, use_cache=False).loss.backward()
    # `eager` runs what was traced as it is; how the traced code is differentiated the test above says.
    with frozen(compiled, ("vision_encoder",)), compile_regions(compiled, "eager"):
        assert sum("forward" in vars(module) for module in compiled.modules()) == 6  # SigLIP's are not
        compiled(**batch, use_cache=False).loss.backward()
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] >= 3
    expected, found = _gradients(plain), _gradients(compiled)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize(("mode", "compiled_first"), [("full", False), ("selective", True)])
def test_packed_rows_recomputed_and_compiled_in_either_order(mode: Any, compiled_first: bool) -> None:
    plain, compiled = new_model("mean_pool"), new_model("mean_pool")
    samples = Conversations()
    batches = [packed([samples[Place(0, i)] for i in chosen]) for chosen in ((0, 1), (3, 4, 6))]
    both = [checkpoint_activations(compiled, mode), compile_regions(compiled, "eager")]
    with frozen(plain, ("vision_encoder",)):
        for batch in batches:
            plain(**batch, use_cache=False).loss.backward()
    with frozen(compiled, ("vision_encoder",)), ExitStack() as stack:
        for context in reversed(both) if compiled_first else both:
            stack.enter_context(context)
        for batch in batches:
            compiled(**batch, use_cache=False).loss.backward()
    assert not any("forward" in vars(module) for module in compiled.modules())
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] >= 2
    expected, found = _gradients(plain), _gradients(compiled)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
