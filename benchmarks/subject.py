"""What is measured: one case on a device, that any peer can compute and that float64 can judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from blip3v.testing.compare import Verdict, compare


class Subject(ABC):
    """One case on a device.

    inputs: the tensors that have gradients. cotangents: of the outputs. truth: name -> (float64 value, sum of
    |terms|), the outputs first and then the gradients of `inputs`, in their order.
    """

    inputs: Sequence[Tensor]
    cotangents: Sequence[Tensor]
    truth: Mapping[str, tuple[Tensor, Tensor]]

    @abstractmethod
    def peer(self, backend: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
        """A function of `inputs` that computes the outputs; raises if this peer cannot do this case."""

    @abstractmethod
    def work(self, direction: str) -> tuple[float, float]:
        """FLOP and bytes that nobody can do without."""

    def roundings(self, backend: str) -> int:
        """How often this peer rounds each term, see blip3v.testing.compare."""
        return 1

    def verdicts(self, backend: str, results: Sequence[Tensor]) -> list[Verdict]:
        """Each result against float64, as far as `results` go: a forward has outputs only."""
        roundings = self.roundings(backend)
        return [
            compare(name, result.detach(), *self.truth[name], roundings)
            for name, result in zip(self.truth, results)
        ]
