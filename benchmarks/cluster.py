"""Time of the paper's 381 encoders on 1 to 256 GPUs, with slow GPUs and failures, by simulation.

The encoders come in the order in which ``pytest suites/ --profile paper --method dense_index --method instance`` queues
them, and the queue of the engine itself hands them out. What is assumed:

- An encoder's hours are those of docs/reproducing-the-paper.md, counted operations at a sustained 15 TFLOP/s: 10.5 on
  STL-10 and 19.1 on COCO, 9.8 untrained. No one has measured them.
- A GPU's speed stays: the logarithm of its time an encoder is normal with a deviation of 5 %, and 2 GPUs in 100, drawn
  by chance, are stragglers that take twice as long.
- A GPU fails at random: on a *steady* cluster once in 50,700 hours, as in the training of Llama 3 (Grattafiori et al.
  2024: 419 unexpected interruptions of 16,384 GPUs in 54 days); as *spot* capacity it is taken away once in 24 hours.
  It, or another in its place, is back after an hour.
- An encoder that is lost goes on from its last checkpoint, which is up to five minutes old, once the queue is empty or
  at the next GPU without work; a start of a worker costs a minute.

Usage: ``python benchmarks/cluster.py [--draws 20] [--picture FILE.svg]``, a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import io
import math
import statistics
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from markupsafe import Markup

from cl_bench.compute.local import Desk
from cl_bench.compute.tasks import Task, Tasks
from cl_bench.methods.registry import Registry
from cl_bench.plugin.hooks import Hooks
from cl_bench.report.html.sheets import style
from cl_bench.report.html.svg import Axis, join, line_path, tag
from cl_bench.spec import RunSpec
from cl_bench.spec.records import RANDOM_INIT
from cl_bench.store import Store

ROOT = Path(__file__).resolve().parent.parent
FLOPS = 15e12 * 3600  # operations of a GPU in an hour
PRETRAIN = {"single_object": 3.7e16, "multi_object": 5.0e17}
EVALUATE = 1.5e14 + 5.3e17  # linear evaluation and detection
COUNTS = tuple(2**k for k in range(9))
DAY = 24.0


@dataclass(frozen=True)
class Cluster:
    """Chances of slow GPUs and of failures; times in hours.

    Attributes:
        deviation: Standard deviation of the logarithm of a GPU's time.
        stragglers: Share of the GPUs that take ``slowdown`` times as long.
        slowdown: Number of times as long.
        between_failures: Mean time between two failures of a GPU.
        away: Time until it is back.
        start: Time that a worker needs to start after a failure.
        checkpoint: Time between two checkpoints; infinite without any.
    """

    deviation: float = 0.0
    stragglers: float = 0.0
    slowdown: float = 2.0
    between_failures: float = float("inf")
    away: float = 1.0
    start: float = 1 / 60
    checkpoint: float = 5 / 60


STEADY = Cluster(deviation=0.05, stragglers=0.02, between_failures=50_700.0)
SPOT = replace(STEADY, between_failures=24.0)
IDEAL, LIMIT = "alike, no failures", "all hours / GPUs, or the longest encoder"
CLUSTERS = {
    IDEAL: Cluster(),
    "steady": STEADY,
    "spot": SPOT,
    "spot, without checkpoints": replace(SPOT, checkpoint=float("inf")),
}
SHADES = ("var(--muted)", "var(--align-uniform)", "var(--info-nce)", "var(--cross)")


class Outcome(NamedTuple):
    """Hours until the last encoder is done, share of the GPUs' hours that made results, and hours lost by failures.

    A slow GPU's hour makes less than an hour's result. Lost are the hours computed again, those in which a GPU that had
    failed was away, and those of starting again.
    """

    makespan: float
    utilisation: float
    lost: float
    failures: int


def queued() -> list[RunSpec]:
    """Return the encoders of the profile ``paper`` with both schemes in the order in which pytest queues them."""
    asked: list[RunSpec] = []

    class Spy:
        @pytest.hookimpl(trylast=True)
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            (hooks,) = (plugin for plugin in session.config.pluginmanager.get_plugins() if isinstance(plugin, Hooks))
            asked.extend(dict.fromkeys(spec for specs in hooks.wanted(session.items).values() for spec in specs))

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "runs").mkdir()
        asks = ["--profile=paper", "--method=dense_index", "--method=instance", "--from-store", f"--store={folder}"]
        only = ["--collect-only", "-p", "no:cacheprovider", str(ROOT / "suites"), f"--rootdir={ROOT}"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = pytest.main([*only, *asks], plugins=[Spy()])
    assert code == pytest.ExitCode.OK, f"pytest ended with {code!r}"
    return asked


def hours_of(spec: RunSpec) -> float:
    """Return the hours of an encoder on a GPU of the nominal speed."""
    trained = spec.pretrain.objective.family != RANDOM_INIT
    return (EVALUATE + trained * PRETRAIN[spec.pretrain.data.kind]) / FLOPS


class Queue:
    """The tasks of a sweep as an engine hands them out, and the hours that each encoder still needs."""

    def __init__(self, specs: Sequence[RunSpec], hours: Sequence[float]) -> None:
        self._hours = {spec.key: need for spec, need in zip(specs, hours, strict=True)}
        self._folder = tempfile.TemporaryDirectory()
        plugins = Registry().plugins
        self._all = [Task(spec, plugins.get(spec.pretrain.method.name, "")) for spec in specs]
        self.full()

    def full(self) -> Queue:
        """Queue every encoder, from its start."""
        self._tasks = Tasks(Store(Path(self._folder.name)), share_views=1, jobs=1)
        for task in self._all:
            self._tasks.add(task)
        self.needs = dict(self._hours)
        return self

    def next(self, desk: Desk) -> Task | None:
        """Return the next task, as the engine hands it out; None if there is none."""
        if not self._tasks:
            self._tasks.retry()  # what the engine does half a second later
        return self._tasks.take(desk.plugin)

    def back(self, task: Task, needs: float) -> None:
        """Take back a task whose GPU failed, as the engine does, with the hours that it still needs."""
        self.needs[task.spec.key] = needs
        self._tasks.release(task, busy=True)


def simulate(queue: Queue, gpus: int, cluster: Cluster, draws: np.random.Generator) -> Outcome:
    """Simulate a run.

    Args:
        queue: Queue with every encoder.
        gpus: Number of GPUs, each with one worker.
        cluster: Chances of slow ones and of failures.
        draws: Generator of chance.
    """
    pace = np.exp(cluster.deviation * draws.standard_normal(gpus))
    pace[draws.random(gpus) < cluster.stragglers] *= cluster.slowdown
    useful = sum(queue.needs.values())
    desks = [Desk(number) for number in range(gpus)]
    events: list[tuple[float, int, int, Task | None, float]] = []  # the second breaks ties in order
    free, begun, makespan, lost, failures = deque(range(gpus)), 0, 0.0, 0.0, 0
    now = 0.0
    while True:
        while free and (task := queue.next(desks[free[0]])) is not None:
            gpu = free.popleft()
            desks[gpu].plugin = task.plugin
            takes = queue.needs[task.spec.key] * pace[gpu]
            fails = draws.exponential(cluster.between_failures) if np.isfinite(cluster.between_failures) else takes
            kept = fails - fails % cluster.checkpoint if np.isfinite(cluster.checkpoint) else 0.0
            failed = fails < takes
            left = queue.needs[task.spec.key] - kept / pace[gpu] if failed else 0.0
            if failed:
                failures, lost = failures + 1, lost + fails - kept + cluster.away + cluster.start
            heapq.heappush(events, (now + min(takes, fails), begun, gpu, task, left))
            begun += 1
        if not events:
            return Outcome(makespan, useful / (gpus * makespan), lost, failures)
        now, _, gpu, done, left = heapq.heappop(events)
        if done is None:  # it is back
            free.append(gpu)
        elif left > 0:
            queue.back(done, left)
            desks[gpu].plugin = ""
            heapq.heappush(events, (now + cluster.away + cluster.start, begun, gpu, None, 0.0))
            begun += 1
        else:
            makespan = now
            free.append(gpu)


def means(queue: Queue, gpus: int, cluster: Cluster, draws: int) -> Outcome:
    """Return the means of some simulations, each with a seed of its own."""
    found = [simulate(queue.full(), gpus, cluster, np.random.default_rng(seed)) for seed in range(draws)]
    return Outcome(*(statistics.fmean(values) for values in zip(*found, strict=True)))  # type: ignore[arg-type]  # one mean a field


def table(found: Mapping[str, Sequence[Outcome]]) -> str:
    """Return days, utilisation and lost GPU-hours for each cluster and number of GPUs, as Markdown."""
    heads = " | ".join(f"{name}: days | used | lost" for name in found)
    lines = [f"| GPUs | {heads} |", "|---" * (1 + 3 * len(found)) + "|"]
    for row, gpus in enumerate(COUNTS):
        cells = [
            f"{one.makespan / DAY:.1f} | {one.utilisation:.0%} | {one.lost:,.0f} h"
            for one in (outcomes[row] for outcomes in found.values())
        ]
        lines.append(f"| {gpus} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(found: Mapping[str, Sequence[Outcome]], longest: float) -> str:
    """Return time and use of the GPUs against their number as SVG, in light and dark; ``longest`` is in hours."""
    x = Axis(-0.3, 8.3, 48, 400)
    days, used = Axis(math.log10(0.5), math.log10(400), 268, 30), Axis(0.0, 1.05, 268, 30)
    ticks = [(math.log10(value), f"{value:g}") for value in (1, 3, 10, 30, 100, 300)]
    shares = [(value / 100, f"{value} %") for value in range(0, 101, 20)]
    limit = [math.log10(max(found[IDEAL][0].makespan / gpus, longest) / DAY) for gpus in COUNTS]
    parts = [_grid(x, days, ticks, "days until all 381 encoders are done"), _line(x, days, limit, "var(--ink)", "5 4")]
    apart = [_grid(x, used, shares, "share of the GPUs' hours that made results")]
    for outcomes, shade in zip(found.values(), SHADES, strict=True):
        parts.append(_line(x, days, [math.log10(one.makespan / DAY) for one in outcomes], shade))
        apart.append(_line(x, used, [one.utilisation for one in outcomes], shade))
    legend, at = [], 48.0
    for name, shade, dashes in [
        (LIMIT, "var(--ink)", "5 4"),
        *((n, s, "") for n, s in zip(found, SHADES, strict=True)),
    ]:
        more = {"stroke_dasharray": dashes} if dashes else {}
        legend.append(tag("line", x1=at, x2=at + 22, y1=314, y2=314, stroke=shade, stroke_width=2, **more))
        legend.append(tag("text", name, x=at + 28, y=318))
        at += 54 + 5.6 * len(name)
    drawing = tag(
        "svg",
        tag("title", "The paper's encoders on 1 to 256 GPUs, simulated"),
        tag("style", style("palette", "charts")),
        tag("rect", width=840, height=330, fill="var(--ground)"),
        tag("g", *parts),
        tag("g", *apart, transform="translate(424 0)"),
        *legend,
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 840 330",
        class_="chart",
        role="img",
    )
    return f"{drawing}\n"


def _grid(x: Axis, y: Axis, ticks: Sequence[tuple[float, str]], name: str) -> Markup:
    """Draw a frame whose x axis has the numbers of GPUs, and whose y axis has those ticks with those names."""
    parts = [tag("text", name, class_="axis", x=x.start, y=18)]
    for k, gpus in enumerate(COUNTS):
        parts.append(tag("line", class_="grid", x1=x(k), x2=x(k), y1=y.end, y2=y.start))
        parts.append(tag("text", str(gpus), x=x(k), y=y.start + 14, text_anchor="middle"))
    for value, told in ticks:
        parts.append(tag("line", class_="grid", x1=x.start, x2=x.end, y1=y(value), y2=y(value)))
        parts.append(tag("text", told, x=x.start - 5, y=y(value) + 3.5, text_anchor="end"))
    parts.append(tag("rect", class_="frame", x=x.start, y=y.end, width=x.end - x.start, height=y.start - y.end))
    return join(
        [*parts, tag("text", "GPUs", class_="axis", x=(x.start + x.end) / 2, y=y.start + 29, text_anchor="middle")]
    )


def _line(x: Axis, y: Axis, values: Sequence[float], shade: str, dashes: str = "") -> Markup:
    """Draw a line through one value for each number of GPUs."""
    path = line_path([(x(k), y(value)) for k, value in enumerate(values)])
    more = {"stroke_dasharray": dashes} if dashes else {}
    return tag("path", d=path, fill="none", stroke=shade, stroke_width=2, **more)


def run(draws: int) -> tuple[str, dict[str, list[Outcome]], float]:
    """Simulate every cluster; returns a line on the encoders, the outcomes by number of GPUs, the longest's hours."""
    specs = queued()
    hours = [hours_of(spec) for spec in specs]
    queue = Queue(specs, hours)
    told = f"{len(hours)} encoders, {sum(hours):,.0f} GPU-hours, the longest {max(hours):.1f} h; means of {draws} draws"
    found = {
        name: [means(queue, gpus, cluster, draws if cluster.deviation else 1) for gpus in COUNTS]
        for name, cluster in CLUSTERS.items()
    }
    return told, found, max(hours)


def main() -> None:
    """Print the table, and draw the picture if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    told, found, longest = run(given.draws)
    print(f"{told}\n\n{table(found)}")
    if given.picture is not None:
        given.picture.write_text(picture(found, longest), encoding="utf-8")


if __name__ == "__main__":
    main()
