"""Accuracy as published, by tokens per video. **Nothing here was measured with this library.**

Source: the BLIP-3-Video paper, arXiv 2410.16267; table numbers are those of its first version. Percent of
answers that an LLM judge calls right (MSVD-QA, MSRVTT-QA, ActivityNet-QA, TGIF-QA), or of multiple choices
(NExT-QA). The other systems have language models of other sizes and were trained on other data, so their
points compare systems and not token counts; those of tables 3 to 5 differ in the temporal encoder alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PAPER = "arXiv 2410.16267"

Task = Literal["MSVD-QA", "MSRVTT-QA", "ActivityNet-QA", "TGIF-QA", "NExT-QA"]


@dataclass(frozen=True)
class Published:
    """One row of a table.

    Attributes:
        system: as the paper calls it.
        size: parameters of the whole model.
        tokens: visual tokens of a video. `at_least`: the paper puts a plus behind the number.
        accuracy: percent by task.
        table: of the paper.
        encoder: its name among the temporal encoders here; "" where there is none.
    """

    system: str
    size: str
    tokens: int
    accuracy: dict[Task, float]
    table: str
    encoder: str = ""
    at_least: bool = False


def _open_ended(
    msvd: float, msrvtt: float, activitynet: float, tgif: float | None, nextqa: float | None = None
) -> dict[Task, float]:
    values: dict[Task, float | None] = {
        "MSVD-QA": msvd,
        "MSRVTT-QA": msrvtt,
        "ActivityNet-QA": activitynet,
        "TGIF-QA": tgif,
        "NExT-QA": nextqa,
    }
    return {task: value for task, value in values.items() if value is not None}


def _encoder(msvd: float, tgif: float, activitynet: float, nextqa: float) -> dict[Task, float]:
    return {"MSVD-QA": msvd, "TGIF-QA": tgif, "ActivityNet-QA": activitynet, "NExT-QA": nextqa}


def _count(msvd: float, tgif: float, nextqa: float) -> dict[Task, float]:
    return {"MSVD-QA": msvd, "TGIF-QA": tgif, "NExT-QA": nextqa}


_SYSTEMS, _OURS = "table 1", "BLIP-3-Video"
SYSTEMS = (
    Published(_OURS, "4B", 32, _open_ended(77.7, 60.0, 55.7, 76.5, 76.4), "tables 1 and 2", "grouped_ttm"),
    Published(_OURS, "4B", 128, _open_ended(77.9, 59.7, 56.9, 77.1, 77.1), "tables 1 and 2", "grouped_ttm"),
    Published(
        "Video-ChatGPT", "7B", 264, _open_ended(64.9, 49.3, 34.2, 51.4), _SYSTEMS, "video_chatgpt", True
    ),
    Published("Video-LLaMA", "7B", 32, _open_ended(51.6, 29.6, 12.4, None), _SYSTEMS, "video_llama"),
    Published("PLLaVA", "7B", 576, _open_ended(76.6, 62.0, 56.3, 77.5), _SYSTEMS, "pllava", True),
    Published(
        "MiniGPT4-Video", "7B", 2880, _open_ended(73.9, 59.7, 46.3, 72.2), _SYSTEMS, "minigpt4_video", True
    ),
    Published(
        "LLaVA-OneVision", "7B", 1568, _open_ended(72.9, 57.8, 55.3, 41.1), _SYSTEMS, "llava_onevision"
    ),
    Published(
        "LLaVA-NeXT-Video", "32B", 1152, _open_ended(73.6, 56.8, 58.4, 73.5), _SYSTEMS, "llava_next_video"
    ),
    Published(
        "Tarsier", "7B", 4608, _open_ended(77.0, 62.0, 59.5, 79.2, 71.6), "tables 1 and 2", "tarsier", True
    ),
    Published(
        "Tarsier", "34B", 4608, _open_ended(80.3, 66.4, 61.6, 82.5, 79.2), "tables 1 and 2", "tarsier", True
    ),
)
"""Whole systems."""

ENCODERS = (
    Published("mean pooling", "4B", 128, _encoder(76.75, 77.01, 55.89, 76.24), "table 3", "mean_pool"),
    Published("transformer", "4B", 128, _encoder(76.24, 76.33, 55.59, 76.34), "table 3", "transformer"),
    Published(
        "joint Perceiver",
        "4B",
        128,
        _encoder(76.17, 72.46, 52.61, 76.44),
        "second version",
        "joint_perceiver",
    ),
    Published("vanilla TTM", "4B", 128, _encoder(76.42, 75.80, 54.45, 75.42), "table 3", "ttm"),
    Published("TokenLearner", "4B", 128, _encoder(77.49, 76.90, 56.94, 76.27), "table 3", "token_learner"),
    Published("grouped TTM", "4B", 128, _encoder(77.86, 77.10, 56.66, 77.07), "table 3", "grouped_ttm"),
    Published("space-time max", "4B", 32, {"MSVD-QA": 76.04}, "table 4", "space_time_max_pool"),
    Published("TL per frame", "4B", 32, {"MSVD-QA": 76.78}, "table 4", "token_learner_per_frame"),
    Published("TokenLearner", "4B", 32, {"MSVD-QA": 77.71}, "table 4", "token_learner"),
    Published("grouped TTM", "4B", 16, _count(76.17, 76.19, 75.8), "table 5", "grouped_ttm"),
    Published("grouped TTM", "4B", 32, _count(77.11, 77.07, 76.4), "table 5", "grouped_ttm"),
    Published("grouped TTM", "4B", 256, _count(77.67, 77.35, 77.06), "table 5", "grouped_ttm"),
)
"""Temporal encoders in the same model, trained with a somewhat smaller set of data than `SYSTEMS`."""
