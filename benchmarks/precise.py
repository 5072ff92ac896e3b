"""What the levels above the ops are compared with: the same weights in float64, and how far rounding leads.

Through a deep network rounding errors grow in a way that no formula of single roundings bounds. So the bound
is measured: the plainest form of a network, attention with its scores in memory, runs in the row's dtype, and
whatever is compared may be off by twice as much: each output, and all gradients as one vector. Beside that no
single gradient may be off by more than `CAP`, so that a wrong one cannot hide in the sum; but for those that
the plainest form itself has no better, which must still be nearer to the truth than zero is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blip3v.rounding import UNIT
from blip3v.testing.compare import Verdict

ALLOWED = 2.0
"""Times the error of the plainest form."""

CAP = {torch.bfloat16: 0.3, torch.float16: 0.1, torch.float32: 1e-3, torch.float64: 1e-6}
"""Relative error at which no output and no sum passes: what computes something else is off by about 1."""

NEARER_THAN_ZERO = 0.9


@contextmanager
def parameters_in(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, all parameters have this dtype; afterwards they are the same bits as before. Buffers stay.

    Buffers hold frequencies of positions, which this model keeps in float32 whatever its weights are.
    """
    before = {parameter: parameter.data for parameter in module.parameters()}
    cudnn = torch.backends.cudnn
    try:
        for parameter in before:
            parameter.data = parameter.data.to(dtype)
        # Convolutions of float32 would otherwise round to TF32 on a GPU.
        with cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
            yield
    finally:
        for parameter, data in before.items():
            parameter.data = data


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with its parameters, not its buffers, in this dtype."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


def relative(got: Tensor, value: Tensor) -> float:
    """Norm of the difference over the norm of `value`; the norm itself where that is zero."""
    if got.shape != value.shape:
        return torch.inf
    error, norm = (got.detach().to(value.dtype) - value).norm(), value.norm()
    return float(error / norm) if norm else float(error)


class Judge:
    """Says of outputs and gradients whether their errors are those of rounding.

    Args:
        names: of the tensors; the first `outputs` are outputs, the others gradients.
        truth: their precise values.
        plain: the same tensors of the plainest form, in the dtype of what is judged.
    """

    def __init__(
        self,
        names: Sequence[str],
        truth: Sequence[Tensor],
        plain: Sequence[Tensor],
        dtype: torch.dtype,
        outputs: int = 1,
    ) -> None:
        self.names, self.truth, self.outputs = names, truth, outputs
        # At least one rounding is allowed where the plainest form happens to have none.
        self.bounds = [min(CAP[dtype], max(UNIT[dtype], ALLOWED * error)) for _, error in self._errors(plain)]
        self.single_bounds = [
            min(NEARER_THAN_ZERO, max(CAP[dtype], ALLOWED * share)) for _, share in self._shares(plain)
        ]

    def verdicts(self, results: Sequence[Tensor]) -> list[Verdict]:
        """Of all tensors, or of the outputs alone; of single gradients only those that are wrong."""
        pairs = [*zip(self._errors(results), self.bounds), *zip(self._shares(results), self.single_bounds)]
        found = [Verdict(name, error, error / bound, 0.0) for (name, error), bound in pairs]
        summed = self.outputs + (len(results) > self.outputs)
        return found[:summed] + [verdict for verdict in found[summed:] if not verdict.ok]

    def _errors(self, results: Sequence[Tensor]) -> list[tuple[str, float]]:
        """Of each output, and of all gradients as one vector."""
        errors = [
            (name, relative(got, value))
            for name, got, value in zip(self.names[: self.outputs], results, self.truth)
        ]
        if len(results) > self.outputs:
            differences, norms = self._gradients(results)
            errors.append(("all gradients", math.hypot(*differences) / (math.hypot(*norms) or 1.0)))
        return errors

    def _gradients(self, results: Sequence[Tensor]) -> tuple[list[float], list[float]]:
        """Norms of the error of each gradient, and of the gradients."""
        values = self.truth[self.outputs :]
        norms = [float(value.norm()) for value in values]
        pairs = zip(results[self.outputs :], values, norms)
        return [relative(got, value) * (norm or 1.0) for got, value, norm in pairs], norms

    def _shares(self, results: Sequence[Tensor]) -> list[tuple[str, float]]:
        """The error of each gradient by its norm, or by what so many elements have of the whole gradient.

        The latter where it is larger: a gradient that is what is left when large terms cancel (of a bias
        before a softmax, of queries whose keys are equal) has errors of the size of these terms.
        """
        if len(results) <= self.outputs:
            return []
        errors, norms = self._gradients(results)
        sizes = [value.numel() for value in self.truth[self.outputs :]]
        per_element = math.hypot(*norms) / (sum(sizes) or 1) ** 0.5
        return [
            (name, error / (max(norm, per_element * size**0.5) or 1.0))
            for name, error, norm, size in zip(self.names[self.outputs :], errors, norms, sizes)
        ]
