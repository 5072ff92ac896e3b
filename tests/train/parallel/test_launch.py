from __future__ import annotations

import re

import pytest
import torch

from blip3v.errors import UserError
from blip3v.train.parallel import Launch, SingleDevice, parallel_named
from blip3v.train.parallel.processes import Processes
from blip3v.train.recipe import Recipe

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
}  # fmt: skip
RECIPE = Recipe("test")


@pytest.fixture(autouse=True)
def _outside_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def test_torchruns_variables_are_read() -> None:
    assert Launch.from_environment({}) is None
    assert Launch.from_environment({"LOCAL_RANK": "3", "MASTER_ADDR": "left over"}) is None
    assert Launch.from_environment(TORCHRUN) == Launch(5, 8, 1, 4)


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "WORLD_SIZE"])
def test_half_an_environment_is_refused_by_name(missing: str) -> None:
    environment = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(UserError, match=rf"not {missing}: start the processes with torchrun"):
        Launch.from_environment(environment)
    with pytest.raises(UserError, match="no number"):
        Launch.from_environment(TORCHRUN | {"RANK": "first"})


def test_one_process_is_a_single_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(parallel_named("auto", RECIPE, "cpu"), SingleDevice)
    for name, value in (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    single = parallel_named("auto", RECIPE, "cpu")
    assert isinstance(single, SingleDevice)
    assert (single.rank, single.world_size, single.any(True), single.any(False)) == (0, 1, True, False)
    single.barrier()
    single.close()


def test_what_does_not_fit_the_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="choose one of auto, single, ddp, fsdp, hybrid"):
        parallel_named("dpp", RECIPE)
    for name in ("ddp", "fsdp", "hybrid"):
        with pytest.raises(UserError, match=rf"parallel {name} needs processes.*torchrun --nproc-per-node"):
            parallel_named(name, RECIPE)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun started 8, which would all train the same"):
        parallel_named("single", RECIPE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="8 processes are no multiple of the 3"):
        parallel_named("hybrid", RECIPE, "cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    expected = "started 4 processes on a machine with 1 GPUs: pass --nproc-per-node 1"
    with pytest.raises(UserError, match=re.escape(expected)):
        Processes.start(Launch(1, 4, 1, 4), "cuda")
