from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from blip3v.data.batches import SampleOrder
from blip3v.data.dataset import FeatureDataset, VideoDataset
from blip3v.errors import UserError
from blip3v.models.vision import encode_frames
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.loop import Trainer
from blip3v.train.metrics import Metrics, read_log
from blip3v.train.optimizer import learning_rate
from blip3v.train.parallel import SingleDevice
from blip3v.train.progress import Silent
from blip3v.video.sampling import uniform_indices


def _trainer(model: nn.Module, recipe: Any, dataset: Any, processor: Any, **parts: Any) -> Trainer:
    parts = {"metrics": Metrics(None, Silent()), "parallel": SingleDevice("cpu")} | parts
    return Trainer(model, recipe, dataset, processor.collate, **parts)


def _losses(trainer: Trainer) -> list[float]:
    losses: list[float] = []
    trainer.on_step = lambda step, loss: losses.append(loss.item())
    trainer.run()
    return losses


def test_accumulated_steps_equal_steps_on_the_joined_batch(
    new_model: Callable[..., Any], recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> None:
    # 7 samples in steps of 6 (two batches of 3) and 1 (one sample, and a batch without any): the batches of a
    # step differ in samples, lengths and labels.
    # The loss is computed in float32; a large epsilon keeps AdamW from blowing up
    # its rounding where gradients vanish.
    settings = recipe(clip_norm=0.5, frozen=(), epsilon=1e-3)
    model = new_model().double()
    losses = _losses(_trainer(model, settings, dataset, processor))

    expected = new_model().double().train()
    named = [(name, p) for name, p in expected.named_parameters() if p.requires_grad]
    no_decay = ("bias", "norm", "embed", "latents", "memory")
    plain = [p for name, p in named if p.ndim < 2 or any(word in name.lower() for word in no_decay)]
    # "patch_embedding" is a convolution in spite of its name.
    plain = [p for p in plain if p.ndim != 4]
    decayed = [p for _, p in named if not any(p is other for other in plain)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, eps=1e-3)
    order = SampleOrder(len(dataset), settings.seed)
    for step in range(settings.max_steps):
        places = [place for batch in order.step(order.first_sample(step, 6), 6)[0] for place in batch]
        batch = processor.collate([dataset[place] for place in places])
        labels = batch.pop("labels")
        logits = expected(**batch).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for _, p in named if p.grad is not None))
        assert norm > 0.5  # clipping acts
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings.max_steps, settings)
            for p in group["params"]:
                if p.grad is not None:
                    p.grad *= 0.5 / (norm + 1e-6)
        optimizer.step()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in named:
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-5, atol=1e-7, msg=name)
    assert losses[-1] < losses[0]


