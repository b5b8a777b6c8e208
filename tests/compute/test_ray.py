"""The workers on a Ray cluster, started here with two cores for what these tests compute."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench import Notes
from helpers import dense_row, tiny, until, workers
from jobs import Job, flat, outcomes

from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.compute.process import descendants
from cl_bench.compute.progress import Display
from cl_bench.compute.record import load_record
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


@pytest.mark.parametrize(
    ("device", "jobs", "devices", "reserved"),
    [
        ("cpu", 2, 2, {"num_cpus": 1.0}),
        ("cpu", 4, 2, {"num_cpus": 0.5}),
        ("cuda", 2, 2, {"num_cpus": 0, "num_gpus": 1.0}),
        ("cuda", 3, 2, {"num_cpus": 0, "num_gpus": 0.5}),
        ("cuda", 6, 1, {"num_cpus": 0, "num_gpus": 0.1666}),
    ],
)
def test_workers_reserve_their_share_of_a_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, jobs: int, devices: int, reserved: dict[str, float]
) -> None:
    from unittest.mock import MagicMock

    from cl_bench.compute import ray as module

    ray = MagicMock()
    monkeypatch.setattr(module, "_ray", lambda: ray)
    runs = module.RayEngine(Store(tmp_path), {}, [device] * devices, jobs, Display())
    with (tmp_path / "errors").open("w") as errors:
        runs._process(device, errors)
    options = ray.remote.return_value.options
    assert options.call_args.kwargs == {"max_concurrency": 2, **reserved}
    assert options.return_value.remote.call_args.args[1:] == (device, -(-jobs // devices))
    assert jobs / devices * reserved.get("num_gpus", reserved["num_cpus"]) <= 1


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


def engine(store: Store, jobs: int = 1, watcher: Any = None, share_views: int = 1) -> Any:
    from cl_bench.compute.ray import RayEngine, joined

    devices = joined("cpu")
    assert devices == ["cpu", "cpu"]
    how = None, 1, math.inf, share_views
    return RayEngine(store, Registry().plugins, devices, jobs, watcher or Display(), *how)


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
    return workers(descendants(os.getpid()))


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_record(tmp_path: Path) -> None:
    wanted = specs(tmp_path, optimiser__epochs=30)
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


class ByWorker(Notes):
    """Notes that tell the workers apart."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: set[int] = set()

    def started(self, worker: int, spec: RunSpec) -> None:
        super().started(worker, spec)
        self.workers.add(worker)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_without_a_place_holds_no_encoder_and_begins_once_it_has_one(tmp_path: Path) -> None:
    import ray

    class Other:  # of this function, so that Ray sends it whole
        def there(self) -> bool:
            return True

    wanted, notes, before = specs(tmp_path, seeds=4), ByWorker(), []  # a busy machine starts the other slowly
    runs = engine(Store(tmp_path / "store"), 2, notes)
    other = ray.remote(Other).options(num_cpus=1).remote()
    assert ray.get(other.there.remote())

    def leave() -> None:
        """End the other's work once an encoder is done."""
        if notes.ended and not before:
            before.append(len(notes.workers))
            ray.kill(other)

    assert len(computed(runs, wanted, leave)) == len(wanted) == sum(notes.begun.values())
    assert before == [1] and notes.workers == {0, 1}


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
def test_encoders_in_lock_step_are_those_computed_here(tmp_path: Path) -> None:
    wanted = specs(tmp_path)
    together = Store(tmp_path / "ray")
    found = computed(engine(together, share_views=len(wanted)), wanted)
    local = LocalEngine(Store(tmp_path / "local"), Registry().plugins, ["cpu"], 2, Display())
    assert found == computed(local, wanted)
    kept = [load_record(spec, together) for spec in wanted]
    assert {record.provenance["in_lock_step"] for record in kept if record} == {len(wanted)}


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
        (["--engine=ray", "--device=cuda"], "--device cuda: the Ray cluster has no such device"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(job: Job, options: list[str], said: str) -> None:
    result = job.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.stderr.lines if said in line]) == 1
