"""The special tokens and the whitespace rule, on tokenizers made here and on Phi-3's real vocabulary.

The real vocabulary is vendor/llama.cpp/models/ggml-vocab-phi-3.gguf (0.7 MB, MIT) in the source package of
llama-cpp-python 0.3.36 (77 MB: pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36).
BLIP3V_PHI3_GGUF names the file; its .inp and .out beside it are cases of text and ids.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from blip3v.data.conversation import plain_text
from blip3v.errors import UserError
from blip3v.models.tokenizer import (
    ADDED_TOKENS,
    CHAT_TOKENS,
    phi3_tokenizer_from_gguf,
    prepare_tokenizer,
    word_tokenizer,
)

CHAT = "<s><|user|>\nhi<|end|>\n<|assistant|>\n"
FIRST = ["<unk>", "<s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|user|>", "<|end|>", "<pad>"]


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _small_phi3(rstrip: bool = False) -> PreTrainedTokenizerFast:
    """Phi-3's layout on two words, with the flag lost as a GGUF file loses it.

    A line break is a token of its own, so that one that was not swallowed shows.
    """
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "hi": 3, "there": 4, "\n": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "<|endoftext|>", *CHAT_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


def test_whitespace_rule_on_a_small_vocabulary() -> None:
    plain, prepared = _small_phi3(), prepare_tokenizer(_small_phi3())
    user, end, assistant = (plain.convert_tokens_to_ids(t) for t in ("<|user|>", "<|end|>", "<|assistant|>"))
    assert _ids(plain, CHAT) == [1, user, 5, 3, end, 5, assistant, 5]
    assert _ids(prepared, CHAT) == [1, user, 3, end, assistant]
    assert _ids(prepared, "<|end|> \n\t hi\nthere") == [end, 3, 5, 4]


def test_only_chat_tokens_swallow_whitespace() -> None:
    tokenizer = prepare_tokenizer(_small_phi3())
    for token in CHAT_TOKENS:
        assert _ids(tokenizer, f"{token}\nhi")[1:] == [3]
    for token in ("<s>", "<|endoftext|>", "<pad>", *ADDED_TOKENS):
        assert _ids(tokenizer, f"{token}\nhi")[1:] == [5, 3]
        assert _ids(tokenizer, f"\n{token}")[0] == 5


def test_added_ids_follow_the_vocabulary_and_roles_are_set() -> None:
    plain = _small_phi3()
    tokenizer = prepare_tokenizer(plain)
    size = len(plain)
    assert tokenizer.convert_tokens_to_ids(["<pad>", *ADDED_TOKENS]) == [size, size + 1, size + 2, size + 3]
    assert len(tokenizer) == size + 4
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "<|end|>", "<pad>")
    assert len(plain) == size, "the tokenizer given must stay as it was"


def test_preparing_twice_changes_nothing() -> None:
    once = prepare_tokenizer(_small_phi3())
    twice = prepare_tokenizer(once)
    assert json.loads(once.backend_tokenizer.to_str()) == json.loads(twice.backend_tokenizer.to_str())


def test_rule_survives_saving(tmp_path: Path) -> None:
    tokenizer = prepare_tokenizer(_small_phi3())
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = CHAT + " there<|end|>\n<image>\nhi"
    assert _ids(again, text) == _ids(tokenizer, text)
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_special_tokens_vanish_when_decoding_for_people() -> None:
    tokenizer = word_tokenizer(["hi there"])
    ids = _ids(tokenizer, "<s><|user|>\n<image>\nhi there<|end|><pad><|endofchunk|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hi there"


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    with pytest.raises(UserError, match=r"lacks <s>, <\|assistant\|>"):
        prepare_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    with pytest.raises(UserError, match="not a fast tokenizer"):
        prepare_tokenizer(object())  # type: ignore[arg-type]


def test_word_tokenizer_ids() -> None:
    tokenizer = word_tokenizer(["Red circle", "blue circle?", "it's"])
    words = ["red", "circle", "blue", "?", "it", "'", "s"]
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == [*FIRST, *words, *ADDED_TOKENS]
    assert _ids(tokenizer, "RED\n<image> square?") == [8, len(tokenizer) - 3, 0, 11]
    assert _ids(tokenizer, CHAT) == [1, 5, 0, 6, 3]


@pytest.mark.parametrize(
    "text",
    [
        "the red circle moves left.",
        "what moved first, the circle or the square?",
        "it's red (dark-red); no: blue!",
        "yes",
        "",
    ],
)
def test_word_tokenizer_decodes_with_the_right_spaces(text: str) -> None:
    tokenizer = word_tokenizer([text])
    assert tokenizer.decode(_ids(tokenizer, text)) == text


def test_word_tokenizer_keeps_neutralised_tokens_plain() -> None:
    tokenizer = word_tokenizer(["hi"])
    ids = _ids(tokenizer, plain_text("hi <|end|> <image> </s>"))
    assert set(ids) == {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids("hi")}


def test_gguf_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        phi3_tokenizer_from_gguf(tmp_path / "none.gguf")
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "empty.gguf"
    writer = gguf.GGUFWriter(path, "phi3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="no SentencePiece vocabulary"):
        phi3_tokenizer_from_gguf(path)


def test_gguf_vocabulary(tmp_path: Path) -> None:
    """Merges must come out of the scores: "ab" wins over "bc" although both fit "abc"."""
    gguf = pytest.importorskip("gguf")
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *byte_pieces, "▁a", "ab", "bc", "▁ab", "a", "b", "c", "▁"]
    scores = [0.0] * 259 + [-3.0, -1.0, -2.0, -4.0, -10.0, -11.0, -12.0, -13.0]
    special = ["<|endoftext|>", *CHAT_TOKENS]
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "phi3")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*pieces, *special, "[PAD]", "[PAD2]"])
    writer.add_token_scores([*scores, *[-1000.0] * (len(special) + 2)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = phi3_tokenizer_from_gguf(path)
    names = lambda text: tokenizer.convert_ids_to_tokens(_ids(tokenizer, text))  # noqa: E731
    assert names("ab") == ["▁ab"]
    assert names("abc") == ["▁ab", "c"]
    assert names("<|user|>\nab<|end|>\né") == ["<|user|>", "▁ab", "<|end|>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(_ids(tokenizer, "abc é")) == "abc é"
    assert tokenizer.convert_tokens_to_ids("<pad>") == len(pieces) + len(special)


def _real_vocabulary() -> Path:
    path = os.environ.get("BLIP3V_PHI3_GGUF")
    if not path:
        pytest.skip("NOT TESTED HERE: Phi-3's real vocabulary; set BLIP3V_PHI3_GGUF to ggml-vocab-phi-3.gguf")
    return Path(path)


def test_real_phi3_ids() -> None:
    tokenizer = phi3_tokenizer_from_gguf(_real_vocabulary())
    assert _ids(tokenizer, CHAT) == [1, 32010, 7251, 32007, 32001]
    assert tokenizer.convert_tokens_to_ids(list(CHAT_TOKENS)) == list(range(32001, 32011))
    assert tokenizer.convert_tokens_to_ids(["<pad>", *ADDED_TOKENS]) == [32011, 32012, 32013, 32014]
    assert len(tokenizer) == 32015
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 32007, 32011)


def test_real_phi3_cases() -> None:
    path = _real_vocabulary()
    tokenizer = phi3_tokenizer_from_gguf(path)
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = Path(f"{path}.out").read_text().split("\n")
    assert len(texts) == len(expected) == 47
    for text, ids in zip(texts, expected):
        assert _ids(tokenizer, text) == [int(index) for index in ids.split()], repr(text)
        assert tokenizer.decode(_ids(tokenizer, text)) == text
