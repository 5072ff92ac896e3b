"""BLIP-3-Video: the diagram of the paper on one screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, GenerationMixin, PreTrainedModel, SiglipVisionModel
from transformers.modeling_outputs import ModelOutput

from blip3v.models.blocks import SelfAttention
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.language import LanguageModel
from blip3v.models.resampler import PerceiverAttention
from blip3v.models.temporal import attention_of
from blip3v.models.vision import VisionTokenizer, encode_frames


@dataclass
class Blip3VideoOutput(ModelOutput):
    """loss: scalar; logits [B,L,vocab]; past_key_values; video_tokens [n_videos,M,dim] if there were any."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    video_tokens: Tensor | None = None


class Blip3VideoForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """SigLIP -> Perceiver-Resampler -> temporal encoder -> projection -> Phi-3."""

    config_class = Blip3VideoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = [
        "SiglipVisionEmbeddings",
        "SiglipEncoderLayer",
        "VisionTokenizer",
        "Phi3DecoderLayer",
    ]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Frequencies rounded to bfloat16 would turn time-stamps of late frames by whole radians.
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"pos_emb"}

    def __init__(self, config: Blip3VideoConfig) -> None:
        super().__init__(config)
        self.vision_encoder = SiglipVisionModel(config.vision_config)
        self.vision_tokenizer = VisionTokenizer(config)
        self.lang_model = LanguageModel(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; loading makes every weight trainable, so what nothing runs is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, parameter in model.named_parameters():
            if ".ttm_unit.read_layer." in name:
                parameter.requires_grad_(False)
        return loaded

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers; our own attention modules follow the configuration too."""
        super().set_attn_implementation(*args, **kwargs)
        for module in self.vision_tokenizer.modules():
            if isinstance(module, (PerceiverAttention, SelfAttention)):
                module.implementation = attention_of(self.config)

    def encode_video(self, pixel_values_videos: Tensor) -> Tensor:
        """pixels [n,T,3,H,W] -> video tokens [n,M,text_dim], what the language model sees."""
        features = encode_frames(self.vision_encoder, pixel_values_videos.to(self.dtype))
        return self.vision_tokenizer(features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Blip3VideoOutput:
        """Logits over the text, and the loss where labels are given.

        A packed batch (see `blip3v.data.packing.pack`) is one row of segments, with cu_seqlens and max_seqlen
        beside the arguments below.

        Args:
            input_ids: [B,L]; each video stands as M consecutive `<image>` ids (the processor writes them).
            pixel_values_videos: [n_videos,T,3,H,W] in the order of their places in the batch.
            video_features: [n_videos,T,S,dim] from `encode_frames`, instead of pixels (a frozen encoder's
                output may be kept between epochs).
            attention_mask: [B,L], 1 where a token is real.
            labels: [B,L], -100 where nothing is predicted. The loss is the mean over the other positions.
            logits_to_keep: how many places at the end of each row get logits, 0 for all; or int64 [k], which.
            shift_labels: [B,k], instead of labels: what the k kept places predict, -100 for nothing.

        Raises:
            ValueError: both or none of input_ids and inputs_embeds; places for videos and videos differ;
                labels in both forms; a packed batch with a cache.
        """
        if input_ids is not None and inputs_embeds is None:
            inputs_embeds = self.lang_model.embed(input_ids)
        elif inputs_embeds is None or input_ids is not None:
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if labels is not None and shift_labels is not None:
            raise ValueError("give labels or shift_labels, not both: they are the same in two forms")
        video_tokens = None
        if pixel_values_videos is not None:
            video_features = encode_frames(self.vision_encoder, pixel_values_videos.to(self.dtype))
        if video_features is not None:
            video_tokens = self.vision_tokenizer(video_features)
            # Reading a number makes a GPU wait for all that was asked of it; collate_packed has counted.
            counted = inputs_embeds.is_cuda and kwargs.get("cu_seqlens") is not None
            inputs_embeds = self.splice(input_ids, inputs_embeds, video_tokens, counted)

        outputs = self.lang_model(
            inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lang_model.logits(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = next_token_loss(logits, labels)
        elif shift_labels is not None:
            loss = mean_cross_entropy(logits.flatten(0, 1), shift_labels.flatten())
        return Blip3VideoOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_tokens=video_tokens,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As transformers', which leaves pixels out after the first step but does not know features."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs.pop("video_features", None)
        return inputs

    def splice(
        self, input_ids: Tensor | None, inputs_embeds: Tensor, video_tokens: Tensor, counted: bool = False
    ) -> Tensor:
        """Put video_tokens [n,M,dim] on the `<image>` places of inputs_embeds [B,L,dim], in order.

        With `counted` the caller knows that there are n * M places, and they are not counted again.
        """
        if input_ids is None:
            raise ValueError("videos need input_ids: the places of their tokens are read from them")
        places = input_ids == self.config.image_token_id
        expected = video_tokens.shape[0] * video_tokens.shape[1]
        if not counted and int(places.sum()) != expected:
            raise ValueError(
                f"the text has {int(places.sum())} <image> tokens, {video_tokens.shape[0]} videos of "
                f"{video_tokens.shape[1]} tokens need {expected}; let Blip3VideoProcessor write the prompt"
            )
        return inputs_embeds.masked_scatter(places.unsqueeze(-1), video_tokens.to(inputs_embeds.dtype))

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        # transformers reshapes beams by text_config.vocab_size; a decoupled vocabulary has other columns.
        raise ValueError(
            "beam search does not know a decoupled vocabulary: use num_beams=1, with sampling or without"
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.lang_model.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lang_model.lm_head

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights of our own modules: each knows its own distribution (else it is PyTorch's default).

        SigLIP and Phi-3 are PreTrainedModels and initialise themselves.
        """
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`mean_cross_entropy` of logits [B,L,V] at i against labels [B,L] at i + 1."""
    return mean_cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N,V] against targets [N], in float32, or float64 where the logits are.

    Targets of -100 count for nothing; without any other the loss is 0, not NaN.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(precise, targets, ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)
