"""The frozen encoder outside the model: the same features, whatever runs them, and the same training."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import SiglipVisionModel

from blip3v import blip3_video_tiny
from blip3v.errors import UserError
from blip3v.models import frozen_vision
from blip3v.models.frozen_vision import FrozenVision, padded
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.recorded import RecordedFunction
from blip3v.models.vision import encode_frames


@pytest.fixture
def encoder() -> SiglipVisionModel:
    torch.manual_seed(0)
    return SiglipVisionModel(blip3_video_tiny().vision_config).eval().requires_grad_(False)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets `graph` run without a GPU, replayed by calling; lists the images of each recording."""
    images: list[int] = []

    def record(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        images.append(len(x))
        return function

    monkeypatch.setattr(frozen_vision, "RecordedFunction", lambda f: RecordedFunction(f, record=record))
    monkeypatch.setattr(frozen_vision, "_refuse", lambda *arguments: None)
    return images


def pixels(videos: int, frames: int = 3) -> Tensor:
    return torch.randn(videos, frames, 3, 32, 32, generator=torch.Generator().manual_seed(videos))


def relative(got: Tensor, exact: Tensor) -> float:
    return float((got - exact).norm() / exact.norm())


def test_eager_is_the_models_own_encoder_on_its_own_weights(encoder: SiglipVisionModel) -> None:
    vision = FrozenVision(encoder)
    assert torch.equal(vision(pixels(2)), encode_frames(encoder, pixels(2)))
    own = {p.data_ptr() for p in encoder.parameters()}
    assert {p.data_ptr() for p in vision.tower.parameters()} == own


def test_another_dtype_is_a_copy_and_the_encoder_stays(encoder: SiglipVisionModel) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    vision = FrozenVision(encoder, dtype=torch.bfloat16)
    features = vision(pixels(2))
    assert features.dtype == torch.bfloat16
    assert relative(features.float(), encode_frames(encoder, pixels(2))) < 0.02
    FrozenVision(encoder, fp8=True)(pixels(1))
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.dtype == torch.float32


def test_a_model_that_holds_it_saves_nothing_more() -> None:
    model: Any = Blip3VideoForConditionalGeneration(blip3_video_tiny())
    names = set(model.state_dict())
    model.vision_encoder.requires_grad_(False)
    model.fast_vision = FrozenVision(model.vision_encoder, fp8=True)
    assert set(model.state_dict()) == names and len(list(model.children())) == 3


def test_the_loss_and_its_gradients_are_those_of_pixels() -> None:
    torch.manual_seed(1)
    model = Blip3VideoForConditionalGeneration(blip3_video_tiny()).eval()
    model.vision_encoder.requires_grad_(False)
    ids, labels = conversation(model.config, torch.tensor([1, 2]))
    gradients = []
    vision = FrozenVision(model.vision_encoder)
    for video in ({"pixel_values_videos": pixels(2, 4)}, {"video_features": vision(pixels(2, 4))}):
        model(input_ids=ids, labels=labels, use_cache=False, **video).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad and p.grad is not None])
        model.zero_grad()
    assert len(gradients[0]) > 20
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_features_can_be_trained_on_whatever_mode_they_come_from(
    encoder: SiglipVisionModel, counted: list[int]
) -> None:
    for mode in ("eager", "graph"):
        features = FrozenVision(encoder, mode=mode)(pixels(2))
        assert not features.requires_grad and not features.is_inference()
        weight = torch.ones(features.shape[-1], requires_grad=True)
        (features * weight).sum().backward()
        assert weight.grad is not None


def test_autocast_around_it_changes_nothing(encoder: SiglipVisionModel) -> None:
    expected = encode_frames(encoder, pixels(2))
    with torch.autocast("cpu", torch.bfloat16):
        features = FrozenVision(encoder)(pixels(2))
    assert torch.equal(features, expected)


def test_numbers_of_videos_are_few_and_hardly_too_large() -> None:
    for videos in range(1, 200):
        count = padded(videos)
        assert videos <= count <= max(videos + 1, 1.5 * videos)
    assert sorted({padded(videos) for videos in range(1, 17)}) == [1, 2, 3, 4, 6, 8, 12, 16]


def test_graphs_run_on_padded_batches_and_drop_what_is_too_many(
    encoder: SiglipVisionModel, counted: list[int]
) -> None:
    vision = FrozenVision(encoder, mode="graph")
    for videos in (4, 5, 6, 4):
        expected = encode_frames(encoder, pixels(videos))
        torch.testing.assert_close(vision(pixels(videos)), expected, rtol=0, atol=1e-5)
    assert counted == [4 * 3, 6 * 3]


