from __future__ import annotations

import torch
from torch.testing import assert_close

from blip3v.models.temporal.time_stamp import TimeStamp


def test_codes_are_the_formula(formulas):
    expected = torch.stack([formulas.time_stamp(t, 10) for t in range(3, 12)])
    assert_close(TimeStamp(10)(first=3, frames=9).double(), expected, rtol=1e-5, atol=2e-6)


def test_every_token_of_a_frame_gets_the_code_of_its_frame(formulas, normal):
    x = normal(2, 3, 4, 6)
    stamped = TimeStamp(6).stamp(x, first=5)
    for t in range(3):
        expected = formulas.time_stamp(5 + t, 6).expand(2, 4, 6)
        assert_close(stamped[:, t] - x[:, t], expected, rtol=1e-5, atol=2e-6)


def test_frequencies_are_stored_under_the_published_name():
    state = TimeStamp(1152).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {"inv_freq": (576,)}
    assert state["inv_freq"][0] == 1
    assert not list(TimeStamp(8).parameters())


def test_reset_fills_a_module_made_on_the_meta_device():
    with torch.device("meta"):
        stamp = TimeStamp(8)
    stamp = stamp.to_empty(device="cpu")
    stamp.reset_parameters()
    assert torch.equal(stamp.inv_freq, TimeStamp(8).inv_freq)


def test_low_precision_models_keep_their_dtype_and_tell_late_frames_apart():
    stamp = TimeStamp(8).bfloat16()
    out = stamp.stamp(torch.zeros(1, 64, 1, 8, dtype=torch.bfloat16))[0, :, 0]
    assert out.dtype == torch.bfloat16
    assert len(out.unique(dim=0)) == 64
