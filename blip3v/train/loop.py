"""The training loop. Everything it works with is handed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from blip3v.data.batches import Place, SampleOrder
from blip3v.data.guard import Samples
from blip3v.data.loader import SampleLoader
from blip3v.data.packing import count_tokens
from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost import batch_flops
from blip3v.models.frozen_vision import FrozenVision
from blip3v.ranges import stage_range
from blip3v.train.activation import checkpoint_activations
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.compilation import compile_regions
from blip3v.train.metrics import Metrics, StepNumbers
from blip3v.train.optimizer import build_adamw, frozen, learning_rate
from blip3v.train.parallel import Parallel, SingleDevice
from blip3v.train.recipe import Recipe
from blip3v.train.resume import require_same_run
from blip3v.train.step import Batch, Step, StepOutcome
from blip3v.train.termination import EXIT_TERMINATED, termination_flag


class TrainingData(Samples, Protocol):
    """A dataset that says when it is another one."""

    @property
    def fingerprint(self) -> str:
        """Changes when the data do."""
        ...


@dataclass(frozen=True)
class TrainingResult:
    """steps done over all resumed parts, the smoothed loss at the end, and the seconds of training."""

    steps: int
    loss: float
    seconds: float


class Trainer:
    """Trains a model by a recipe, on whatever the parts stand for.

    Every rank makes one, with the same arguments but for `parallel`.

    Args:
        model: called with a batch and use_cache=False, returns an object whose `loss` is the mean over the
            labels that count (-100 does not, nor does the first label of a row, as nothing predicts it). The
            object is a dict or a dataclass of transformers' kind: FSDP2 finds no tensors in others. It is
            trained in place.
        recipe: what to do.
        dataset: samples by `Place`.
        collate: list of samples -> batch, padded or packed (see `blip3v.data.packing`).
        parallel: how a step is spread over devices.
        build_optimizer: makes the optimizer from the model and the recipe, after freezing.
        checkpoints: where to keep checkpoints; None keeps none.
        metrics: takes the numbers.
        lengths: about how many tokens each sample has, for an even share of every device; None shares by
            number alone.
        on_begin: called when training begins or goes on, with the number of steps done before.
        on_step: called after each step with the number of steps done and its loss, a detached scalar on the
            device.
        on_skip: called with the place of a broken sample and the reason.
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
        lengths: Sequence[int] | np.ndarray | None = None,
        on_begin: Callable[[int], None] | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
        on_skip: Callable[[Place, str], None] | None = None,
    ) -> None:
        self.model, self.recipe, self.dataset, self.collate = model, recipe, dataset, collate
        self.parallel = SingleDevice() if parallel is None else parallel
        self.build_optimizer, self.checkpoints = build_optimizer, checkpoints
        self.metrics = Metrics() if metrics is None else metrics
        self.on_begin, self.on_step, self.on_skip = on_begin, on_step, on_skip
        self.order = SampleOrder(len(dataset), recipe.seed, lengths if recipe.balanced else None)
        self.samples_per_step = recipe.batch_size * recipe.accumulation * self.parallel.world_size
        in_epochs = recipe.epochs * self.order.steps_per_epoch(self.samples_per_step)
        self.total_steps = in_epochs if recipe.max_steps is None else recipe.max_steps
        self._fingerprint = dataset.fingerprint
        self._unread: list[tuple[StepOutcome, StepNumbers]] = []

    def run(self, resume: bool = False) -> TrainingResult:
        """Train to the end. With `resume`, go on from the newest checkpoint if there is one.

        SIGTERM on any rank ends the run after the step at hand, with a checkpoint, by SystemExit(143).

        Raises:
            UserError: the loss is not finite; resuming with another recipe or other data; a new run where
                checkpoints of an earlier one lie; the last checkpoint cannot be written.
        """
        with ExitStack() as stack:
            stack.enter_context(frozen_training(self.model, self.recipe))
            model = self.parallel.wrap(self.model)
            optimizer = self.build_optimizer(model, self.recipe)
            if self.checkpoints is not None:
                stack.callback(self.checkpoints.close)
            step = self._begin(model, optimizer, resume)
            position = self.order.first_sample(step, self.samples_per_step)
            if self.on_begin is not None:
                self.on_begin(step)
            terminated = stack.enter_context(termination_flag())
            self.metrics.start(self.recipe.name, step, self.total_steps, self.parallel)
            stack.callback(self.metrics.finish)
            take_step = Step(model, optimizer, self.parallel, self.recipe, self._vision())
            batches = self._batches(step, position)
            stack.callback(batches.close)
            while step < self.total_steps:
                rate = learning_rate(step, self.total_steps, self.recipe)
                drawn, numbers = self._draw(batches, position)
                outcome = take_step(drawn, rate, partial(self._note, numbers))
                step, position = step + 1, self.order.after(position, self.samples_per_step)
                if self.on_step is not None:
                    self.on_step(step, outcome.loss)
                # Read once: a signal between two looks would end the run without its checkpoint.
                stopping = self.parallel.any(terminated.is_set())
                ending = stopping or step == self.total_steps
                line_due = step == self.total_steps or step % self.recipe.log_every == 0
                checkpoint_due = ending or self._checkpoint_due(step)
                if line_due or checkpoint_due:
                    self._read_numbers()
                if line_due:
                    self.metrics.write(step, rate)
                if checkpoint_due:
                    self._save(step, position, model, optimizer, wait=ending)
                if stopping and step < self.total_steps:
                    raise SystemExit(EXIT_TERMINATED)
            return TrainingResult(step, self.metrics.smoothed_loss or 0.0, self.metrics.seconds)

    def _vision(self) -> FrozenVision | None:
        """The frozen vision encoder, if it runs outside the model; made late, because it may copy weights."""
        recipe, device = self.recipe, self.parallel.device
        encoder = getattr(self.model, "vision_encoder", None)
        if encoder is None or "vision_encoder" not in recipe.frozen:
            return None
        if recipe.vision == "eager" and not recipe.vision_fp8 and device.type == "cpu":
            return None
        # On a GPU always: within the model autocast would cast all its weights again in every step.
        dtype = torch.bfloat16 if recipe.bf16 and device.type == "cuda" else None
        return FrozenVision(encoder, mode=recipe.vision, fp8=recipe.vision_fp8, device=device, dtype=dtype)

    def _draw(self, batches: SampleLoader, position: int) -> tuple[list[Batch], StepNumbers]:
        """This rank's micro-batches of the step at `position`, and what is known of it before it is taken."""
        stalled, skipped = batches.stall_seconds, batches.skipped
        with stage_range("data"):
            drawn = list(islice(batches, self.recipe.accumulation))
        config = getattr(self.model, "config", None)
        return drawn, StepNumbers(
            loss=math.nan,
            grad_norm=math.nan,
            samples=len(self.order.samples(position, self.samples_per_step)),
            tokens=sum(map(count_tokens, drawn)),
            flops=sum(batch_flops(config, batch) for batch in drawn)
            if isinstance(config, Blip3VideoConfig)
            else 0,
            stall=batches.stall_seconds - stalled,
            skipped=batches.skipped - skipped,
        )

    def _note(self, numbers: StepNumbers, outcome: StepOutcome) -> None:
        self._unread.append((outcome, numbers))
        if self.parallel.device.type == "cpu":
            # Reading a number costs nothing here; on a GPU it would make the step wait.
            self._read_numbers()

    def _read_numbers(self) -> None:
        """Bring the numbers of the last steps to the metrics, and stop if one is not finite."""
        if not self._unread:
            return
        outcomes, known = zip(*self._unread, strict=True)
        self._unread.clear()
        losses = torch.stack([outcome.loss for outcome in outcomes]).tolist()
        norms = torch.stack([outcome.norm for outcome in outcomes]).tolist()
        if not all(map(math.isfinite, [*losses, *norms])):
            kept = None
            if self.checkpoints is not None:
                kept = self.checkpoints.latest()
            raise UserError(
                f"recipe {self.recipe.name}: not finite: loss {losses[-1]}, gradient norm {norms[-1]}; "
                f"{f'the last good checkpoint is {kept}' if kept else 'no checkpoint was kept'}; "
                "lower the learning rate, lengthen the warm-up or look for broken samples"
            )
        for numbers, outcome, loss, norm in zip(known, outcomes, losses, norms, strict=True):
            self.metrics.add(replace(numbers, loss=loss, grad_norm=norm, label_tokens=outcome.labels))

    def _batches(self, step: int, position: int) -> SampleLoader:
        """This rank's micro-batches from `position` on."""
        places = self.order.micro_batches(
            position,
            self.total_steps - step,
            self.samples_per_step,
            self.parallel.rank,
            self.parallel.world_size,
            self.recipe.accumulation,
        )
        return SampleLoader(
            self.dataset,
            places,
            self.collate,
            workers=self.recipe.workers,
            prefetch=self.recipe.prefetch,
            pin_memory=self.parallel.device.type == "cuda",
            seed=self.recipe.seed,
            on_skip=self.on_skip,
        )

    def _checkpoint_due(self, step: int) -> bool:
        every = self.recipe.checkpoint_every
        return every > 0 and step % every == 0

    def _begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, resume: bool) -> int:
        """Steps done before: 0 for a new run; a resumed one is put back to where its checkpoint was."""
        torch.manual_seed(self.recipe.seed + self.parallel.rank)
        latest = self.checkpoints.latest() if self.checkpoints is not None else None
        if self.checkpoints is None or latest is None:
            return 0
        if not resume:
            raise UserError(
                f"{latest.parent} holds checkpoints of an earlier run; resume it or choose another folder"
            )
        state = self.checkpoints.read_state(latest)
        require_same_run(latest, state, self.recipe, self._fingerprint, self.samples_per_step)
        self.checkpoints.load(latest, model, optimizer)
        self.metrics.load_state(state["metrics"])
        return int(state["step"])

    def _save(
        self, step: int, position: int, model: nn.Module, optimizer: torch.optim.Optimizer, wait: bool
    ) -> None:
        if self.checkpoints is None:
            return
        state = {
            "recipe": self.recipe.to_json(),
            "data": self._fingerprint,
            "samples_per_step": self.samples_per_step,
            "position": position,
            "epoch": position // self.order.num_samples,
            "metrics": self.metrics.state(),
        }
        self.checkpoints.save(step, model, optimizer, state, wait=wait)


@contextmanager
def frozen_training(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Within: training mode, the recipe's modules frozen, blocks recomputed and compiled if it says so."""
    was_training = model.training
    model.train()
    with ExitStack() as stack:
        stack.callback(model.train, was_training)
        stack.enter_context(frozen(model, recipe.frozen))
        stack.enter_context(checkpoint_activations(model, recipe.activation_checkpointing))
        if recipe.compiled:
            stack.enter_context(compile_regions(model))
        yield
