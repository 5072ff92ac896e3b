"""What an amount of computing is, and the few products that all stages are made of.

Counted in FLOPs: matrix products, 2 m n k each, both products of an attention, and convolutions. Not counted:
everything elementwise (norms, activations, softmax, pooling, residuals), which is below 1% of any stage
that has a product at all and which no tensor core computes.

Counted in the backward: the gradients of weights, and those of inputs that somebody needs. Recomputation (of
attention scores, or of whole layers under gradient checkpointing) is a choice of the implementation and never
counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """A stage's work. Amounts add up: `a + b` is doing both, `work * n` is doing it n times.

    Attributes:
        flops: of the forward.
        backward_flops: of the backward alone, without recomputation.
        weights: parameters that the forward reads; reading them is shared by a whole batch.
        moved: further values that must pass through device memory in the forward: what enters and what leaves
            the stage, the key/value cache, and weights that a recurrence reads again. What one layer
            hands to the next is left out, so `bytes` is a floor under every implementation, fused or not.
        value_bytes: bytes of a value; 2 for bfloat16.
    """

    flops: int = 0
    backward_flops: int = 0
    weights: int = 0
    moved: int = 0
    value_bytes: int = 2

    @property
    def weights_bytes(self) -> int:
        """Bytes of the parameters, each once."""
        return self.weights * self.value_bytes

    @property
    def bytes(self) -> int:
        """Bytes that the forward must read and write at least."""
        return self.weights_bytes + self.moved * self.value_bytes

    def __add__(self, other: Work) -> Work:
        if self.value_bytes != other.value_bytes:
            raise ValueError(
                f"cannot add work on values of {self.value_bytes} and of {other.value_bytes} bytes"
            )
        return replace(
            self,
            flops=self.flops + other.flops,
            backward_flops=self.backward_flops + other.backward_flops,
            weights=self.weights + other.weights,
            moved=self.moved + other.moved,
        )

    def __mul__(self, times: int) -> Work:
        """The work of `times` layers, each with weights of its own."""
        return replace(
            self,
            flops=self.flops * times,
            backward_flops=self.backward_flops * times,
            weights=self.weights * times,
            moved=self.moved * times,
        )

    def repeated(self, times: int) -> Work:
        """The same weights used `times` times one after the other, and read again each time."""
        again = (times - 1) * self.weights
        return replace(self * times, weights=self.weights, moved=self.moved * times + again)

    def moving(self, values: int) -> Work:
        """This work, with `values` more values to move."""
        return replace(self, moved=self.moved + values)


def linear(rows: int, inputs: int, outputs: int, bias: bool = False, frozen_input: bool = False) -> Work:
    """[rows, inputs] times [inputs, outputs]; nobody asks for the gradient of a frozen input."""
    flops = 2 * rows * inputs * outputs
    return Work(flops, flops if frozen_input else 2 * flops, (inputs + bias) * outputs)


def attention(pairs: int, width: int) -> Work:
    """q k^T and p v over `pairs` of a query and a key it may see, `width` channels of all heads together.

    The backward has four products of the same size: of v, p, q and k.
    """
    return Work(4 * pairs * width, 8 * pairs * width)


def norms(count: int, dim: int, bias: bool = True) -> Work:
    """`count` LayerNorms, or RMSNorms without bias: weights only."""
    return Work(weights=count * dim * (1 + bias))


def feed_forward(rows: int, dim: int, inner: int, bias: bool = False) -> Work:
    """dim -> inner -> dim."""
    return linear(rows, dim, inner, bias) + linear(rows, inner, dim, bias)
