from __future__ import annotations

import pytest
import torch

from blip3v.errors import UserError
from blip3v.models.fp8.check import check_gpu


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match=r"8\.9 or newer.*8\.0"):
        check_gpu(torch.device("cuda", 7))


@pytest.mark.gpu
def test_this_gpu_computes_fp8() -> None:
    device = torch.device("cuda", 0)
    if torch.cuda.get_device_capability(device) < (8, 9):
        pytest.skip("a GPU without FP8")
    check_gpu(device)
