"""Video tokens and text -> logits: what Phi-3 computes, and the keys and values that it keeps."""

from __future__ import annotations

from collections.abc import Iterable

from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.cost.work import Work, attention, linear, norms


def _head_widths(config: Blip3VideoConfig) -> tuple[int, int]:
    """Channels of all query heads, and of all key heads."""
    text = config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_attention_heads * width, text.num_key_value_heads * width


def _layers(config: Blip3VideoConfig, rows: int, pairs: int) -> Work:
    text = config.text_config
    dim, inner = text.hidden_size, text.intermediate_size
    queries, keys = _head_widths(config)
    layer = (
        norms(2, dim, bias=False)
        + linear(rows, dim, queries + 2 * keys)
        + attention(pairs, queries)
        + linear(rows, queries, dim)
        + linear(rows, dim, 2 * inner)  # gate and up
        + linear(rows, inner, dim)
    )
    return layer * text.num_hidden_layers + norms(1, dim, bias=False)


def _head(config: Blip3VideoConfig, rows: int) -> Work:
    """All columns of the head are computed; those of unused ids are cut off afterwards."""
    dim = config.text_config.hidden_size
    columns = config.text_config.vocab_size + config.additional_vocab_size
    return linear(rows, dim, columns, bias=True)


def visible_pairs(tokens: int, window: int | None) -> int:
    """Pairs of a query and a key that it may see: itself and those before it, `window` in all at most."""
    seen = min(tokens, window or tokens)
    return seen * (seen + 1) // 2 + (tokens - seen) * seen


def forward(config: Blip3VideoConfig, tokens: int, batch: int = 1, logits: int | None = None) -> Work:
    """The language model over `tokens` tokens at once, with logits for `logits` of them (None: for all).

    Attention is causal, inside the configuration's sliding window: what a mask hides is not counted, though
    implementations that take any mask compute it.
    """
    logits = tokens if logits is None else logits
    return forward_each(config, [tokens] * batch, batch * logits)


def forward_each(config: Blip3VideoConfig, lengths: Iterable[int], logits: int) -> Work:
    """The language model over texts of `lengths` tokens, none of which sees another; `logits` places in all.

    Whether they lie in padded rows or in one packed row makes no difference here: padding is not counted.
    """
    lengths = list(lengths)
    dim, window = config.text_config.hidden_size, config.text_config.sliding_window
    columns = config.base_vocab_size + config.additional_vocab_size
    tokens, pairs = sum(lengths), sum(visible_pairs(length, window) for length in lengths)
    work = _layers(config, tokens, pairs) + _head(config, logits)
    return work.moving(tokens * dim + logits * columns)


def prefill(config: Blip3VideoConfig, tokens: int, batch: int = 1) -> Work:
    """The prompt at once: keys and values of all tokens are written, logits of the last one suffice."""
    kept = batch * cached_tokens(config, tokens) * values_per_token(config)
    return forward(config, tokens, batch, logits=1).moving(kept)


def decode_step(config: Blip3VideoConfig, context: int, batch: int = 1) -> Work:
    """One more token behind `context` earlier ones: their kept keys and values are read once."""
    window = config.text_config.sliding_window
    seen = min(context + 1, window or context + 1)
    work = _layers(config, batch, batch * seen) + _head(config, batch)
    columns = config.base_vocab_size + config.additional_vocab_size
    return work.moving(batch * (config.text_config.hidden_size + columns + seen * values_per_token(config)))


def values_per_token(config: Blip3VideoConfig) -> int:
    """Keys and values of one token in all layers."""
    return 2 * _head_widths(config)[1] * config.text_config.num_hidden_layers


def cached_tokens(config: Blip3VideoConfig, tokens: int) -> int:
    """Tokens whose keys and values are kept: a token sees itself and window - 1 earlier ones."""
    window = config.text_config.sliding_window
    return tokens if window is None else min(tokens, window - 1)


def cache_bytes(config: Blip3VideoConfig, tokens: int, batch: int = 1, value_bytes: int = 2) -> int:
    """Bytes of the key/value cache behind `tokens` tokens."""
    return batch * cached_tokens(config, tokens) * values_per_token(config) * value_bytes


def embedding_weights(config: Blip3VideoConfig) -> int:
    """Parameters of both embedding tables, of which a prompt reads a few rows."""
    return (config.text_config.vocab_size + config.additional_vocab_size) * config.text_config.hidden_size
