from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from blip3v.train.checkpoint.storage import DTYPES, SafetensorsReader, write_safetensors


def test_the_library_reads_every_dtype_and_shape(tmp_path: Path) -> None:
    tensors = {}
    for name, dtype in DTYPES.items():
        for shape in ((), (0,), (3,), (2, 0, 3), (5, 3)):
            tensors[f"{name}{shape}"] = (torch.rand(shape) * 9).to(dtype)
    tensors["strided"] = torch.rand(4, 6)[::2, 1::2].t()
    chunks = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    path = tmp_path / "x.safetensors"
    write_safetensors(path, chunks, iter(tensors.values()))
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        stored, given = (x.reshape(-1).view(torch.uint8) for x in (found[name], tensor.contiguous()))
        assert torch.equal(stored, given)
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_slice("F32(5, 3)")[1:3, 2:], tensors["F32(5, 3)"][1:3, 2:])


def test_what_was_not_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a is torch\.float32 \[2\], planned torch\.float32 \[3\]"):
        write_safetensors(tmp_path / "x", {"a": (torch.float32, torch.Size([3]))}, iter([torch.zeros(2)]))


@pytest.mark.parametrize("name", ["../rank-00000.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    chunk = {"file": name, "offsets": [0], "sizes": [2]}
    index = {"model.w": {"dtype": "F32", "size": [2], "chunks": [chunk]}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no file of its folder"):
        SafetensorsReader(tmp_path).read_metadata()
