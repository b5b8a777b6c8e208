"""Overhead of Ray against the local engine: a cluster of this machine, in the same run.

Both engines compute the same encoders of a profile with as many workers, in turn, each time into a new store.
A run has a start, until the first encoder begins, and the rest, until the last one is done. The cluster's own start,
which comes before, is told apart. The time of the processors is that of this process and the workers, and with Ray of
all its processes: other programs on the machine hardly change it.

Usage: ``python benchmarks/ray_overhead.py [--profile ci] [--encoders 24] [--rounds 5] [--jobs 2]``, minutes; needs the
extra ``ray``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from timing import machine

from cl_bench.compute.local import LocalEngine
from cl_bench.compute.ray import RayEngine, joined
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.spec.records import Record
from cl_bench.store import Store

SETTLE = 3.0  # seconds for the processes of the run before to end


class Seconds(NamedTuple):
    """Seconds of a run: until its first encoder begins, from then on until its last is done, and of all processors."""

    start: float
    rest: float
    cpu: float


class Clock:
    """Watcher that notes when the first encoder began."""

    def __init__(self) -> None:
        self.began = 0.0

    def started(self, worker: int, spec: RunSpec) -> None:
        self.began = self.began or time.perf_counter()

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        pass

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        if not isinstance(outcome, Record):
            raise RuntimeError(outcome)

    def waiting_for(self, spec: RunSpec, holder: str) -> None:
        raise RuntimeError(f"{spec.case} is computed by {holder}")


def cpu_seconds(of_ray: bool) -> float:
    """Return the processor's seconds of this process and its workers so far, and of all that Ray runs if asked."""
    mine, found = os.getpid(), 0.0
    stats = {int(path.parent.name): _stat(path) for path in Path("/proc").glob("[0-9]*/stat")}
    for pid, (parent, ticks) in stats.items():
        ancestors = [pid]
        while ancestors[-1] in stats and stats[ancestors[-1]][0] not in (0, *ancestors):
            ancestors.append(stats[ancestors[-1]][0])
        if pid == mine or (mine in ancestors and (of_ray or _is_worker(pid, parent))):
            found += ticks
    return found / os.sysconf("SC_CLK_TCK")


def _stat(path: Path) -> tuple[int, int]:
    """Return the parent of a process and the ticks of it and of its children that have ended; 0 if it has ended."""
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[1]), sum(map(int, fields[11:15]))


def _is_worker(pid: int, parent: int) -> bool:
    try:
        return parent == os.getpid() and "cl_bench.compute.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def compute(make: Callable[[Store, Clock], LocalEngine], specs: Sequence[RunSpec]) -> Seconds:
    """Compute some encoders into a new store."""
    time.sleep(SETTLE)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        engine = make(Store(Path(folder)), clock)
        before = cpu_seconds(isinstance(engine, RayEngine))
        try:
            begun = time.perf_counter()
            engine.submit(specs)
            engine.wait(specs, lambda: None)
            ended = time.perf_counter()
            used = cpu_seconds(isinstance(engine, RayEngine)) - before
        finally:
            engine.close()
    return Seconds(clock.began - begun, ended - clock.began, used)


def compare(profile: str, encoders: int, rounds: int, jobs: int) -> dict[str, list[Seconds]]:
    """Compute with both engines in turn, as many rounds; returns the seconds of each, and those of Ray's own start."""
    from ray.cluster_utils import Cluster

    registry = Registry()
    row = Row(spec_of(registry.resolve("dense_index")), "single_object", "overlapping")
    specs = load_profile(profile, ["seeds=16"]).sweep(row)[:encoders]
    assert len(specs) == encoders, f"the sweep has {len(specs)} encoders"
    begun = time.perf_counter()
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": jobs, "num_gpus": 0, "include_dashboard": False}
    )
    os.environ["RAY_ADDRESS"] = cluster.address
    joined("cpu")
    found: dict[str, list[Seconds]] = {
        "local": [],
        "ray": [],
        "cluster": [Seconds(time.perf_counter() - begun, 0.0, 0.0)],
    }
    try:
        for _ in range(rounds):
            found["local"].append(compute(lambda s, w: LocalEngine(s, registry.plugins, ["cpu"], jobs, w), specs))
            found["ray"].append(compute(lambda s, w: RayEngine(s, registry.plugins, joined("cpu"), jobs, w), specs))
    finally:
        cluster.shutdown()
    return found


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="ci", help="ci (an encoder takes seconds) or smoke (half a minute)")
    parser.add_argument("--encoders", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    found = compare(given.profile, given.encoders, given.rounds, given.jobs)
    print(machine("ray"))
    print(f"{given.encoders} encoders of {given.profile}, {given.jobs} workers, {given.rounds} rounds")
    print("| | start, s | all after it, s | an encoder, s | processors, s |\n|---|---|---|---|---|")
    for name in ("local", "ray"):
        start, rest, cpu = (statistics.median(values) for values in zip(*found[name], strict=True))
        print(f"| {name} | {start:.2f} | {rest:.2f} | {rest * given.jobs / given.encoders:.3f} | {cpu:.2f} |")
    parts: dict[str, Callable[[Seconds], float]] = {
        "after the start": lambda s: s.rest,
        "with the start": lambda s: s.start + s.rest,
        "of the processors": lambda s: s.cpu,
    }
    for name, part in parts.items():
        each = [part(ray) / part(local) - 1 for ray, local in zip(found["ray"], found["local"], strict=True)]
        print(f"overhead {name}: {statistics.median(each):+.1%}; by round {', '.join(f'{x:+.1%}' for x in each)}")
    print(f"start of the cluster, once: {found['cluster'][0].start:.1f} s")


if __name__ == "__main__":
    main()
