from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blip3v.cli.main import main
from blip3v.inference.generate import load
from blip3v.models.weights import load_released, released_shapes
from blip3v.train.checkpoint import Checkpointer
from blip3v.train.export import export
from blip3v.train.optimizer import build_adamw, frozen
from blip3v.train.parallel import parallel_named
from tests.train.parallel.programs import RECIPE, new_model, whole_weights
from tests.train.parallel.several import run_in_processes


def test_export_replaces_the_last_one_only_when_it_is_complete(tmp_path: Path) -> None:
    class Part:
        def __init__(self, name: str, text: str | None) -> None:
            self.name, self.text = name, text

        def save_pretrained(self, folder: Path, **options: Any) -> None:
            if self.text is None:
                raise KeyboardInterrupt
            (folder / self.name).write_text(self.text)

    target = tmp_path / "model"
    export(target, Part("m", "1"), Part("p", "1"))
    with pytest.raises(KeyboardInterrupt):
        export(target, Part("m", "2"), Part("p", None))
    assert (target / "m").read_text() == "1"
    export(target, Part("m", "3"), Part("p", "3"))
    assert {file.name: file.read_text() for file in target.iterdir()} == {"m": "3", "p": "3"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture
def checkpoint(
    tmp_path: Path, new_model: Callable[..., Any], recipe: Callable[..., Any], processor: Any
) -> Path:
    """Of a model whose weights nobody else has; the folder `start` beside it is where its run began."""
    model, settings = new_model(), recipe()
    model.config.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    with frozen(model, settings.frozen):
        state = {"recipe": settings.to_json()}
        return Checkpointer(tmp_path / "checkpoints").save(3, model, build_adamw(model, settings), state)


@pytest.mark.parametrize("released", [False, True])
def test_a_checkpoint_becomes_a_model_folder(
    tmp_path: Path, checkpoint: Path, new_model: Callable[..., Any], released: bool
) -> None:
    out = tmp_path / "out"
    arguments = ["export", str(checkpoint), str(out), "--model", str(tmp_path / "start")]
    assert main(arguments + ["--released"] * released) == 0
    assert any(name.startswith("vlm.") for name in released_shapes(out)) == released
    fresh = new_model()
    # A released folder has no configuration, and a tiny one's cannot be told from its tensors.
    model = load_released(out, fresh.config) if released else load(out, "cpu")[0]
    before = fresh.state_dict()
    for name, tensor in model.state_dict().items():
        moved = 0.5 if tensor.is_floating_point() and name in dict(model.named_parameters()) else 0.0
        assert torch.equal(tensor, before[name] + moved), name
    assert main(arguments) == 2  # nothing is overwritten


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    (checkpoint / "rank-00000.safetensors").write_bytes(b"short")
    cases = [
        (tmp_path / "none", start, "no such checkpoint"),
        (checkpoint, tmp_path, "no config.json"),
        (checkpoint, start, "cannot"),
    ]
    for folder, model, message in cases:
        assert main(["export", str(folder), str(tmp_path / "out"), "--model", str(model)]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


class Processor:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "processor").touch()


def export_sharded(folder: Path) -> dict[str, Any]:
    parallel = parallel_named("fsdp", RECIPE, device="cpu")
    model = new_model()
    with frozen(model, RECIPE.frozen):
        wrapped = parallel.wrap(model)
    export(folder, wrapped, Processor(), parallel)
    weights = whole_weights(wrapped)
    parallel.close()
    return weights


def test_a_sharded_model_is_exported_whole(tmp_path: Path) -> None:
    weights, _ = run_in_processes(export_sharded, tmp_path / "model")
    loaded = type(new_model()).from_pretrained(tmp_path / "model", dtype=torch.float64).state_dict()
    assert (tmp_path / "model" / "processor").exists()
    assert weights
    for name, value in weights.items():
        assert torch.equal(loaded[name], torch.from_numpy(value)), name
