"""Samples one behind the other in one row, so that no token is computed for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip3v.data.records import Record

IGNORE = -100
"""The label of positions that the loss leaves out."""


def pack(samples: Sequence[Mapping[str, Tensor]], pad_id: int = 0, multiple: int = 1) -> dict[str, Any]:
    """Join conversations into one row; each stays a segment of its own, with its own positions from 0.

    Args:
        samples: at least one, each with "input_ids" and "labels", int64 [L_i], labels not shifted.
        pad_id: fills the row up.
        multiple: the row's length becomes a multiple of this; what is filled up is one more segment, without
            labels. 1 fills nothing.

    Returns:
        L is the length of the row, n the number of its segments, k the number of tokens with a label:
        input_ids, position_ids: int64 [1, L].
        cu_seqlens: int32 [n + 1], where each segment begins, and L.
        max_seqlen: length of the longest segment, an int, because a kernel's launch needs it on the host.
        logits_to_keep: int64 [k], the places whose next token has a label.
        shift_labels: int64 [1, k], those labels. The first token of a segment is predicted by nothing, so its
            label counts for nothing.
    """
    rows = [sample["input_ids"] for sample in samples]
    targets = [sample["labels"][1:] for sample in samples]
    missing = -sum(map(len, rows)) % multiple
    if missing:
        rows.append(rows[0].new_full((missing,), pad_id))
    lengths = [len(row) for row in rows]
    starts = np.cumsum([0, *lengths])
    places = [(target != IGNORE).nonzero().flatten() for target in targets]
    found = [target[place] for target, place in zip(targets, places, strict=True)]
    return {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seqlens": torch.from_numpy(starts.astype(np.int32)),
        "max_seqlen": max(lengths),
        "logits_to_keep": torch.cat(
            [place + int(start) for place, start in zip(places, starts, strict=False)]
        ),
        "shift_labels": torch.cat(found)[None],
    }


def count_labels(batch: Mapping[str, Any]) -> int:
    """How many labels of a padded or packed batch the loss is the mean of."""
    labels = batch["shift_labels"] if "shift_labels" in batch else batch["labels"][:, 1:]
    return int((labels != IGNORE).sum())


def count_tokens(batch: Mapping[str, Any]) -> int:
    """Tokens that the language model computes for a batch, with its padding."""
    return int(batch["input_ids"].numel())


def estimate_lengths(
    records: Iterable[Record], video_tokens: int, prompt_tokens: int = 39, characters_per_token: float = 4.0
) -> np.ndarray:
    """Tokens of each record's sample, guessed without a tokenizer, int64 [records].

    Meant for sharing samples among devices, where a few tokens more or less do not matter. On conversations
    of short answers and of English prose, with Phi-3's vocabulary, it is 7% off in the mean and 18% at the
    95th percentile, and 0.985 correlated with the true lengths. A language without spaces has fewer
    characters per token. Samples are cut at the recipe's max_length; the estimate is not.

    Args:
        records: conversations.
        video_tokens: tokens that a video becomes.
        prompt_tokens: of BOS, the system message and the marks of the first turn.
        characters_per_token: of the text; English with Phi-3's tokenizer has about 4.
    """
    characters, fixed = [], []
    for record in records:
        characters.append(sum(len(question) + len(answer) for question, answer in record.turns))
        # Each further turn has its own <|user|>, <|assistant|>, two <|end|> and line breaks.
        fixed.append(
            prompt_tokens + 4 * (len(record.turns) - 1) + (0 if record.media is None else video_tokens)
        )
    return np.array(fixed, dtype=np.int64) + np.ceil(np.array(characters) / characters_per_token).astype(
        np.int64
    )
