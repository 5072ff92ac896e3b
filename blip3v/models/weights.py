"""Released checkpoints: the names of their tensors <-> the names here, without a network and without pickle.

A released model is a folder of safetensors shards, with or without model.safetensors.index.json. Every name
begins with `vlm.`; behind it only the resampler and the added vocabulary are filed differently than here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open

from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig, blip3_video_4b
from blip3v.models.modeling import Blip3VideoForConditionalGeneration

PREFIX = "vlm."
INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# (published, here), longest first: the first pair that begins a name renames it.
_RENAMED = (
    ("lang_model.model.embed_tokens.additional_embedding.", "lang_model.additional_embedding."),
    ("lang_model.lm_head.additional_fc.", "lang_model.additional_fc."),
    ("vision_tokenizer.latents", "vision_tokenizer.resampler.latents"),
    ("vision_tokenizer.layers.", "vision_tokenizer.resampler.layers."),
)

Shapes = Mapping[str, Sequence[int]]


def to_published(name: str) -> str:
    """Our name of a tensor -> its published name."""
    for published, here in _RENAMED:
        if name.startswith(here):
            return PREFIX + published + name[len(here) :]
    return PREFIX + name


def released_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor in a released folder; reads the headers of the shards only.

    Raises:
        UserError: no such folder, no safetensors in it, a shard missing or broken, a tensor in two shards.
    """
    with ExitStack() as stack:
        return {name: tuple(s.get_shape()) for name, s in _open_slices(_shards(Path(folder)), stack).items()}


def config_from_keys(shapes: Shapes, like: Blip3VideoConfig | None = None) -> Blip3VideoConfig:
    """The configuration that a released checkpoint was made with, read from its names and shapes.

    Depths, widths, vocabulary, latents, temporal encoder, its token count and slots come from the tensors.
    What no tensor shows (number of frames, attention heads, rope, special ids) is taken from `like`, the
    published 4B by default. Names cannot tell parameter-free encoders from "none", nor a per-frame
    TokenLearner from the one over all frames: give `load_released` a config to mean the other.

    Args:
        shapes: published name -> shape, see `released_shapes`. Absent names leave the value of `like`.

    Raises:
        UserError: tensors of a temporal encoder without published form.
    """
    like = like or blip3_video_4b()
    fields = like.to_dict()
    vision, text = fields["vision_config"], fields["text_config"]
    _read_vision(shapes, vision)
    _read_resampler(shapes, fields)
    _read_temporal(shapes, fields)
    _read_text(shapes, text)
    for name in ("vlm.lang_model.lm_head.additional_fc.weight", f"{_EMBED}additional_embedding.weight"):
        if name in shapes:
            fields["additional_vocab_size"] = shapes[name][0]
    return Blip3VideoConfig(**fields)


def load_released(
    folder: str | Path,
    config: Blip3VideoConfig | None = None,
    torch_dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> Blip3VideoForConditionalGeneration:
    """The model of a released folder, in evaluation mode.

    Names and shapes are compared before any weight is read; then each tensor is read, converted and put into
    its place, so that the memory needed is that of the model once.

    Args:
        folder: safetensors shards under the published names.
        config: what the checkpoint must fit; read from the names if not given.
        torch_dtype: of all weights; the checkpoint's own (the widest of them) if not given.
        kwargs: `device_map` and `attn_implementation`, as for `from_pretrained`.

    Raises:
        UserError: as `released_shapes`, or tensors missing, unexpected or of a wrong shape (all are listed).
    """
    folder = Path(folder)
    with ExitStack() as stack:
        slices = _open_slices(_shards(folder), stack)
        shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        config = config or config_from_keys(shapes)
        with torch.device("meta"):
            skeleton = Blip3VideoForConditionalGeneration(config)
        here = {to_published(name): name for name in skeleton.state_dict()}
        expected = {to_published(name): tuple(value.shape) for name, value in skeleton.state_dict().items()}
        _check_fit(folder, config, shapes, expected)
        state = {here[name]: piece for name, piece in slices.items()}
        dtype = torch_dtype or _widest(piece.get_dtype() for piece in slices.values())
        model = Blip3VideoForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, **kwargs
        )
    return model.eval()


