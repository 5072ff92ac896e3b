"""Checkpoints of two ranks: sharded, resharded, and what one rank suffers all of them know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip3v.train.checkpoint import load_weights
from tests.train.checkpoint.programs import Uneven, fail_on_one_rank, go_on, train
from tests.train.parallel.several import run_in_processes


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_values_survive_every_change_of_ranks(tmp_path: Path) -> None:
    straight = go_on("single", tmp_path / "straight", 15, False)["saved"]
    folder, former = tmp_path / "run", None
    for part, (name, asynchronous) in enumerate(
        [("fsdp", True), ("single", False), ("fsdp", False), ("hybrid", True), ("ddp", True)]
    ):
        if name == "single":
            outcomes = [go_on(name, folder, 3, asynchronous)]
        else:
            outcomes = run_in_processes(go_on, name, folder, 3, asynchronous)
        for outcome in outcomes:
            assert outcome["step"] == 3 * part
            if former is not None:
                assert_same(outcome["loaded"], former)
            assert_same(outcome["saved"], outcomes[0]["saved"])
        former = outcomes[0]["saved"]
    assert former is not None
    assert former.keys() == straight.keys()
    for name, value in straight.items():
        np.testing.assert_allclose(former[name], value, rtol=1e-12, err_msg=name)
    model = Uneven().double()
    load_weights(folder / "step-00000015", model)  # as a later program would, for export
    for name, weight in model.named_parameters():
        np.testing.assert_array_equal(weight.detach(), former[f"model.{name}"])


def test_every_rank_gets_its_own_generator_back(tmp_path: Path) -> None:
    first = run_in_processes(go_on, "fsdp", tmp_path, 1, True)
    again = run_in_processes(go_on, "fsdp", tmp_path, 1, True)
    assert [outcome["first"] for outcome in again] == [outcome["next"] for outcome in first]
    assert again[0]["first"] != again[1]["first"]
    single = [go_on("single", tmp_path, 0, False)["first"] for _ in range(2)]
    assert single[0] not in [outcome["next"] for outcome in again]  # seeded from (seed, step, rank)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_fails_on_one_rank_fails_on_all(tmp_path: Path, asynchronous: bool) -> None:
    outcomes = run_in_processes(fail_on_one_rank, tmp_path, asynchronous)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["latest"] == str(tmp_path / "step-00000001")
    assert "step-00000002: [Errno 28] No space left on device" in outcomes[0]["error"]
    assert "the last good checkpoint is " in outcomes[0]["error"]
    assert outcomes[0]["left"] == ["step-00000001", "step-00000003"]


def test_sigterm_to_one_rank_stops_all_with_a_checkpoint_that_one_device_goes_on_from(tmp_path: Path) -> None:
    straight = train("single", tmp_path / "straight", accumulation=2)
    outcomes = run_in_processes(train, "fsdp", tmp_path / "run", 1, 5)
    for outcome in outcomes:
        assert outcome["code"] == 143
        assert outcome["checkpoints"] == ["step-00000003", "step-00000005"]
    rest = train("single", tmp_path / "run", accumulation=2)
    assert sorted(rest["losses"]) == [6, 7, 8]
    for step, loss in (outcomes[1]["losses"] | rest["losses"]).items():
        assert loss == pytest.approx(straight["losses"][step], rel=1e-5), step
