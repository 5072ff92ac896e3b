"""A plan as people read it."""

from __future__ import annotations

from blip3v.train.plan import PUBLISHED_SAMPLES_PER_SECOND, Plan


def plan_text(plan: Plan) -> str:
    """Lines for a terminal, without colours."""
    lines = [
        f"Plan of {plan.recipe}: {plan.world_size} x {plan.device.name}, parallel {plan.parallel}",
        *_rows(
            ("samples", f"{plan.num_samples:,}, {plan.tokens_per_sample:.0f} tokens each on average"),
            ("samples per step", f"{plan.samples_per_step:,}"),
            ("steps", f"{plan.total_steps:,}, of them {min(plan.warmup_steps, plan.total_steps):,} warm-up; "
             f"{plan.steps_per_epoch:,} per epoch"),
            ("checkpoints", f"{plan.checkpoints:,} of {_size(plan.checkpoint_bytes)}; "
             f"{_size(plan.disk_bytes)} on disk at most, with the exported model"),
            ("FLOPs per sample", f"{plan.flops_per_sample / 1e12:.2f} T"),
            ("expected", _expected(plan)),
            ("for scale", f"{plan.hours_published:.2f} h at the published {PUBLISHED_SAMPLES_PER_SECOND} "
             f"samples/s per H100 (32 tokens, 8 frames), {plan.world_size} of them"),
        ),
        "Memory per device, of a typical batch:",
        *_parts(plan),
        f"Assumed: {'; '.join(plan.assumptions)}.",
    ]  # fmt: skip
    return "\n".join(lines)


def _expected(plan: Plan) -> str:
    if plan.hours is None or plan.utilisation is None:
        return f"unknown: no data sheet of {plan.device.name}"
    return (
        f"{plan.hours:.2f} h, {plan.samples_per_second:.1f} samples/s, at an MFU of "
        f"{plan.utilisation.mfu:.1%} ({plan.utilisation.source})"
    )


def _parts(plan: Plan) -> list[str]:
    total = f"with the longest samples in one batch: {_size(plan.memory_longest)}"
    if plan.device.memory_bytes is not None:
        fits = "more than" if plan.memory_longest > 0.9 * plan.device.memory_bytes else "within"
        total += f", {fits} nine tenths of the device's {_size(plan.device.memory_bytes)}"
    rows = [(part.name, f"{_size(part.bytes):>11}  {part.formula}") for part in plan.memory]
    return _rows(*rows, ("together", f"{_size(plan.memory_bytes):>11}  {total}"))


def _rows(*rows: tuple[str, str]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {text}" for name, text in rows]


def _size(count: int) -> str:
    if count < 10**6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 10**9 else f"{count / 1e9:.1f} GB"
