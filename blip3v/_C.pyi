from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    compiler: str
    with_cuda: bool
    cuda_version: str | None
    cuda_archs: tuple[str, ...]
    cutlass_version: str | None

class Device(TypedDict):
    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    multiprocessors: int

def build_info() -> BuildInfo: ...
def driver_version() -> str: ...
def device_count() -> int: ...
def devices() -> list[Device]: ...
def self_test(device: int = 0) -> str: ...
