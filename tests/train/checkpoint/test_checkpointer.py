from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from blip3v.errors import UserError
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.optimizer import build_adamw
from blip3v.train.recipe import Recipe


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_loaded_run_goes_on_bit_for_bit(
    tmp_path: Path, trained: Callable[..., Any], step: Callable[..., Any], asynchronous: bool
) -> None:
    model, optimizer = trained(0)
    checkpoints = Checkpointer(tmp_path, asynchronous=asynchronous)
    path = checkpoints.save(3, model, optimizer, {"note": [1, "x"]})
    random = torch.rand(3)
    expected = step(model, optimizer)  # a write under way must not see it
    checkpoints.wait()
    other, other_optimizer = trained(1, steps=1)
    checkpoints.load(path, other, other_optimizer)
    assert torch.equal(torch.rand(3), random)
    assert other.unused.weight not in other_optimizer.state  # no gradient so far: no step taken
    found = step(other, other_optimizer)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert other.head.weight is other.embedding.weight
    assert checkpoints.read_state(path) == {"format": 2, "step": 3, "seed": 0, "ranks": 1, "note": [1, "x"]}
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_last_ones_are_kept_in_the_order_of_their_steps(
    tmp_path: Path, trained: Callable[..., Any], asynchronous: bool
) -> None:
    model, optimizer = trained()
    checkpoints = Checkpointer(tmp_path / "new" / "folder", keep=2, asynchronous=asynchronous)
    assert checkpoints.latest() is None
    for number in (5, 90, 100, 1000, 1000):
        checkpoints.save(number, model, optimizer, {})
    assert checkpoints.latest() == tmp_path / "new" / "folder" / "step-00001000"
    assert [path.name for path in checkpoints.all()] == ["step-00000100", "step-00001000"]
    assert len(list(checkpoints.folder.iterdir())) == 2


def test_a_half_written_checkpoint_is_never_picked_up(
    tmp_path: Path, trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained()
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, model, optimizer, {})

    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    # Stopped at each stage, and after all of them but before the rename.
    for target in ("storage.write_safetensors", "storage.json.dumps", "folders.flush", "storage.os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(f"blip3v.train.checkpoint.{target}", die)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(2, model, optimizer, {})
        assert [path.name for path in checkpoints.all()] == ["step-00000001"]
    (tmp_path / ".unfinished-step-00000002" / "old").mkdir(parents=True)  # as kill -9 leaves it
    checkpoints.save(2, model, optimizer, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files may not grow beyond 256 bytes: the kernel refuses the write as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    tmp_path: Path,
    trained: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    asynchronous: bool,
) -> None:
    model, optimizer = trained()
    checkpoints = Checkpointer(tmp_path, keep=1, asynchronous=asynchronous)
    good = checkpoints.save(1, model, optimizer, {}, wait=True)
    request.getfixturevalue("small_disk")
    checkpoints.save(2, model, optimizer, {})
    checkpoints.save(3, model, optimizer, {})  # the next try; says that the former failed
    assert checkpoints.latest() == good
    assert [path.name for path in tmp_path.iterdir()] == [good.name]  # nothing fills the disk further
    complaint = rf"cannot write the checkpoint .*step-0000000.*File too large.*last good checkpoint is {good}"
    for ending in (checkpoints.wait, lambda: checkpoints.save(4, model, optimizer, {}, wait=True)):
        with pytest.raises(UserError, match=complaint):
            ending()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], limit[1]))
    said = capsys.readouterr().err
    assert said.count("WARNING: cannot write the checkpoint") == 3
    assert "training goes on" in said
    checkpoints.save(5, model, optimizer, {})  # somebody made room
    checkpoints.wait()
    assert [path.name for path in checkpoints.all()] == ["step-00000005"]


def test_whatever_the_disk_says_is_told(
    tmp_path: Path, trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("blip3v.train.checkpoint.storage.os.fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*there is no earlier checkpoint"):
        Checkpointer(tmp_path).save(1, *trained(), {}, wait=True)
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_the_program_is_no_full_disk(
    tmp_path: Path, trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*args: Any) -> None:
        raise TypeError("mistaken")

    monkeypatch.setattr("blip3v.train.checkpoint.storage.write_safetensors", mistaken)
    checkpoints = Checkpointer(tmp_path, asynchronous=True)
    checkpoints.save(1, *trained(), {})
    with pytest.raises(TypeError, match="mistaken"):
        checkpoints.save(2, *trained(), {})
    checkpoints.save(3, *trained(), {})
    checkpoints.close()  # an error that ends the run comes first
    assert not list(tmp_path.iterdir())


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained()
    may_finish, write = threading.Event(), "blip3v.train.checkpoint.checkpointer.finish_aside"
    from blip3v.train.checkpoint.folders import finish_aside

    def slow(target: Path) -> None:
        assert may_finish.wait(30)
        finish_aside(target)

    monkeypatch.setattr(write, slow)
    checkpoints = Checkpointer(tmp_path, asynchronous=True)
    checkpoints.save(1, model, optimizer, {})
    assert checkpoints.all() == []  # and yet here we are
    may_finish.set()
    checkpoints.save(2, model, optimizer, {}, wait=True)
    assert [path.name for path in checkpoints.all()] == ["step-00000001", "step-00000002"]


def test_damaged_or_foreign_checkpoints_are_clear_errors(tmp_path: Path, trained: Callable[..., Any]) -> None:
    model, optimizer = trained()
    checkpoints = Checkpointer(tmp_path)
    path = checkpoints.save(1, model, optimizer, {})
    part = path / "rank-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot resume from .*remove it"):
        checkpoints.load(path, model, optimizer)
    part.unlink()
    with pytest.raises(UserError, match=r"cannot resume from .*remove it"):
        checkpoints.load(path, model, optimizer)
    path = checkpoints.save(2, model, optimizer, {})
    other = torch.nn.Linear(3, 3)
    with pytest.raises(UserError, match=r"cannot resume.*the checkpoint lacks bias; 7 names differ"):
        checkpoints.load(path, other, build_adamw(other, Recipe("t")))
    wider, _ = trained()
    wider.unused = torch.nn.Linear(2, 3)
    with pytest.raises(UserError, match=r"cannot resume.*Size mismatch.*unused"):
        checkpoints.load(path, wider, build_adamw(wider, Recipe("t")))
    model.head.bias.requires_grad_(False)
    with pytest.raises(UserError, match=r"head\.bias, which is frozen"):
        checkpoints.load(path, model, build_adamw(model, Recipe("t")))


@pytest.mark.gpu
@pytest.mark.parametrize("asynchronous", [False, True])
def test_on_a_gpu_a_run_goes_on_bit_for_bit(
    tmp_path: Path, step: Callable[..., Any], trained: Callable[..., Any], asynchronous: bool
) -> None:
    def on_gpu(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = trained(0, steps=0)[0].cuda()
        optimizer = build_adamw(model, Recipe("t", learning_rate=0.1))
        for _ in range(steps):
            step(model, optimizer)
        return model, optimizer

    model, optimizer = on_gpu(3)
    checkpoints = Checkpointer(tmp_path, asynchronous=asynchronous)
    path = checkpoints.save(3, model, optimizer, {})
    random = torch.rand(3, device="cuda")
    expected = step(model, optimizer)
    checkpoints.wait()
    other, other_optimizer = on_gpu(1)
    checkpoints.load(path, other, other_optimizer)
    assert torch.equal(torch.rand(3, device="cuda"), random)
    found = step(other, other_optimizer)
    assert all(value.is_cuda and torch.equal(expected[name], value) for name, value in found.items())
