"""The workers on a Ray cluster, started here with two cores for what these tests compute."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench import Notes
from helpers import children, dense_row, tiny, until, workers
from jobs import Job, flat, outcomes

from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.compute.progress import Display
from cl_bench.compute.runner import load_record
from cl_bench.errors import SpecError
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.store import Store

pytest_plugins = ["pytester"]


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from cl_bench.compute.ray import joined

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"^--engine ray needs ray: pip install 'cl-bench\[ray\]'$"):
        joined("auto")


@contextmanager
def started(cpus: int) -> Iterator[Any]:
    """Start a Ray cluster of one node on this machine, which clients may leave."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "num_gpus": 0, "include_dashboard": False})
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = found.address
    yield found
    ray.shutdown()
    found.shutdown()
    os.environ.pop("RAY_ADDRESS")
    if before is not None:
        os.environ["RAY_ADDRESS"] = before


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a cluster of one node with two cores."""
    with started(2):
        yield


def specs(folder: Path, **changes: object) -> tuple[RunSpec, ...]:
    """Return a sweep of the unchanged method."""
    return tiny(folder, **changes).sweep(dense_row(**spec_of(Registry().resolve("dense_index")).model_dump()))


def engine(store: Store, jobs: int = 1, watcher: Any = None) -> Any:
    from cl_bench.compute.ray import RayEngine, joined

    devices, count = joined("cpu")
    assert (devices, count) == (["cpu"], 2)
    return RayEngine(store, Registry().plugins, devices, jobs, watcher or Display())


def computed(runs: Any, wanted: Sequence[RunSpec], meanwhile: Any = lambda: None) -> list[tuple[object, ...]]:
    """Compute some specs and return the figures of their records."""
    try:
        runs.submit(wanted)
        runs.wait(wanted, meanwhile)
        records = [runs.record(spec) for spec in wanted]
    finally:
        runs.close()
    return [(r.case, r.status, r.performance, r.alignment, r.uniformity, r.extra) for r in records]


def mine() -> set[int]:
    """Return the workers among this process's descendants, to which the cluster belongs."""
    return workers(children(os.getpid()))


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_record(tmp_path: Path) -> None:
    wanted = specs(tmp_path, optimiser__epochs=60, seeds=2)
    with started(1) as found:
        second = found.add_node(num_cpus=1, num_gpus=0)
        found.wait_for_nodes()
        store, notes, killed = Store(tmp_path / "ray"), Notes(), []

        def kill() -> None:
            """End the second node's processes while it computes, once the first has finished an encoder."""
            if not killed and notes.ended and len(notes.begun) >= len(notes.ended) + 2:
                killed.append(True)
                found.remove_node(second, allow_graceful=False)

        records = computed(engine(store, 2, notes), wanted, kill)
    assert killed and sum(notes.begun.values()) == len(wanted) + 1, "one encoder was begun twice"
    assert records == computed(
        LocalEngine(Store(tmp_path / "local"), Registry().plugins, ["cpu"], 2, Display()), wanted
    )
    until(lambda: not mine(), 30, "the workers end")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_beyond_the_cluster_leave_the_queue_to_those_that_have_a_place(tmp_path: Path) -> None:
    wanted = specs(tmp_path)
    notes = Notes()
    assert (
        len(computed(engine(Store(tmp_path / "store"), 5, notes), wanted)) == len(wanted) == sum(notes.begun.values())
    )


@pytest.mark.usefixtures("cluster")
def test_a_record_is_the_same_as_one_computed_here(tmp_path: Path) -> None:
    spec = specs(tmp_path)[0]
    records = []
    for name, make in (("ray", engine), ("local", lambda s: LocalEngine(s, Registry().plugins, ["cpu"], 1, Display()))):
        runs = make(Store(tmp_path / name))
        try:
            records.append(runs.record(spec))
        finally:
            runs.close()
    one, other = ((r.performance, r.alignment, r.uniformity, r.extra) for r in records)
    assert one == other
    weights = [next((tmp_path / name).glob("runs/*/encoder.safetensors")).read_bytes() for name in ("ray", "local")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "ray").glob(".ray*"))


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_fails_its_encoder_and_another_goes_on(tmp_path: Path) -> None:
    first, second = specs(tmp_path, optimiser__epochs=400)[:2]
    store = Store(tmp_path / "store")
    runs = engine(store)
    try:
        runs.submit([first])

        def kill() -> None:
            if (store.run(first.pretrain.key).path / "spec.json").exists():
                for pid in mine():
                    os.kill(pid, signal.SIGKILL)

        runs.wait([first], kill)
        with pytest.raises(ComputationError, match=rf"^{first.case}: its worker process ended \(killed by signal 9\)"):
            runs.record(first)
        quick = specs(tmp_path)[1]
        assert second.pretrain.key != quick.pretrain.key
        assert runs.record(quick).status == "complete"
    finally:
        runs.close()
    until(lambda: not mine(), 30, "the workers end")


@pytest.mark.usefixtures("cluster")
def test_a_node_that_does_not_see_the_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = specs(tmp_path)[0]
    runs = engine(Store(tmp_path / "store"))
    monkeypatch.setattr(Path, "touch", lambda *_: None)
    try:
        with pytest.raises(ComputationError, match=r"FileNotFoundError: node \S+ does not see the store .*store$"):
            runs.record(spec)
    finally:
        runs.close()


@pytest.mark.usefixtures("cluster")
def test_the_job_on_a_cluster(job: Job) -> None:
    job.plant()
    gone = job.specs()[1]
    for path in job.store.run(gone.pretrain.key).path.glob("*.json"):
        path.unlink()
    result = job.run("--engine=ray", "-k", "model")
    assert outcomes(result) == {"passed": 4, "deselected": 2}, flat(result)
    assert load_record(gone, job.store)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine=rey"], "argument --engine: invalid choice: 'rey'"),
        (["--engine=ray", "--device=cuda:1"], "--device cuda:1: with --engine ray it is auto, cpu or cuda"),
        (["--engine=ray", "--device=cuda"], "--device cuda: the Ray cluster has none"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(job: Job, options: list[str], said: str) -> None:
    result = job.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.stderr.lines if said in line]) == 1
