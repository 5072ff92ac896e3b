"""Tokenizers with the special tokens and the whitespace rule of BLIP-3-Video.

Phi-3's chat tokens swallow the whitespace on their right, so "<|user|>\\nhi" and "<|user|>hi" are the same
ids. The flag is easily lost (a GGUF file has no place for it), and a model asked with stray line breaks
answers worse without any error; `prepare_tokenizer` sets it again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from blip3v.errors import UserError

UNK, BOS, END_OF_TEXT, PAD = "<unk>", "<s>", "<|endoftext|>", "<pad>"
ASSISTANT, SYSTEM, USER, END = "<|assistant|>", "<|system|>", "<|user|>", "<|end|>"
IMAGE = "<image>"
ADDED_TOKENS = (IMAGE, "<image placeholder>", "<|endofchunk|>")
"""The additional vocabulary, in the order of its ids: 32012 to 32014 behind Phi-3."""

CHAT_TOKENS = (
    ASSISTANT,
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    SYSTEM,
    END,
    "<|placeholder5|>",
    "<|placeholder6|>",
    USER,
)
"""Phi-3's ids 32001 to 32010: these swallow the whitespace on their right."""


def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy of a Phi-3-like fast tokenizer, ready for the model.

    Chat tokens get `rstrip`; `<pad>` and then the three of `ADDED_TOKENS` go behind the last id where they
    are missing (ids 32011 and 32012 to 32014 on Phi-3's vocabulary); the roles are bos `<s>`, eos `<|end|>`
    (what ends an answer), pad `<pad>`. Preparing twice changes nothing.

    Raises:
        UserError: a slow tokenizer, or one without Phi-3's chat tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} is not a fast tokenizer; load it with AutoTokenizer")
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (UNK, BOS, ASSISTANT, SYSTEM, USER, END) if token not in vocabulary]
    if missing:
        raise UserError(f"the tokenizer lacks {', '.join(missing)}; use the tokenizer of a Phi-3 chat model")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token for token in state["added_tokens"]}
    next_id = max(vocabulary.values()) + 1
    for content in (UNK, BOS, END_OF_TEXT, *CHAT_TOKENS, PAD, *ADDED_TOKENS):
        if content not in vocabulary:
            if content not in (PAD, *ADDED_TOKENS):
                continue
            vocabulary[content] = next_id
            next_id += 1
        added[content] = _special_token(content, vocabulary[content])
    state["added_tokens"] = sorted(added.values(), key=lambda token: token["id"])
    return _with_roles(Tokenizer.from_str(json.dumps(state)), tokenizer.model_max_length)


def _special_token(content: str, index: int) -> dict[str, Any]:
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": content in CHAT_TOKENS,
        "normalized": False,
        "special": True,
    }


def _with_roles(backend: Tokenizer, model_max_length: int) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for small models: lower case, every punctuation mark a token of its own.

    Ids: `<unk> <s> <|endoftext|> <|assistant|> <|system|> <|user|> <|end|> <pad>` are 0 to 7, then the words
    in the order given (repeats left out), then `ADDED_TOKENS`. Words outside the list become `<unk>`.
    Decoding joins with spaces, but not before `.,;:!?)`, nor after `(`, nor around an apostrophe or hyphen.

    Args:
        words: texts or single words; they are split as any text is.
    """
    normalizer = normalizers.Lowercase()
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    order = [UNK, BOS, END_OF_TEXT, ASSISTANT, SYSTEM, USER, END, PAD]
    for text in words:
        order += [piece for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(order))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.Sequence(
        [
            # Every token carries its space in front; the seams of punctuation lose it again once all is one
            # string.
            decoders.Replace(Regex("^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r" (?=[.,;:!?)'-])|(?<=[('-]) "), ""),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNK, bos_token=BOS))


def phi3_tokenizer_from_gguf(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """Phi-3's tokenizer, prepared, from the vocabulary inside a GGUF file; its weights are not read.

    GGUF stores pieces with scores as SentencePiece does; byte-pair merges follow from them: every way to
    split a piece into two pieces is a merge, ranked by the score of the piece.

    Raises:
        UserError: no such file, or it holds no SentencePiece vocabulary.
    """
    if not os.path.isfile(path):
        raise UserError(f"no such file: {path}; give a GGUF file of a Phi-3 model")
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError("reading GGUF files needs the gguf package; run: pip install gguf") from error
    fields = GGUFReader(path).fields
    if "tokenizer.ggml.tokens" not in fields or fields["tokenizer.ggml.model"].contents() != "llama":
        raise UserError(f"{path} holds no SentencePiece vocabulary; give a GGUF file of a Phi-3 model")
    pieces = fields["tokenizer.ggml.tokens"].contents()
    scores = fields["tokenizer.ggml.scores"].contents()
    # The chat tokens stand behind the pieces, and behind them rows that only fill the matrix up to 32064.
    first_chat = pieces.index(END_OF_TEXT)
    vocabulary = {piece: index for index, piece in enumerate(pieces[:first_chat])}
    backend = Tokenizer(
        models.BPE(vocabulary, _merges(vocabulary, scores), unk_token=UNK, fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([UNK, BOS, END_OF_TEXT, *CHAT_TOKENS])
    return prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=UNK, bos_token=BOS))


def _merges(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """All splits of every piece into two pieces, best score first, ties in the order of their ids."""
    ranked = []
    for piece, index in vocabulary.items():
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        for left, right in splits:
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[index], vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]
