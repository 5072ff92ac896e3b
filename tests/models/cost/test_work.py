from __future__ import annotations

import pytest

from blip3v.models.cost.work import Work, attention, feed_forward, linear, norms


def test_a_product_counts_its_multiplications_and_additions() -> None:
    """Once forward; twice backward, or once where nobody needs the input's gradient."""
    rows, inputs, outputs = 3, 5, 7
    flops = sum(2 for _ in range(rows) for _ in range(inputs) for _ in range(outputs))
    assert linear(rows, inputs, outputs) == Work(flops, 2 * flops, inputs * outputs)
    assert linear(rows, inputs, outputs, bias=True).weights == inputs * outputs + outputs
    assert linear(rows, inputs, outputs, frozen_input=True).backward_flops == flops


def test_attention_has_two_products_forward_and_four_backward() -> None:
    queries, keys, width = 3, 4, 10
    scores = 2 * queries * keys * width
    work = attention(queries * keys, width)
    assert (work.flops, work.backward_flops, work.weights) == (2 * scores, 4 * scores, 0)


def test_amounts_add_up() -> None:
    layer = norms(2, 8) + feed_forward(3, 8, 32)
    assert layer.weights == 2 * 2 * 8 + 2 * 8 * 32
    assert layer * 3 == layer + layer + layer
    assert sum([layer, layer], Work()) == layer * 2


def test_a_recurrence_reads_its_weights_in_each_step_and_has_them_once() -> None:
    step = linear(3, 8, 8).moving(5)
    run = step.repeated(4)
    assert run.flops == 4 * step.flops
    assert run.weights == step.weights
    assert run.bytes == 2 * (4 * 64 + 4 * 5)


def test_bytes_follow_the_size_of_a_value() -> None:
    assert Work(weights=10, moved=3, value_bytes=4).bytes == 52
    assert Work(weights=10, moved=3).weights_bytes == 20


def test_values_of_two_sizes_do_not_add() -> None:
    with pytest.raises(ValueError, match="values of 2 and of 4 bytes"):
        Work(value_bytes=2) + Work(value_bytes=4)