def export_released(
    model: Blip3VideoForConditionalGeneration, folder: str | Path, max_shard_size: int | str = "5GB"
) -> None:
    """Write a model as safetensors shards (and an index, if more than one) under the published names.

    Loading a released folder and exporting the model gives the same tensors bit for bit, those that nothing
    runs (SigLIP's pooling head, `read_layer`) included.

    Raises:
        UserError: the folder already holds weights; they are never mixed or overwritten.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.glob("*.safetensors*"))):
        raise UserError(f"{folder} already holds weights; export to a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    state = {to_published(name): value for name, value in model.state_dict().items()}
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size)


_VISION, _TOKENIZER = "vlm.vision_encoder.", "vlm.vision_tokenizer."
_TEMPORAL = f"{_TOKENIZER}temporal_encoder."
_TEXT = "vlm.lang_model."
_EMBED = f"{_TEXT}model.embed_tokens."


def _read_vision(shapes: Shapes, vision: dict[str, Any]) -> None:
    patch = shapes.get(f"{_VISION}embeddings.patch_embedding.weight")  # [D,3,p,p]
    if patch is not None:
        vision["hidden_size"], vision["patch_size"] = patch[0], patch[2]
    positions = shapes.get(f"{_VISION}embeddings.position_embedding.weight")  # [patches,D]
    if positions is not None:
        vision["image_size"] = isqrt(positions[0]) * vision["patch_size"]
    mlp = shapes.get(f"{_VISION}encoder.layers.0.mlp.fc1.weight")
    if mlp is not None:
        vision["intermediate_size"] = mlp[0]
    vision["num_hidden_layers"] = _depth(shapes, f"{_VISION}encoder.layers.") or vision["num_hidden_layers"]
    vision["vision_use_head"] = any(name.startswith(f"{_VISION}head.") for name in shapes)


def _read_resampler(shapes: Shapes, fields: dict[str, Any]) -> None:
    latents = shapes.get(f"{_TOKENIZER}latents")  # [L,D]
    if latents is not None:
        fields["num_latents"] = latents[0]
    fields["resampler_depth"] = _depth(shapes, f"{_TOKENIZER}layers.") or fields["resampler_depth"]
    to_q = shapes.get(f"{_TOKENIZER}layers.0.0.to_q.weight")  # [heads * dim_head,D]
    if to_q is not None and to_q[0] % fields["resampler_heads"] == 0:
        fields["resampler_dim_head"] = to_q[0] // fields["resampler_heads"]
    widened = shapes.get(f"{_TOKENIZER}layers.0.1.1.weight")  # [mult * D,D]
    if widened is not None:
        fields["resampler_ff_mult"] = widened[0] // widened[1]


def _read_temporal(shapes: Shapes, fields: dict[str, Any]) -> None:
    inner = {name[len(_TEMPORAL) :]: shape for name, shape in shapes.items() if name.startswith(_TEMPORAL)}
    parts = {name.split(".")[0] for name in inner} - {"pos_emb"}
    learned = inner.get("final_output.mlp.3.weight")  # [M,2M]
    fields["time_stamp"] = "pos_emb.inv_freq" in inner
    if not parts:
        fields["temporal_encoder"] = "none"
        fields["video_tokens"] = fields["num_frames"] * fields["num_latents"]
    elif parts == {"final_output"}:
        fields["temporal_encoder"] = "token_learner"
        fields["video_tokens"] = learned[0] if learned else fields["video_tokens"]
    elif "ttm_unit" in parts and parts <= {"initial_memory", "ttm_unit", "final_output"}:
        fields["temporal_encoder"] = "grouped_ttm"
        fields["ttm_output"] = "attention" if "final_output" in parts else "mean"
        fields["video_tokens"] = learned[0] if learned else fields["num_latents"]
        memory = inner.get("initial_memory")  # [L,G,D]
        if memory is not None and len(memory) == 3:
            fields["memory_slots"] = memory[1]
        layers = "ttm_unit.process_layers."
        fields["temporal_depth"] = _depth(inner, layers) or fields["temporal_depth"]
        widened = inner.get(f"{layers}0.1.1.weight")
        if widened is not None:
            fields["temporal_ff_mult"] = widened[0] // widened[1]
    else:
        raise UserError(
            f"the checkpoint's temporal encoder ({', '.join(sorted(parts))}) is neither none, token_learner "
            "nor grouped_ttm, the ones with published names; pass the config that it was made with"
        )


def _read_text(shapes: Shapes, text: dict[str, Any]) -> None:
    embedding = shapes.get(f"{_EMBED}weight")  # [vocabulary,D]
    if embedding is not None:
        text["vocab_size"], text["hidden_size"] = embedding
    text["num_hidden_layers"] = _depth(shapes, f"{_TEXT}model.layers.") or text["num_hidden_layers"]
    gate_up = shapes.get(f"{_TEXT}model.layers.0.mlp.gate_up_proj.weight")  # [2 * intermediate,D]
    if gate_up is not None:
        text["intermediate_size"] = gate_up[0] // 2
    qkv = shapes.get(f"{_TEXT}model.layers.0.self_attn.qkv_proj.weight")  # [(heads + 2 kv heads) * dim,D]
    if qkv is not None:
        heads = text["num_attention_heads"]
        text["num_key_value_heads"] = (qkv[0] // (text["hidden_size"] // heads) - heads) // 2


def _depth(names: Iterable[str], prefix: str) -> int:
    """Layers stored under prefix0., prefix1., ..."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _shards(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; give the folder that holds the safetensors shards")
    if (folder / INDEX).is_file():
        try:
            files = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{folder / INDEX} is no index ({error!r}); download it again") from error
        absent = sorted(name for name in files if not (folder / name).is_file())
        if absent:
            raise UserError(f"{folder} lacks {', '.join(absent)}, named in {INDEX}; download the rest")
        return [folder / name for name in sorted(files)]
    shards = sorted(folder.glob("*.safetensors"))
    if shards:
        return shards
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
    if pickled:
        raise UserError(
            f"{folder} holds {', '.join(pickled)}: pickled files can run any code when opened, so they are "
            "never read here; convert them to safetensors first"
        )
    raise UserError(f"{folder} holds no .safetensors file; give the folder of a released checkpoint")


