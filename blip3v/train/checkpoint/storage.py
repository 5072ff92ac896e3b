"""Storage for torch.distributed.checkpoint in safetensors and JSON.

torch's own safetensors storage takes the size of a tensor from the chunks that it finds, so a lost file is
not always noticed; its other storages pickle their index. Here every rank writes its chunks into
`rank-00000.safetensors`, and the first rank writes `index.json`, which says of every tensor its dtype, its
size and where its chunks lie. Nothing is pickled into a file or unpickled from one.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

INDEX = "index.json"
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The names of the safetensors format."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class PartsPlanner(DefaultSavePlanner):
    """Plans from the tensors as they are spread over ranks, and has this rank's `parts` of them written.

    So the parts may be copies, made while the tensors themselves go on changing.
    """

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._parts = parts

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self._parts[index.fqn]


class SafetensorsWriter(StorageWriter):
    """Writes one checkpoint.

    Args:
        folder: where, the same for all ranks.
        rank: of this process.
        begin: makes the folder; called by the first rank before anything is written.
        commit: makes the folder a checkpoint; called by the first rank when all ranks have written.
    """

    def __init__(self, folder: Path, rank: int, begin: Callable[[], Any], commit: Callable[[], Any]) -> None:
        self.folder, self.rank, self.begin, self.commit = folder, rank, begin, commit

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between checkpoints."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            self.begin()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's chunks and flush them; one tensor at a time is in memory more than was before.

        Raises:
            OSError: the disk refuses.
            TypeError: something in the plan is no tensor.
        """
        results: list[WriteResult] = []
        name = f"rank-{self.rank:05d}.safetensors"
        chunks: dict[str, tuple[torch.dtype, torch.Size]] = {}
        for item in plan.items:
            if item.tensor_data is None:
                raise TypeError(f"{item.index.fqn} is no tensor; a checkpoint holds tensors only")
            if item.index.fqn in chunks:
                raise TypeError(f"{item.index.fqn} has two chunks on rank {self.rank}; only one is supported")
            chunks[item.index.fqn] = (item.tensor_data.properties.dtype, item.tensor_data.chunk.sizes)
            results.append(WriteResult(item.index, 0, name))
        if chunks:
            tensors = (planner.resolve_data(item) for item in plan.items)
            write_safetensors(self.folder / name, chunks, tensors)  # type: ignore[arg-type]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index of all ranks' chunks and commit the checkpoint."""
        files = {
            (result.index.fqn, result.index.offset): result.storage_data
            for part in results
            for result in part
        }
        tensors = {}
        for name, stored in metadata.state_dict_metadata.items():
            assert isinstance(stored, TensorStorageMetadata)
            tensors[name] = {
                "dtype": _NAMES[stored.properties.dtype],
                "size": list(stored.size),
                "chunks": [
                    {
                        "file": files[name, chunk.offsets],
                        "offsets": list(chunk.offsets),
                        "sizes": list(chunk.sizes),
                    }
                    for chunk in stored.chunks
                ],
            }
        (self.folder / INDEX).write_text(json.dumps(tensors), encoding="utf-8")
        self.commit()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


class SafetensorsReader(StorageReader):
    """Reads what `SafetensorsWriter` wrote, each rank the chunks that it needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between checkpoints."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index.

        Raises:
            OSError: no such file.
            ValueError: not an index.
        """
        tensors: dict[str, Any] = {}
        files: dict[MetadataIndex, str] = {}
        for name, stored in json.loads((self.folder / INDEX).read_text(encoding="utf-8")).items():
            chunks = []
            for chunk in stored["chunks"]:
                offsets = torch.Size(chunk["offsets"])
                chunks.append(ChunkStorageMetadata(offsets, torch.Size(chunk["sizes"])))
                # Somebody else's index must not have us open files elsewhere.
                if Path(chunk["file"]).name != chunk["file"]:
                    raise ValueError(f"{INDEX} names {chunk['file']}, which is no file of its folder")
                files[MetadataIndex(name, offsets)] = chunk["file"]
            properties = TensorProperties(dtype=DTYPES[stored["dtype"]])
            tensors[name] = TensorStorageMetadata(properties, torch.Size(stored["size"]), chunks)
        return Metadata(tensors, storage_data=files)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        self._files: dict[MetadataIndex, str] = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy the stored stretches into the tensors of the plan, on whatever device they are."""
        per_file = defaultdict(list)
        for item in plan.items:
            per_file[self._files[item.storage_index]].append(item)
        for name, items in per_file.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for item in items:
                    key = item.storage_index.fqn
                    stretch = tuple(
                        slice(start, start + length)
                        for start, length in zip(item.storage_offsets, item.lengths, strict=True)
                    )
                    # A slice reads its own bytes only; a tensor without dimensions has none to slice.
                    part = file.get_slice(key)[stretch] if stretch else file.get_tensor(key)
                    planner.resolve_tensor(item).detach().copy_(part)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def write_safetensors(
    path: Path, chunks: dict[str, tuple[torch.dtype, torch.Size]], tensors: Iterator[Tensor]
) -> None:
    """Write tensors, given as their dtypes and sizes by name and then one by one in the same order.

    The safetensors library wants all tensors at once and copies them; this needs memory for one.
    Format: u64 length of the header, the header as JSON, the tensors' bytes without gaps.
    """
    header, end = {}, 0
    for name, (dtype, size) in chunks.items():
        begin, end = end, end + size.numel() * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(size), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, (dtype, size)), tensor in zip(chunks.items(), tensors, strict=True):
            if tensor.dtype != dtype or tensor.shape != size:
                raise TypeError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)}, planned {dtype} {list(size)}"
                )
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            if len(flat):
                file.write(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
