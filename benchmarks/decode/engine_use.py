"""How busy a GPU's video decoder engines are while something runs, as nvidia-smi sees it.

Has never run on a GPU; the tests have a script in nvidia-smi's place.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

EVERY_MS = 100


def engine_use(call: Callable[[], object], device: str, seconds: float = 1.0) -> float | None:
    """Mean share of time, 0 to 1, in which the decoder engines worked while `call` was repeated.

    nvidia-smi gives a mean over all engines of the GPU, of the last sixth of a second to a second, so the
    call is repeated for `seconds` and the first samples do not count.

    Args:
        device: "cpu", "cuda" or "cuda:1".

    Returns:
        None on a CPU, or where nvidia-smi does not say.
    """
    if not device.startswith("cuda"):
        return None
    number = device.partition(":")[2] or "0"
    query = ["nvidia-smi", "--query-gpu=utilization.decoder", "--format=csv,noheader,nounits"]
    try:
        sampler = subprocess.Popen(
            [*query, f"--id={number}", f"--loop-ms={EVERY_MS}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            call()
    finally:
        sampler.terminate()
        output, _ = sampler.communicate()
    samples = [int(line) for line in output.split() if line.isdigit()]
    samples = samples[len(samples) // 2 :]
    return sum(samples) / len(samples) / 100 if samples else None
