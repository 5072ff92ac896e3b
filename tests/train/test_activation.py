from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from blip3v.errors import UserError
from blip3v.models.configuration import blip3_video_tiny
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.train.activation import checkpoint_activations
from blip3v.train.optimizer import frozen

FRAMES, TOKENS, IMAGE = 2, 4, 64
MODES = ("none", "selective", "full")


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operators made within and that something still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self.made[reference.cdata] = (reference, storage.nbytes())
        return output

    def total(self) -> int:
        return sum(size for reference, size in self.made.values() if not reference.expired())


def _model(dropout: float = 0.0) -> Blip3VideoForConditionalGeneration:
    torch.manual_seed(0)
    config = blip3_video_tiny("transformer", TOKENS, FRAMES, num_latents=8, image_size=16)
    config.text_config.resid_pdrop = dropout
    return Blip3VideoForConditionalGeneration(config).double().train()


def _batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, IMAGE, (2, 40))
    labels = ids.clone()
    ids[:, 1 : 1 + TOKENS] = IMAGE
    pixels = torch.randn(2, FRAMES, 3, 16, 16, dtype=torch.float64)
    return {"input_ids": ids, "labels": labels, "pixel_values_videos": pixels}


def _gradients(model: nn.Module, mode: Any) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass left for the backward."""
    batch = _batch()
    model.zero_grad()
    with frozen(model, ("vision_encoder",)), checkpoint_activations(model, mode):
        torch.manual_seed(2)
        with LiveBytes() as live:
            loss = model(**batch, use_cache=False).loss
            kept = live.total()
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, kept


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_the_same_to_the_bit_and_less_is_kept(dropout: float) -> None:
    model = _model(dropout)
    results = {mode: _gradients(model, mode) for mode in MODES}
    loss, gradients, most = results["none"]
    for mode in ("selective", "full"):
        assert results[mode][0] == loss
        assert results[mode][1].keys() == gradients.keys()
        for name, gradient in results[mode][1].items():
            assert torch.equal(gradient, gradients[name]), (mode, name)
    selective, least = results["selective"][2], results["full"][2]
    print(f"kept for the backward: none {most}, selective {selective}, full {least} bytes")
    assert least < 0.6 * selective
    assert selective < 0.8 * most


def test_full_runs_each_block_twice_and_selective_no_product_twice() -> None:
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            return function(*args, **(kwargs or {}))

    model, batch, counts = _model(), _batch(), {}
    for mode in MODES:
        with frozen(model, ("vision_encoder",)), checkpoint_activations(model, mode), Products() as products:
            model(**batch, use_cache=False).loss.backward()
        counts[mode] = products.count
    assert counts["selective"] == counts["none"]
    # 2 layers each in resampler (5 products), temporal transformer (5) and Phi-3 (4); the very last product
    # of a block is not needed by its own backward, and recomputing stops before it.
    assert counts["full"] == counts["none"] + 2 * (5 + 5 + 4) - 6


def test_everything_is_as_before_afterwards_and_evaluation_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model()
    names = list(model.state_dict())
    with checkpoint_activations(model, "full"):
        assert list(model.state_dict()) == names
        assert sum("forward" in vars(module) for module in model.modules()) == 8  # SigLIP's are trained here
        monkeypatch.setattr("blip3v.train.activation.checkpoint", _refuse)
        with torch.no_grad():
            model(**_batch())
        model.eval()(**_batch())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_wrong_mode_and_a_replaced_forward_are_refused() -> None:
    model = _model()
    with (
        pytest.raises(UserError, match="choose none, selective or full"),
        checkpoint_activations(model, cast(Any, "some")),
    ):
        pass
    layer = model.lang_model.model.layers[1]
    layer.forward = layer.forward
    with (
        pytest.raises(UserError, match="Phi3DecoderLayer has a forward"),
        checkpoint_activations(model, "full"),
    ):
        pass
    with checkpoint_activations(model, "none"):
        assert "forward" in vars(layer)


def _refuse(*args: Any, **kwargs: Any) -> Callable[..., Any]:
    raise AssertionError("recomputing where no gradient is taken")