@pytest.mark.parametrize("fp8", [False, True])
def test_compiled_layers_share_one_graph(
    encoder: SiglipVisionModel, fp8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    plain = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: plain(self, backend=backend, **options)
    )
    expected = FrozenVision(encoder, fp8=fp8)(pixels(3))
    vision = FrozenVision(encoder, mode="compile", fp8=fp8)
    assert relative(vision(pixels(3)), expected) < 1e-6
    assert len(vision.tower.layers) == 2 and len(compiled) == 1
    torch.compiler.reset()


def test_what_cannot_be_is_refused(encoder: SiglipVisionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs a GPU, not a cpu: use vision eager or compile"):
        FrozenVision(encoder, mode="graph")
    narrow = blip3_video_tiny(width=24).vision_config
    with pytest.raises(UserError, match=r"divide by 16, .* 24 -> 72: leave vision_fp8 off"):
        FrozenVision(SiglipVisionModel(narrow).requires_grad_(False), fp8=True)
    trained = SiglipVisionModel(blip3_video_tiny().vision_config)
    with pytest.raises(UserError, match="add vision_encoder to the recipe's `frozen`"):
        FrozenVision(trained)


def test_a_sharded_encoder_is_refused(encoder: SiglipVisionModel, tmp_path: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        norm = encoder.post_layernorm
        sharded = torch.distributed.tensor.distribute_tensor(norm.weight, mesh)
        assert isinstance(sharded, DTensor)
        norm.weight = torch.nn.Parameter(sharded, requires_grad=False)
        with pytest.raises(UserError, match="leave its parameters out of fully_shard"):
            FrozenVision(encoder)
    finally:
        torch.distributed.destroy_process_group()


def conversation(config: Any, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Video, a word, and a word for the class of each video, which alone is learned."""
    ids = torch.full((len(classes), config.video_tokens + 2), config.image_token_id)
    ids[:, -2], ids[:, -1] = 10, 20 + classes
    labels = torch.full_like(ids, -100)
    labels[:, -1] = ids[:, -1]
    return ids, labels


def loss_curve(seed: int, fp8: bool, steps: int = 50) -> list[float]:
    """The tiny model learns which of 8 patterns a noisy video shows; the seed decides weights and videos."""
    torch.manual_seed(seed)
    config = blip3_video_tiny("token_learner")
    model = Blip3VideoForConditionalGeneration(config)
    model.vision_encoder.requires_grad_(False)
    vision = FrozenVision(model.vision_encoder, fp8=fp8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        classes = torch.randint(0, 8, (16,), generator=generator)
        video = torch.randn(16, 4, 3, 32, 32, generator=generator)
        bits = torch.stack([classes & 1, classes & 2, classes & 4]).bool()
        top, right, late = torch.where(bits, 1.0, -1.0).view(3, 16, 1, 1, 1)
        video[:, :, 0, :16] += top
        video[:, :, 1, :, 16:] += right
        video[:, 2:, 2] += late
        ids, labels = conversation(config, classes)
        loss = model(input_ids=ids, labels=labels, video_features=vision(video), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_fp8_leaves_the_loss_curve_within_the_noise_of_seeds() -> None:
    """The mean loss of the last 20 steps, 3 seeds: FP8 may move it by less than a seed does."""

    def end(seed: int, fp8: bool) -> float:
        return mean(loss_curve(seed, fp8)[-20:])

    plain = [end(seed, False) for seed in range(3)]
    rounded = [end(seed, True) for seed in range(3)]
    noise = stdev(plain)
    print(f"loss {plain} without FP8, {rounded} with; noise of seeds {noise:.4f}")
    # Guessing among 8 patterns has a loss of 2.08.
    assert max(plain + rounded) < 1
    assert abs(mean(rounded) - mean(plain)) < noise
    assert plain != rounded, "nothing was rounded"


@pytest.mark.gpu
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("mode", ["compile", "graph"])
def test_on_a_gpu_all_modes_are_eager(encoder: SiglipVisionModel, mode: Any, fp8: bool) -> None:
    if fp8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("a GPU without FP8")
    settings: Any = {"device": "cuda", "dtype": torch.bfloat16, "fp8": fp8}
    eager, fast = FrozenVision(encoder, **settings), FrozenVision(encoder, mode=mode, **settings)
    batches = [pixels(videos) for videos in (4, 4, 5, 4)]
    results = [fast(batch) for batch in batches]
    for batch, result in zip(batches, results, strict=True):
        assert relative(result.float(), eager(batch).float()) < 0.02
        assert relative(result.float().cpu(), encode_frames(encoder, batch)) < (0.1 if fp8 else 0.03)
