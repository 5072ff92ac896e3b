"""The training loop. Everything it works with is handed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from blip3v.data.batches import BatchOrder, Place
from blip3v.errors import UserError
from blip3v.ranges import ranged, stage_range
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.metrics import Metrics
from blip3v.train.optimizer import build_adamw, frozen, learning_rate
from blip3v.train.parallel import Parallel, SingleDevice
from blip3v.train.recipe import Recipe
from blip3v.train.termination import EXIT_TERMINATED, termination_flag

Batch = dict[str, Tensor]


class TrainingData(Protocol):
    """A dataset: the sample at a place depends on the place alone."""

    @property
    def fingerprint(self) -> str:
        """Changes when the data do."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, place: Place) -> Any: ...


@dataclass(frozen=True)
class TrainingResult:
    """steps done over all resumed parts, the smoothed loss at the end, and the seconds of training."""

    steps: int
    loss: float
    seconds: float


class Trainer:
    """Trains a model by a recipe, on whatever the parts stand for.

    Args:
        model: called with a batch and use_cache=False, returns an object whose `loss` is the mean over the
            labels that count (-100 does not, nor does the first label of a row, as nothing predicts it). It
            is trained in place.
        recipe: what to do.
        dataset: samples by `Place`.
        collate: list of samples -> batch with "input_ids" and "labels" [B,L].
        parallel: how a step is spread over devices.
        build_optimizer: makes the optimizer from the model and the recipe, after freezing.
        checkpoints: where to keep checkpoints; None keeps none.
        metrics: takes the numbers.
        on_step: called after each step with the number of steps done and its loss, a detached scalar on the
            device.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        dataset: TrainingData,
        collate: Callable[[list[Any]], Batch],
        *,
        parallel: Parallel | None = None,
        build_optimizer: Callable[[nn.Module, Recipe], torch.optim.Optimizer] = build_adamw,
        checkpoints: Checkpointer | None = None,
        metrics: Metrics | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        self.recipe, self.dataset, self.collate = recipe, dataset, collate
        self.parallel = SingleDevice() if parallel is None else parallel
        self.build_optimizer, self.checkpoints, self.on_step = build_optimizer, checkpoints, on_step
        self.metrics = Metrics() if metrics is None else metrics
        self.model = model
        self.order = BatchOrder(len(dataset), recipe.batch_size, recipe.seed)
        self.batches_per_step = recipe.accumulation * self.parallel.world_size
        in_epochs = math.ceil(recipe.epochs * self.order.batches_per_epoch / self.batches_per_step)
        self.total_steps = in_epochs if recipe.max_steps is None else recipe.max_steps
        self._fingerprint = dataset.fingerprint
        self._unread: list[tuple[Tensor, Tensor]] = []
        self._unread_samples = 0

    def run(self, resume: bool = False) -> TrainingResult:
        """Train to the end. With `resume`, go on from the newest checkpoint if there is one.

        SIGTERM ends the run after the step at hand, with a checkpoint, by SystemExit(143).

        Raises:
            UserError: the loss is not finite; resuming with another recipe or other data; a new run where
                checkpoints of an earlier one lie.
        """
        with ExitStack() as stack:
            stack.enter_context(frozen_training(self.model, self.recipe))
            model = self.parallel.wrap(self.model)
            optimizer = self.build_optimizer(model, self.recipe)
            step = self._begin(model, optimizer, resume)
            terminated = stack.enter_context(termination_flag())
            self.metrics.start(self.recipe.name, step, self.total_steps)
            stack.callback(self.metrics.finish)
            batches = self._batches(step)
            while step < self.total_steps:
                rate = learning_rate(step, self.total_steps, self.recipe)
                with stage_range("data"):
                    drawn = list(islice(batches, self.recipe.accumulation))
                loss = self._step(model, optimizer, drawn, rate)
                step += 1
                if self.on_step is not None:
                    self.on_step(step, loss)
                # Read once: a signal between two looks would end the run without its checkpoint.
                stopping = terminated.is_set()
                ending = stopping or step == self.total_steps
                line_due = step == self.total_steps or step % self.recipe.log_every == 0
                checkpoint_due = ending or self._checkpoint_due(step)
                if line_due or checkpoint_due:
                    self._read_numbers()
                if line_due:
                    self.metrics.write(step, rate)
                if checkpoint_due:
                    self._save(step, model, optimizer)
                if stopping and step < self.total_steps:
                    raise SystemExit(EXIT_TERMINATED)
            return TrainingResult(step, self.metrics.smoothed_loss or 0.0, self.metrics.seconds)

    @ranged(stage_range, "training step")
    def _step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], rate: float
    ) -> Tensor:
        """One optimizer step over the batches; returns the mean loss over all their labels."""
        # Each batch's mean loss counts by its labels, so the step is the one of a single large batch.
        counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
        total = max(1, self.parallel.total(sum(counts)))
        device = self.parallel.device
        loss = torch.zeros((), device=device)
        for index, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            with stage_range("data"):
                batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            with self.parallel.accumulate(model, last=index == len(batches) - 1):
                autocast = self.recipe.bf16 and device.type == "cuda"
                with stage_range("forward"), torch.autocast(device.type, torch.bfloat16, autocast):
                    mean = model(**batch, use_cache=False).loss
                # Gradients of several processes are averaged, hence the factor.
                share = mean * (count / total)
                with stage_range("backward"):
                    (share * self.parallel.world_size).backward()
            loss += share.detach()
        loss = self.parallel.total_loss(loss)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        with stage_range("clip gradients"):
            norm = self.parallel.clip(parameters, self.recipe.clip_norm)
        self._unread.append((loss, norm))
        self._unread_samples += sum(len(batch["labels"]) for batch in batches) * self.parallel.world_size
        if device.type == "cpu":
            # Reading a number costs nothing here; on a GPU it would make the step wait.
            self._read_numbers()
        for group in optimizer.param_groups:
            group["lr"] = rate
        with stage_range("optimizer"):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss

    def _read_numbers(self) -> None:
        """Bring the numbers of the last steps to the metrics, and stop if one is not finite."""
        if not self._unread:
            return
        losses, norms = (torch.stack(values).tolist() for values in zip(*self._unread, strict=True))
        self._unread.clear()
        if not all(map(math.isfinite, [*losses, *norms])):
            kept = self.checkpoints.latest() if self.checkpoints is not None else None
            raise UserError(
                f"recipe {self.recipe.name}: not finite: loss {losses[-1]}, gradient norm {norms[-1]}; "
                f"{f'the last good checkpoint is {kept}' if kept else 'no checkpoint was kept'}; "
                "lower the learning rate, lengthen the warm-up or look for broken samples"
            )
        self.metrics.add(losses, norms, self._unread_samples)
        self._unread_samples = 0

    def _batches(self, step: int) -> Iterator[Batch]:
        """This process's batches from `step` on."""
        stop = self.total_steps * self.batches_per_step
        if self.recipe.max_steps is None:
            stop = min(stop, self.recipe.epochs * self.order.batches_per_epoch)
        start = step * self.batches_per_step + self.parallel.rank
        loader = DataLoader(
            cast("torch.utils.data.Dataset[Any]", self.dataset),
            batch_sampler=cast(Any, self.order.batches(start, stop, self.parallel.world_size)),
            collate_fn=self.collate,
            num_workers=self.recipe.workers,
            pin_memory=self.parallel.device.type == "cuda",
            # Its own generator: a loader draws a seed at its start, which must not move the model's dropout.
            generator=torch.Generator().manual_seed(self.recipe.seed),
        )
        return iter(loader)

    def _checkpoint_due(self, step: int) -> bool:
        every = self.recipe.checkpoint_every
        return every > 0 and step % every == 0

    def _begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, resume: bool) -> int:
        """Steps done before: 0 for a new run; a resumed one is put back to where its checkpoint was."""
        torch.manual_seed(self.recipe.seed)
        latest = self.checkpoints.latest() if self.checkpoints is not None else None
        if self.checkpoints is None or latest is None:
            return 0
        if not resume:
            raise UserError(
                f"{latest.parent} holds checkpoints of an earlier run; resume it or choose another folder"
            )
        state = self.checkpoints.read_state(latest)
        differences = self.recipe.differences(state["recipe"])
        if differences:
            raise UserError(
                f"cannot resume {latest} with another recipe ({'; '.join(differences)}); use its values"
            )
        if state["data"] != self._fingerprint:
            raise UserError(
                f"cannot resume {latest}: the data differ from those it was trained on; use the same file"
            )
        if state["world_size"] != self.parallel.world_size:
            raise UserError(
                f"cannot resume {latest} on {self.parallel.world_size} devices: "
                f"it ran on {state['world_size']}; use as many"
            )
        self.checkpoints.load(latest, model, optimizer)
        self.metrics.load_state(state["metrics"])
        return int(state["step"])

    def _save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.checkpoints is None or self.parallel.rank != 0:
            return
        state = {
            "recipe": self.recipe.to_json(),
            "data": self._fingerprint,
            "world_size": self.parallel.world_size,
            "epoch": self.order.position(step * self.batches_per_step)[0],
            "metrics": self.metrics.state(),
        }
        self.checkpoints.save(step, model, optimizer, state)


@contextmanager
def frozen_training(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Within: training mode, the recipe's modules frozen, activations recomputed if it says so."""
    was_training = model.training
    model.train()
    checkpointing = recipe.gradient_checkpointing
    if checkpointing:
        cast(Any, model).gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with frozen(model, recipe.frozen):
            yield
    finally:
        if checkpointing:
            cast(Any, model).gradient_checkpointing_disable()
        model.train(was_training)
