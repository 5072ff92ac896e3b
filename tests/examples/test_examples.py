from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip3v.data.conversation import Turn, format_prompt
from blip3v.data.records import Record, write_records
from blip3v.data.sources import read_sources
from blip3v.models.configuration import blip3_video_4b, blip3_video_tiny
from blip3v.models.processing import Blip3VideoProcessor
from blip3v.models.tokenizer import word_tokenizer
from blip3v.train.metrics import read_log
from blip3v.train.plan import Device, plan
from blip3v.train.recipe import recipe_named

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("*.sh"), *EXAMPLES.glob("*.sbatch")])
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.jsonl with images, and `fresh`: a config and a processor without weights."""
    folder = tmp_path_factory.mktemp("examples")
    records = []
    for index, colour in enumerate(["red", "blue"] * 4):
        pixels = np.zeros((8, 8, 3), dtype=np.uint8)
        pixels[..., index % 2] = 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        records.append(Record(f"r{index}", (Turn("colour ?", colour),), image=folder / f"{index}.png"))
    write_records(folder / "data.jsonl", records)
    tokenizer = word_tokenizer([format_prompt("colour ?"), "red blue"])
    config = blip3_video_tiny(tokens=4, num_latents=4, image_size=16, vocab_size=len(tokenizer) - 3)
    config.save_pretrained(folder / "fresh")
    Blip3VideoProcessor.from_config(config, tokenizer).save_pretrained(folder / "fresh")
    return folder


OPTIONS = (
    "--video-tokens", "4", "--num-frames", "1", "--warmup-steps", "1", "--log-every", "1", "--workers", "0",
    "--checkpoint-every", "0", "--learning-rate", "0.01",
)  # fmt: skip


def _environment(folder: Path, out: Path, **more: str) -> dict[str, str]:
    # A GPU that happens to be here does not matter: the scripts are tried with processes on a CPU.
    mine = {
        "MODEL": folder / "fresh", "DATA": folder / "data.jsonl", "RUN": out, "CUDA_VISIBLE_DEVICES": "",
        "PROCESSES": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    return os.environ | {name: str(value) for name, value in mine.items()} | more


def _bash(script: str, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(EXAMPLES / script), *OPTIONS, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_say_what_they_need(script: Path, tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("MODEL", "DATA", "RUN")}
    run = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
    assert run.returncode != 0 and "MODEL: folder of the model" in run.stderr
    assert os.access(script, os.X_OK)


def test_the_steps_of_1_8_and_32_gpus_have_equal_samples() -> None:
    def value(script: str, pattern: str, otherwise: int) -> int:
        found = re.search(pattern, (EXAMPLES / script).read_text())
        return int(found[1]) if found else otherwise

    recipe = recipe_named("video-captions")
    one = recipe.batch_size * value("train_1_gpu.sh", r"--accumulation (\d+)", 1)
    eight = recipe.batch_size * value("train_8_gpus.sh", r"PROCESSES:-(\d+)", 0)
    slurm = "train_32_gpus.sbatch"
    nodes, each = value(slurm, r"--nodes=(\d+)", 0), value(slurm, r"PROCESSES:-(\d+)", 0)
    assert nodes * each == 32
    assert one == eight == nodes * each * value(slurm, r"BATCH_SIZE:-(\d+)", 0) == 128


def test_the_plan_of_one_gpu_fits_the_device_that_the_readme_names() -> None:
    recipe = replace(recipe_named("video-captions"), accumulation=8, activation_checkpointing="selective")
    found = plan(recipe, blip3_video_4b(), 900_000, 1, Device.named("H200"))
    assert found.memory_bytes < 0.9 * 141e9
    eight = plan(recipe_named("video-captions"), blip3_video_4b(), 900_000, 8, Device.named("H100"))
    assert eight.memory_bytes < 0.9 * 80e9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stage2_captions.toml", {"llava_hound"}),
        ("short_answers.toml", {"msvd", "msrvtt", "tgif", "nextqa"}),
        (
            "stage3_instructions.toml",
            {"video_instruct", "msvd", "msrvtt", "activitynet", "tgif", "nextqa", "mira"},
        ),
    ],
)
def test_mixtures_are_understood(name: str, expected: set[str]) -> None:
    assert {source.name for source in read_sources(EXAMPLES / name)} == expected


def test_what_is_rephrased_is_what_the_third_stage_asks_for() -> None:
    third = {source.name: source for source in read_sources(EXAMPLES / "stage3_instructions.toml")}
    sentences = {name for name, source in third.items() if "sentence" in source.forms}
    short = {source.name: source for source in read_sources(EXAMPLES / "short_answers.toml")}
    assert set(short) == sentences
    assert all(third[name].annotations == source.annotations for name, source in short.items())
    # The paper: these two appear open-ended (short and sentence) and as multiple choice.
    doubled = {name for name, source in third.items() if len(source.forms) == 3}
    assert doubled == {"tgif", "nextqa"}


def test_torchrun_trains_on_two_processes_and_goes_on(folder: Path, tmp_path: Path) -> None:
    environment = _environment(folder, tmp_path / "out")
    run = _bash("train_8_gpus.sh", environment, "--batch-size", "2", "--max-steps", "2")
    assert run.returncode == 0, run.stderr
    assert [line["samples"] for line in read_log(tmp_path / "out" / "log.jsonl")] == [4, 8]
    assert (tmp_path / "out" / "model" / "config.json").is_file()


STEPS = 80
STAND_INS = {
    "scontrol": '[[ $1 == requeue ]] && touch "$REQUEUED" || echo 127.0.0.1',
    # Flags of srun itself, then the command; it passes SIGTERM on as srun does.
    "srun": """shift; "$@" &
trap "kill -TERM $!" TERM
wait $!; status=$?
while kill -0 $! 2>/dev/null; do wait $!; status=$?; done
exit $status""",
}


def test_under_slurm_a_run_out_of_time_is_queued_again_and_goes_on(folder: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in STAND_INS.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tools / name).chmod(0o755)
    out, requeued = tmp_path / "out", tmp_path / "requeued"
    environment = _environment(
        folder, out, SLURM_JOB_NODELIST="n[1]", SLURM_JOB_NUM_NODES="1", SLURM_JOB_ID="7", BATCH_SIZE="2",
        PORT=str(_free_port()), REQUEUED=str(requeued),
    )  # fmt: skip
    environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
    script = ["bash", str(EXAMPLES / "train_32_gpus.sbatch"), *OPTIONS, "--max-steps", str(STEPS)]

    first = subprocess.Popen(script, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    log = out / "log.jsonl"
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and not (log.exists() and len(read_log(log)) > 3):
            time.sleep(0.02)
            assert first.poll() is None, "it ended before its time was up"
        first.send_signal(signal.SIGUSR1)
        assert first.wait(timeout=90) != 0
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert requeued.exists()
    (checkpoint,) = (out / "checkpoints").glob("step-*")
    step = int(checkpoint.name.removeprefix("step-"))
    assert 3 < step < STEPS

    requeued.unlink()
    environment["SLURM_RESTART_COUNT"] = "1"
    second = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stderr
    assert not requeued.exists()
    assert [line["step"] for line in read_log(log)] == list(range(1, STEPS + 1))
    starts = json.loads((out / "run.json").read_text())["starts"]
    assert [start["world_size"] for start in starts] == [2, 2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
