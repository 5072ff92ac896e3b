"""A folder with a model, a video and a question -> the answer, at once or as a stream of text."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from blip3v.errors import UserError
from blip3v.models.configuration import Blip3VideoConfig
from blip3v.models.modeling import Blip3VideoForConditionalGeneration
from blip3v.models.processing import Blip3VideoProcessor


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Blip3VideoForConditionalGeneration, Blip3VideoProcessor]:
    """Model (in evaluation mode) and processor from one local folder.

    Args:
        path: what `save_pretrained` of model and processor wrote side by side, or a released checkpoint: its
            safetensors shards with the tokenizer's files beside them.
        device: a GPU where torch sees one, else the CPU.
        dtype: of the weights; bfloat16 on a GPU, else float32.

    Raises:
        UserError: no such folder, weights or tokenizer missing, broken or incomplete.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no such model folder: {folder}; give a folder written by save_pretrained")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        if _is_saved_here(folder):
            processor = Blip3VideoProcessor.from_pretrained(folder, local_files_only=True)
            model = _load_saved(folder, dtype)
        else:
            model, processor = _load_released(folder, dtype)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot load a model from {folder} ({reason}); save model and processor there again"
        ) from error
    return model.to(device).eval(), processor


def _is_saved_here(folder: Path) -> bool:
    config = folder / "config.json"
    return (
        config.is_file() and json.loads(config.read_text()).get("model_type") == Blip3VideoConfig.model_type
    )


def _load_saved(folder: Path, dtype: torch.dtype) -> Blip3VideoForConditionalGeneration:
    model, report = Blip3VideoForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    # transformers fills what is missing with random numbers and only warns; the answers would be noise.
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind])
    if wrong:
        raise UserError(f"{folder} lacks {len(wrong)} weights of the model ({wrong[0]}, ...); save it again")
    return model


def _load_released(
    folder: Path, dtype: torch.dtype
) -> tuple[Blip3VideoForConditionalGeneration, Blip3VideoProcessor]:
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"no model in {folder}: neither a config.json of blip3v nor *.safetensors files")
    from blip3v.models.weights import load_released

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{folder} has no fast tokenizer; put Phi-3's tokenizer.json beside the weights")
    model = load_released(folder, torch_dtype=dtype)
    return model, Blip3VideoProcessor.from_config(model.config, tokenizer)


def answer(
    model: Blip3VideoForConditionalGeneration,
    processor: Blip3VideoProcessor,
    video: Any,
    question: str,
    **sampling: Any,
) -> str:
    """The answer to one question; arguments and errors as in `answer_batch`."""
    return answer_batch(model, processor, [video], [question], **sampling)[0]


def answer_batch(
    model: Blip3VideoForConditionalGeneration,
    processor: Blip3VideoProcessor,
    videos: Sequence[Any],
    questions: Sequence[str],
    **sampling: Any,
) -> list[str]:
    """Answers to questions of different lengths about as many videos, in one batch.

    Args:
        videos: one for each question: a path, an array, a `Video`, or None for a question without a video.
        questions: plain text; the prompt is made here.
        sampling: `max_new_tokens` (128), `do_sample` (False: the likeliest token each time), `temperature`
            and `top_p` (both 1, used only with do_sample), `num_frames` (the model's own number).

    Raises:
        UserError: an empty question, not one video for each question, a broken video, a setting out of range.
    """
    if len(videos) != len(questions):
        raise UserError(f"{len(questions)} questions for {len(videos)} videos; give one video per question")
    inputs, settings = prepare(model, processor, videos, questions, **sampling)
    ids = model.generate(**inputs, **settings)
    texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def stream_answer(
    model: Blip3VideoForConditionalGeneration,
    processor: Blip3VideoProcessor,
    video: Any,
    question: str,
    **sampling: Any,
) -> Iterator[str]:
    """The answer to one question in pieces of text, each as soon as its word is complete.

    Joined and stripped, the pieces are what `answer` returns. Arguments and errors as there; the model runs
    in a thread, whose errors are raised here, and which stops at the next token when the iterator is closed.
    """
    inputs, settings = prepare(model, processor, [video], [question], **sampling)
    return _stream(model, processor, inputs | settings)


def _stream(
    model: Blip3VideoForConditionalGeneration, processor: Blip3VideoProcessor, arguments: dict[str, Any]
) -> Iterator[str]:
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    closed = _Closed()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            model.generate(**arguments, streamer=streamer, stopping_criteria=StoppingCriteriaList([closed]))
        except BaseException as error:  # whatever it is, the reader must get it instead of waiting for ever
            failures.append(error)
            streamer.text_queue.put(streamer.stop_signal)

    thread = threading.Thread(target=run, name="blip3v-generate", daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        closed.event.set()
        thread.join()
    if failures:
        raise failures[0]


class _Closed(StoppingCriteria):
    """Ends generation when nobody reads any more."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def prepare(
    model: Blip3VideoForConditionalGeneration,
    processor: Blip3VideoProcessor,
    videos: Sequence[Any],
    questions: Sequence[str],
    *,
    max_new_tokens: int = 128,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_frames: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(inputs on the model's device, settings) of `model.generate`."""
    check_questions(questions)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if num_frames is not None and num_frames < 1:
        raise UserError(f"num_frames must be at least 1, got {num_frames}")
    if temperature <= 0 or not 0 < top_p <= 1:
        raise UserError(f"temperature must be above 0 and top_p in (0, 1], got {temperature} and {top_p}")
    prompts = [
        processor.prompt(question, with_video=video is not None)
        for question, video in zip(questions, videos, strict=True)
    ]
    shown = [video for video in videos if video is not None]
    inputs = processor(text=prompts, videos=shown, num_frames=num_frames).to(model.device)
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": do_sample,
        "eos_token_id": processor.end_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
    }
    if do_sample:
        # top_k: transformers would keep the 50 likeliest tokens only, which nobody asked for.
        settings |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    return dict(inputs), settings


def check_questions(questions: Sequence[str]) -> None:
    """Refuse to ask nothing.

    Raises:
        UserError: no question, or one without text.
    """
    if not questions or not all(question.strip() for question in questions):
        raise UserError('the question is empty; ask something, for example "What happens in the video?"')
