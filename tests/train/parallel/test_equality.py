"""Two processes, however they share a step, do what one does with all of its batches."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.train.parallel.programs import STEPS, Outcome, new_model, train, train_decoder
from tests.train.parallel.several import run_in_processes

TOLERANCE = 1e-10
TRAINED_VISION = ()


FROZEN_VISION = ("vision_encoder",)
FROZEN_LANGUAGE = ("vision_encoder", "lang_model")


@functools.cache
def alone(freeze: tuple[str, ...] = FROZEN_VISION, temporal: str = "grouped_ttm") -> Outcome:
    return train("single", freeze, temporal)


def assert_equal(outcomes: list[Outcome], expected: Outcome) -> None:
    for outcome in outcomes:
        np.testing.assert_allclose(outcome["losses"], expected["losses"], rtol=TOLERANCE)
        np.testing.assert_allclose(outcome["norms"], expected["norms"], rtol=TOLERANCE)
        assert outcome["names"] == expected["names"]
        for name, weight in expected["weights"].items():
            error = np.linalg.norm(outcome["weights"][name] - weight)
            # Biases of keys move by rounding alone: softmax does not see them, their true gradient is 0.
            assert error <= TOLERANCE * max(1.0, np.linalg.norm(weight)), name


def test_what_is_compared_tests_something() -> None:
    outcome, before = alone(), new_model()
    assert len(outcome["losses"]) == STEPS
    assert len(set(outcome["losses"])) == STEPS
    assert min(outcome["norms"]) > 0.5  # clipping acts in every step
    moved = {
        name.split(".")[0]
        for name, weight in before.named_parameters()
        if not np.array_equal(weight.detach().numpy(), outcome["weights"][name])
    }
    assert moved == {"vision_tokenizer", "lang_model"}


@pytest.mark.parametrize(("name", "per_node"), [("ddp", 2), ("fsdp", 2), ("hybrid", 2), ("hybrid", 1)])
def test_two_processes_equal_one(name: str, per_node: int) -> None:
    # Micro-batches of a step differ in samples, lengths and labels; in some steps one process has no label at
    # all, or no video. hybrid is tried as two processes of one node and as two nodes of one process.
    assert_equal(run_in_processes(train, name, per_node=per_node), alone())


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_trained_vision_encoder_and_the_vanilla_machine(name: str) -> None:
    outcomes = run_in_processes(train, name, TRAINED_VISION, "ttm")
    assert_equal(outcomes, alone(TRAINED_VISION, "ttm"))


def test_a_frozen_language_model() -> None:
    outcomes = run_in_processes(train, "fsdp", FROZEN_LANGUAGE)
    assert_equal(outcomes, alone(FROZEN_LANGUAGE))


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_with_blocks_recomputed_and_compiled(name: str) -> None:
    outcomes = run_in_processes(train_decoder, name, "aot_eager")
    assert_equal(outcomes, train_decoder("single", None))
