"""`blip3v demo`: clips, training, answers and a report, from nothing."""

from __future__ import annotations

from pathlib import Path


def demo(
    out: Path = Path("runs/demo"),
    report: Path = Path("demo_report.html"),
    minutes: float = 9.0,
    encoder: str = "token_learner_per_frame",
    tokens: int = 32,
    train_clips: int = 3500,
    validation_clips: int = 300,
    test_clips: int = 500,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Train a small model on made clips, then answer questions about held-out ones.

    Args:
        out: folder for clips, features, logs and the trained models.
        report: the page to write; demo_results.json goes beside it.
        minutes: for everything; training takes what the rest leaves.
        encoder: the temporal encoder that gets most of the time.
        tokens: video tokens that it makes.
        train_clips: clips to train on.
        validation_clips: clips that choose among weights and encoders.
        test_clips: clips whose questions are reported.
        steps: training steps of each encoder, instead of as many as the minutes allow.
        seed: of clips, weights and batches.
    """
    # torch and transformers take seconds, which --help should not.
    from blip3v.demo.run import Settings, run_demo

    run_demo(
        Settings(
            out,
            report,
            minutes,
            encoder,
            tokens,
            train_clips,
            validation_clips,
            test_clips,
            steps,
            seed,
        )
    )