def test_frozen_parts_do_not_move_and_the_rest_does(
    new_model: Callable[..., Any], recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> None:
    model, before = new_model().eval(), new_model().state_dict()
    _trainer(model, recipe(max_steps=2), dataset, processor).run()
    moved = {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"vision_tokenizer", "lang_model"}
    assert not model.training  # as it was
    assert model.vision_encoder.embeddings.patch_embedding.weight.requires_grad


def test_the_number_of_steps_follows_epochs_or_max_steps(
    new_model: Callable[..., Any], recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> None:
    steps = []
    for override in ({"epochs": 1}, {"epochs": 3}, {"epochs": 1, "accumulation": 3}):
        settings = recipe(max_steps=None, **override)
        metrics = Metrics(None, Silent())
        trainer = _trainer(new_model(), settings, dataset, processor, metrics=metrics)
        assert trainer.run().steps == trainer.total_steps
        assert metrics.state()["samples"] == 7 * settings.epochs  # every sample once in each epoch
        steps.append(trainer.total_steps)
    assert steps == [2, 6, 1]  # of 6, 6 and 9 samples; none crosses the end of an epoch
    assert _trainer(new_model(), recipe(max_steps=50, epochs=1), dataset, processor).total_steps == 50


def test_how_it_is_computed_changes_no_loss(
    new_model: Callable[..., Any], recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> None:
    plain = _losses(_trainer(new_model(), recipe(max_steps=3), dataset, processor))
    for mode in ("selective", "full"):
        saving = recipe(max_steps=3, activation_checkpointing=mode)
        assert _losses(_trainer(new_model(), saving, dataset, processor)) == pytest.approx(plain, rel=1e-5)
    outside = recipe(max_steps=3, vision="compile")
    assert _losses(_trainer(new_model(), outside, dataset, processor)) == pytest.approx(plain, rel=1e-5)
    assert _losses(_trainer(new_model(), recipe(max_steps=3, workers=2), dataset, processor)) == plain


def test_packed_batches_give_the_same_losses(
    new_model: Callable[..., Any], recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> None:
    padded = _losses(_trainer(new_model(), recipe(), dataset, processor))
    metrics = Metrics(None, Silent())
    trainer = Trainer(
        new_model(),
        recipe(),
        dataset,
        processor.collate_packed,
        parallel=SingleDevice("cpu"),
        metrics=metrics,
    )
    assert _losses(trainer) == pytest.approx(padded, rel=1e-4)


def test_stored_features_train_like_pixels(
    new_model: Callable[..., Any], recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> None:
    model = new_model()
    dataset.sampler = uniform_indices  # the same frames in every epoch
    pixels = torch.cat([dataset[index]["pixel_values_videos"] for index in range(len(dataset))])
    with torch.no_grad():
        features = encode_frames(model.vision_encoder, pixels)
    stored = FeatureDataset(dataset.records, processor, features)
    from_pixels = _losses(_trainer(new_model(), recipe(), dataset, processor))
    assert _losses(_trainer(model, recipe(), stored, processor)) == pytest.approx(from_pixels, rel=1e-4)


class Explosive(nn.Module):
    """Its loss is not a number from call `at` on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.weight, self.calls, self.at = nn.Parameter(torch.ones(2, 2)), 0, at

    def forward(self, **batch: Any) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(loss=self.weight.sum() * (float("nan") if self.calls > self.at else 1.0))


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    tmp_path: Path, recipe: Callable[..., Any], dataset: VideoDataset, processor: Any, log_every: int
) -> None:
    model = Explosive(at=5)
    settings = recipe(accumulation=1, max_steps=20, checkpoint_every=2, log_every=log_every, frozen=())
    trainer = _trainer(model, settings, dataset, processor, checkpoints=Checkpointer(tmp_path))
    with pytest.raises(UserError, match=r"not finite: loss nan.*last good checkpoint is .*step-00000004"):
        trainer.run()
    assert model.calls == 6
    assert torch.isfinite(model.weight).all()


def test_the_log_agrees_with_the_callback(
    tmp_path: Path,
    new_model: Callable[..., Any],
    recipe: Callable[..., Any],
    dataset: VideoDataset,
    processor: Any,
) -> None:
    metrics = Metrics(tmp_path / "log.jsonl", Silent())
    trainer = _trainer(new_model(), recipe(log_every=4), dataset, processor, metrics=metrics)
    losses = _losses(trainer)
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [4, 6]  # the last step is always written
    assert lines[0]["loss"] == pytest.approx(sum(losses[:4]) / 4)
    assert lines[1]["loss"] == pytest.approx(sum(losses[4:]) / 2)
    # steps of 6, 1, 6, 1, ...
    assert [line["samples"] for line in lines] == [14, 21]


def test_sigterm_leaves_a_checkpoint_of_the_step_at_hand(
    tmp_path: Path,
    new_model: Callable[..., Any],
    recipe: Callable[..., Any],
    dataset: VideoDataset,
    processor: Any,
) -> None:
    def terminate(step: int, loss: torch.Tensor) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    checkpoints = Checkpointer(tmp_path)
    parts = {"checkpoints": checkpoints, "on_step": terminate}
    with pytest.raises(SystemExit) as exit_:
        _trainer(new_model(), recipe(), dataset, processor, **parts).run()
    assert exit_.value.code == 143
    assert [path.name for path in checkpoints.all()] == ["step-00000002"]
    assert signal.getsignal(signal.SIGTERM) is handler


class TwoDevices(SingleDevice):
    """The second of two processes; the first is imagined to have done the same work."""

    rank, world_size = 1, 2

    def __init__(self) -> None:
        super().__init__("cpu")
        self.exchanges: list[bool] = []

    @contextmanager
    def accumulate(self, model: nn.Module, last: bool) -> Iterator[None]:
        self.exchanges.append(last)
        yield

    def total(self, value: int) -> int:
        return 2 * value

    def total_loss(self, loss: torch.Tensor) -> torch.Tensor:
        return 2 * loss


class Recorder(nn.Module):
    """Remembers its batches; the loss is its weight, whatever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.batches = nn.Parameter(torch.tensor([[3.0]])), []

    def forward(self, **batch: Any) -> SimpleNamespace:
        self.batches.append(batch["input_ids"])
        return SimpleNamespace(loss=self.weight.sum())


def test_a_device_takes_its_share_of_the_batches(
    tmp_path: Path, recipe: Callable[..., Any], dataset: VideoDataset, processor: Any
) -> None:
    settings, parallel, model = recipe(max_steps=2, frozen=(), clip_norm=100.0), TwoDevices(), Recorder()
    losses = _losses(_trainer(model, settings, dataset, processor, parallel=parallel))
    assert losses[0] == pytest.approx(3.0)
    assert parallel.exchanges == [False, True] * 2
    # Steps of 12 samples where there are 7: the second of two devices gets 2 and 1 of them.
    order = SampleOrder(len(dataset), settings.seed)
    shares = [order.step(order.first_sample(step, 12), 12, 2, 2)[1] for step in range(2)]
    expected = [
        processor.collate([dataset[place] for place in batch])["input_ids"]
        for step in shares
        for batch in step
    ]
    assert [len(batch) for batch in expected] == [2, 1, 2, 1]
    assert all(torch.equal(a, b) for a, b in zip(model.batches, expected, strict=True))


@pytest.mark.gpu
def test_on_a_gpu_bf16_losses_follow_those_of_the_cpu(
    tmp_path: Path,
    new_model: Callable[..., Any],
    recipe: Callable[..., Any],
    dataset: VideoDataset,
    processor: Any,
) -> None:
    on_cpu = _losses(_trainer(new_model(), recipe(), dataset, processor))
    model = new_model()
    parts = {"parallel": SingleDevice("cuda"), "checkpoints": Checkpointer(tmp_path)}
    trainer = _trainer(model, recipe(log_every=3), dataset, processor, **parts)
    assert _losses(trainer) == pytest.approx(on_cpu, rel=0.05)
    assert all(p.dtype == torch.float32 and p.is_cuda for p in model.parameters())
    assert _trainer(new_model(), recipe(log_every=3), dataset, processor, **parts).run(resume=True).steps == 6