def _open_slices(shards: Sequence[Path], stack: ExitStack) -> dict[str, Any]:
    """Published name -> a slice that reads its tensor when indexed, valid while `stack` is open."""
    slices: dict[str, Any] = {}
    for shard in shards:
        try:
            file = stack.enter_context(safe_open(shard, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{shard} is no safetensors file ({error}); download it again") from error
        names = list(file.keys())
        twice = sorted(slices.keys() & names)
        if twice:
            raise UserError(f"{shard} repeats {', '.join(twice)} of another shard; keep one of them")
        slices |= {name: file.get_slice(name) for name in names}
    return slices


def _check_fit(
    folder: Path, config: Blip3VideoConfig, shapes: Shapes, expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = sorted(expected.keys() - shapes.keys())
    unexpected = sorted(shapes.keys() - expected.keys())
    wrong = [
        f"{name} {list(shapes[name])} instead of {list(expected[name])}"
        for name in sorted(expected.keys() & shapes.keys())
        if tuple(shapes[name]) != expected[name]
    ]
    parts = {"missing": missing, "unexpected": unexpected, "of a wrong shape": wrong}
    complaints = [f"{len(names)} {what}: {', '.join(names)}" for what, names in parts.items() if names]
    if complaints:
        raise UserError(
            f"{folder} does not fit a model with temporal encoder {config.temporal_encoder!r} and "
            f"{config.video_tokens} video tokens; tensors {'; '.join(complaints)}"
        )


def _widest(dtypes: Iterable[str]) -> torch.dtype:
    floats = [_FLOATS[name] for name in dtypes if name in _FLOATS]
    return reduce(torch.promote_types, floats, floats[0]) if floats else torch.float32
