"""The decoupled vocabulary around Phi-3: against formulas, and against transformers' own causal model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Phi3Config, Phi3ForCausalLM

from blip3v import blip3_video_tiny
from blip3v.models.language import LanguageModel

BASE, ADDED, PADDED = 50, 3, 64
"""Text tokens, added tokens, rows of Phi-3's matrices (more than its tokens, as in the 4B model)."""


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    config = blip3_video_tiny(base_vocab_size=BASE, image_token_id=BASE)
    config.text_config = Phi3Config(
        vocab_size=PADDED,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=2,
    )
    model = LanguageModel(config).double().eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model


def ids(*shape: int) -> Tensor:
    return torch.randint(0, BASE, shape, generator=torch.Generator().manual_seed(1))


def test_embedding_of_old_and_added_tokens() -> None:
    model = language_model()
    tokens = torch.tensor([[0, BASE - 1, BASE, 7], [BASE + 2, 1, BASE + 1, BASE + 2]])
    found = model.embed(tokens)
    for row in range(2):
        for column in range(4):
            token = int(tokens[row, column])
            table = model.model.embed_tokens if token < BASE else model.additional_embedding
            assert torch.equal(found[row, column], table.weight[token if token < BASE else token - BASE])


def test_embedding_gradients_reach_only_the_rows_that_were_read() -> None:
    model = language_model()
    model.embed(torch.tensor([[3, BASE + 1, 3]])).sum().backward()
    base, added = model.model.embed_tokens.weight.grad, model.additional_embedding.weight.grad
    assert base[3].eq(2).all()
    assert base.abs().sum() == base[3].abs().sum()
    assert added[1].eq(1).all()
    assert added.abs().sum() == added[1].abs().sum()


def test_logits_are_the_text_columns_of_the_head_then_the_added_ones() -> None:
    model = language_model()
    hidden = torch.randn(2, 3, 32, dtype=torch.float64)
    found = model.logits(hidden)
    assert found.shape == (2, 3, BASE + ADDED)
    for column in range(BASE + ADDED):
        head, row = (model.lm_head, column) if column < BASE else (model.additional_fc, column - BASE)
        expected = (hidden * head.weight[row]).sum(dim=-1) + head.bias[row]
        torch.testing.assert_close(found[..., column], expected, rtol=0, atol=1e-12)


def test_text_only_logits_are_those_of_phi3() -> None:
    model = language_model()
    original = Phi3ForCausalLM(model.model.config).double().eval()
    original.model.load_state_dict(model.model.state_dict())
    original.lm_head.weight.data.copy_(model.lm_head.weight)
    model.lm_head.bias.data.zero_()  # Phi-3's own head has none
    tokens, mask = ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    with torch.no_grad():
        hidden = model(model.embed(tokens), attention_mask=mask).last_hidden_state
        found, expected = model.logits(hidden), original(input_ids=tokens, attention_mask=mask).logits
    real = mask.bool()
    torch.testing.assert_close(found[..., :BASE][real], expected[..., :BASE][real], rtol=0, atol=1e-12)


def test_keys_and_values_kept_between_calls_change_nothing() -> None:
    model = language_model()
    embedded = model.embed(ids(1, 8))
    with torch.no_grad():
        whole = model(embedded).last_hidden_state
        first = model(embedded[:, :5], use_cache=True)
        second = model(embedded[:, 5:], past_key_values=first.past_key_values)
    parts = torch.cat([first.last_hidden_state, second.last_hidden_state], dim=1)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
