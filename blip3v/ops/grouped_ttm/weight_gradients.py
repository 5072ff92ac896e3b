"""Sums of weight gradients over the steps of a recurrence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from blip3v.ops.grouped_ttm.arguments import Layer, Weights, Write

ROWS_PER_PRODUCT = 4096
"""A gradient dW = g^T x sums over rows, and the longer that sum, the better the product fills the machine:
short steps wait until so many rows are together. One video of the 4B model has 640 rows a step."""


class WeightGradients:
    """Adds up in float32 what every step contributes, and returns it in the type of each weight."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.sums: dict[int, Tensor] = {}
        self.waiting: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def add_product(self, layer: int, name: str, gradient: Tensor, x: Tensor) -> None:
        """The weight called `name` of a layer made gradient's rows [...,out] from those of x [...,in]."""
        place = self._place(layer, name)
        waiting = self.waiting[place]
        waiting.append((gradient.flatten(0, -2), x.flatten(0, -2)))
        if sum(len(rows) for rows, _ in waiting) >= ROWS_PER_PRODUCT:
            self._multiply(place)

    def add_norm(self, layer: int, weight: Tensor, bias: Tensor) -> None:
        self._add(self._place(layer, "norm_weight"), weight)
        self._add(self._place(layer, "norm_bias"), bias)

    def add_ff_norm(self, layer: int, weight: Tensor, bias: Tensor) -> None:
        self._add(self._place(layer, "ff_norm_weight"), weight)
        self._add(self._place(layer, "ff_norm_bias"), bias)

    def add_write(self, gradients: Sequence[Tensor]) -> None:
        """Those of the writing TokenLearner, in the order of `Write`."""
        first = len(self.weights.layers) * len(Layer._fields)
        for place in range(len(Write._fields)):
            self._add(first + place, gradients[place])

    def finish(self) -> list[Tensor]:
        """One gradient for each of `Weights.flat()`, in its type."""
        for place in list(self.waiting):
            self._multiply(place)
        return [self.sums[place].to(weight.dtype) for place, weight in enumerate(self.weights.flat())]

    def _place(self, layer: int, name: str) -> int:
        return layer * len(Layer._fields) + Layer._fields.index(name)

    def _multiply(self, place: int) -> None:
        if waiting := self.waiting.pop(place, []):
            gradients, rows = zip(*waiting)
            if len(waiting) == 1:
                self._add(place, gradients[0].t() @ rows[0])
            else:
                self._add(place, torch.cat(gradients).t() @ torch.cat(rows))

    def _add(self, place: int, gradient: Tensor) -> None:
        precise = torch.promote_types(gradient.dtype, torch.float32)
        known = self.sums.get(place)
        self.sums[place] = gradient.to(precise) if known is None else known.add_(gradient)
