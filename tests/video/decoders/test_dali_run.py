from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvidia.dali", reason="NOT TESTED: needs the dali extra")
av = pytest.importorskip("av")

from benchmarks.decode.files.painted import read_numbers  # noqa: E402
from benchmarks.decode.files.writing import Look, write  # noqa: E402
from blip3v.errors import UserError  # noqa: E402
from blip3v.video.decoders import dali_run  # noqa: E402
from blip3v.video.decoders.dali_job import Job, job_for  # noqa: E402
from blip3v.video.decoders.dali_run import FILL, device_named, run_jobs  # noqa: E402
from blip3v.video.decoders.protocol import Limits, UnsupportedVideo, WrongCount  # noqa: E402

VP9 = Look("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "4"})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    path = tmp_path_factory.mktemp("clips") / "a.webm"
    return job_for(write(path, VP9, range(10, 20)).path, [7, 0, 7], "cpu", Limits())


class Given:
    """Keeps copies of the frames."""

    def __init__(self) -> None:
        self.frames: dict[int, np.ndarray] = {}

    def __call__(self, output: Any, numbers: Sequence[int]) -> None:
        for row, number in enumerate(numbers):
            self.frames[number] = np.array(output[row])


def test_different_numbers_of_frames_in_one_run(job: Job) -> None:
    given = Given()
    jobs = [replace(job, indices=np.array(indices, np.int32)) for indices in ([9], [1, 8, 3, 3], [0, 1])]
    assert run_jobs(jobs, "cpu", 2, 0, given) == {}
    numbers = [read_numbers(given.frames[number]) for number in range(3)]
    assert numbers == [[19], [11, 18, 13, 13], [10, 11]]


def test_squares_are_resized(job: Job) -> None:
    given = Given()
    assert run_jobs([job], "cpu", 1, 24, given) == {}
    assert given.frames[0].shape == (3, 24, 24, 3) and given.frames[0].dtype == np.float32
    np.testing.assert_allclose(given.frames[0][:, 0], 127, atol=0.01)


def test_a_broken_file_costs_itself(job: Job) -> None:
    broken = replace(job, data=job.data[:200])
    given = Given()
    failed = run_jobs([job, broken, job], "cpu", 2, 0, given)
    assert list(failed) == [1] and str(job.path) in str(failed[1]) and "decoder pyav" in str(failed[1])
    assert read_numbers(given.frames[0]) == read_numbers(given.frames[2]) == [17, 10, 17]
    # A pipeline that failed takes nothing more; the next run has a new one.
    assert run_jobs([job], "cpu", 2, 0, Given()) == {}
    assert list(run_jobs([broken], "cpu", 2, 0, Given())) == [0]


def test_a_frame_that_is_not_there_is_noticed(job: Job) -> None:
    # DALI gives a picture for it as well.
    given = Given()
    failed = run_jobs([replace(job, indices=np.array([2, 10], np.int32))], "cpu", 1, 0, given)
    assert isinstance(failed[0], WrongCount) and "no frame 10 of 10" in str(failed[0])
    assert (given.frames[0][1] == FILL).all() and read_numbers(given.frames[0][:1]) == [12]


def test_frames_of_another_size_are_noticed(job: Job) -> None:
    wider = replace(job, info=replace(job.info, width=98))
    failed = run_jobs([wider], "cpu", 1, 0, Given())
    assert isinstance(failed[0], UnsupportedVideo) and "expected [3, 64, 98, 3]" in str(failed[0])


def test_pipelines_are_built_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = dali_run._build

    def counted(device: str, number: int | None, most: int, threads: int, size: int) -> Any:
        built.append(most)
        return build(device, number, most, threads, size)

    monkeypatch.setattr(dali_run, "_build", counted)
    monkeypatch.setattr(dali_run, "_built", {})
    for count in (4, 3, 4, 1, 1, 5):
        assert run_jobs([job] * count, "cpu", 1, 0, Given()) == {}
    assert built == [4, 1, 8]


def test_an_error_of_who_takes_the_frames_is_not_dalis(job: Job) -> None:
    def full(output: Any, numbers: Sequence[int]) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_jobs([job, job], "cpu", 1, 0, full)


def test_behind_a_fork(job: Job) -> None:
    assert run_jobs([job], "cpu", 1, 0, Given()) == {}
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        given = Given()
        failed = run_jobs([job], "cpu", 1, 0, given)
        os.write(writer, bytes([len(failed), *read_numbers(given.frames[0])]))
        os._exit(0)
    ready, _, _ = select.select([reader], [], [], 20)
    answer = os.read(reader, 10) if ready else b""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader), os.close(writer)
    assert list(answer) == [0, 17, 10, 17]


def test_nothing_to_do() -> None:
    assert run_jobs([], "cpu", 1, 0, Given()) == {}


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    from nvidia.dali import backend

    monkeypatch.setattr(backend, "GetCUDADeviceCount", lambda: 0)
    assert (device_named("auto"), device_named("cpu")) == ("cpu", "cpu")
    with pytest.raises(UserError, match="sees no GPU"):
        device_named("gpu")
    monkeypatch.setattr(backend, "GetCUDADeviceCount", lambda: 2)
    assert (device_named("auto"), device_named("gpu"), device_named("cpu")) == ("gpu", "gpu", "cpu")
    with pytest.raises(UserError, match="'tpu'"):
        device_named("tpu")
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError, match=r"pip install 'blip3v\[dali\]'"):
        device_named("cpu")
