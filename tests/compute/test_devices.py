"""Devices, and the workers on them: names, defaults, threads, shares and memory, without a device."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import dense_row, tiny, until
from jobs import Job, flat

from cl_bench.compute.devices import default_jobs, overcommitted, sharing, torch_device, usable_devices, worker_threads
from cl_bench.compute.local import ComputationError, Desk, LocalEngine
from cl_bench.compute.process import WorkerProcess
from cl_bench.compute.progress import Display
from cl_bench.errors import SpecError
from cl_bench.store import Store

pytest_plugins = ["pytester"]
GPUS = ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("jobs", "devices", "workers"), [(1, 1, 1), (4, 1, 4), (2, 2, 1), (3, 2, 2), (8, 3, 3), (1, 8, 1)]
)
def test_workers_that_share_a_device(jobs: int, devices: int, workers: int) -> None:
    assert sharing(jobs, ["cuda"] * devices) == workers


@pytest.mark.parametrize(
    ("workers", "cores", "given", "xdist", "threads"),
    [
        (1, 16, None, None, None),
        (4, 16, None, None, 4),
        (3, 16, None, None, 5),
        (32, 16, None, None, 1),
        (2, 16, "3", None, 3),
        (4, 16, "12", None, 4),
        (1, 16, None, "2", 8),
    ],
)
def test_gpu_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int, cores: int, given: str | None, xdist: str | None, threads: int | None
) -> None:
    for name, value in {"OMP_NUM_THREADS": given, "PYTEST_XDIST_WORKER_COUNT": xdist}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr("cl_bench.compute.devices.cores", lambda: cores)
    assert worker_threads(workers) == threads


@pytest.mark.parametrize(
    ("device", "threads", "seen"), [("cpu", 5, "1"), ("cpu", None, "1"), ("cuda:0", 5, "5"), ("cuda:0", None, "7")]
)
def test_a_worker_starts_with_its_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, threads: int | None, seen: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with (tmp_path / "errors").open("w") as errors:
        process = WorkerProcess(device, errors, threads)
        environ = until(Path(f"/proc/{process.pid}/environ").read_text, 10, "it has begun").split("\0")
        process.stop()
        process.close()
    assert f"OMP_NUM_THREADS={seen}" in environ


@pytest.mark.parametrize(
    ("jobs", "devices", "gibibytes", "said"),
    [
        (8, ["cpu"], 12, ""),
        (9, ["cpu"], 12, "--jobs 9: 9 workers on this machine need 13.5 GiB .* has 12 GiB: .*; --jobs 8 fits"),
        (4, ["cpu"], 1, ".*; --jobs 1 fits"),
        (8, GPUS, 64, ""),
        (18, GPUS, 64, "--jobs 18: 9 workers on cuda:1 need 9 GiB .* has 8 GiB: .*; --jobs 16 fits"),
        (18, GPUS, 6, "--jobs 18: 18 workers on this machine need 27 GiB .*; --jobs 4 fits"),
    ],
)
def test_more_workers_than_memory_has_room_for_are_one_line(
    monkeypatch: pytest.MonkeyPatch, jobs: int, devices: list[str], gibibytes: int, said: str
) -> None:
    sizes = {"cuda:0": 24, "cuda:1": 8}
    monkeypatch.setattr("cl_bench.compute.devices.memory", lambda: gibibytes * 2**30)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda name: SimpleNamespace(total_memory=sizes[name] * 2**30)
    )
    found = overcommitted(jobs, devices)
    assert "\n" not in found and bool(found) == bool(said)

    assert re.fullmatch(said, found)


def test_the_processes_of_a_model_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl_bench.compute.devices.memory", lambda: 8 * 2**30)
    assert not overcommitted(5, ["cpu"])
    assert "--jobs 3: 6 workers on this machine need 9 GiB" in overcommitted(3, ["cpu"], 2)
    assert overcommitted(3, ["cpu"], 2).endswith("--jobs 2 fits") and not overcommitted(2, ["cpu"], 2)


def test_the_line_is_shown_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    monkeypatch.setattr("cl_bench.compute.devices.memory", lambda: 2**30)
    job.plant()
    result = job.run("--jobs=2", "-k", "model")
    assert result.ret == pytest.ExitCode.OK
    assert flat(result).count("--jobs 2: 2 workers on this machine need 3 GiB") == 1


class Full:
    """A worker process that has no memory for any task."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.told.append(message)

    def lines(self) -> Iterator[str]:
        yield json.dumps(
            {"event": "failed", "full": True, "error": "out of memory; try less", "tag": self.told[-1]["tag"]}
        )

    def poll(self) -> None:
        return None

    def stop(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("devices", "jobs", "advice"),
    [(GPUS, 4, "; or fewer --jobs, of which 2 share a GPU"), (GPUS, 2, ""), (["cpu"], 4, "")],
)
def test_out_of_memory_where_workers_share_a_gpu_names_jobs_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, devices: list[str], jobs: int, advice: str
) -> None:
    monkeypatch.setattr(LocalEngine, "_process", lambda *_: Full())
    spec = tiny(tmp_path).sweep(dense_row())[0]
    engine = LocalEngine(Store(tmp_path / "store"), {}, devices, jobs, Display())
    try:
        with pytest.raises(ComputationError) as caught:
            engine.record(spec)
    finally:
        engine.close()
    assert str(caught.value) == f"{spec.case}: out of memory; try less{advice}"


@pytest.mark.parametrize("name", ["nonsense", "cuda:77", "meta", "", "cpu:0:0", "cuda", "mps"])
def test_a_device_that_does_not_work_is_refused(name: str) -> None:
    import torch

    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    there_may_be = name.startswith("cuda")
    said = f"^--device {name}: " if there_may_be else f"^--device takes auto, cpu, cuda .*, got '{name}'"
    with pytest.raises(SpecError, match=said) as caught:
        torch_device(name)
    assert "\n" not in str(caught.value)
    assert torch_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("devices", "xdist", "cores", "gibibytes", "jobs"),
    [
        (["cpu"], False, 4, 16, 4),
        (["cpu"], False, 64, 12, 8),
        (["cpu"], False, 2, 1, 1),
        (["cpu"], True, 4, 16, 1),
        (["cuda:1"], False, 4, 16, 1),
        (["cuda:0", "cuda:1"], False, 4, 16, 2),
        (["cuda:0", "cuda:1"], True, 4, 16, 1),
    ],
)
def test_workers_by_default(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], xdist: bool, cores: int, gibibytes: int, jobs: int
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if xdist:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else gibibytes * 2**18)
    assert default_jobs(devices) == jobs


@pytest.mark.parametrize(
    ("name", "xdist", "found"),
    [
        ("cuda", None, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", None, ["cuda:1"]),
        ("cpu", None, ["cpu"]),
        ("cuda", "gw4", ["cuda:1", "cuda:2", "cuda:0"]),
    ],
)
def test_every_gpu_is_used_and_xdist_s_workers_begin_at_different_ones(
    monkeypatch: pytest.MonkeyPatch, name: str, xdist: str | None, found: list[str]
) -> None:
    import torch

    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if xdist:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", xdist)
    monkeypatch.setattr("cl_bench.compute.devices.torch_device", torch.device)  # there is no GPU to try
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert usable_devices(name) == found


def test_workers_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = []
    monkeypatch.setattr(WorkerProcess, "send", lambda self, message: told.append(message["device"]))
    engine = LocalEngine(Store(tmp_path), {}, ["cpu", "other"], 3, Display())
    for number in range(3):
        engine._spawn(Desk(number))
    engine.close()
    assert told == ["cpu", "other", "cpu"]
