from __future__ import annotations

import pytest
import torch

from blip3v.demo.model import FRAMES, STAGE1_WEIGHTS, demo_config, demo_model, demo_processor, stage1_weights


@pytest.mark.parametrize(
    ("encoder", "tokens"), [("token_learner", 32), ("grouped_ttm", 32), ("mean_pool", 16)]
)
def test_everything_but_the_temporal_encoder_comes_from_stage_1(encoder: str, tokens: int) -> None:
    model, stored = demo_model(encoder, tokens, seed=0), stage1_weights()
    for name, tensor in model.state_dict().items():
        if ".temporal_encoder." in name:
            assert name not in stored
        else:
            torch.testing.assert_close(tensor, stored[name], rtol=0, atol=0)
    assert demo_processor(model.config).video_tokens_for(FRAMES) == tokens


def test_a_file_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = stage1_weights()
    stored.pop("vision_tokenizer.norm.weight")
    monkeypatch.setattr("blip3v.demo.model.stage1_weights", lambda: stored)
    with pytest.raises(RuntimeError, match=rf"{STAGE1_WEIGHTS} does not fit"):
        demo_model("mean_pool", 16, seed=0)


def test_the_processor_cuts_nothing_of_the_vocabulary() -> None:
    config = demo_config("token_learner", 32)
    assert demo_processor(config).image_token_id == config.image_token_id == config.base_vocab_size
