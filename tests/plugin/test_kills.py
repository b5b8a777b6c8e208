"""Processes that are killed at random: what is computed stays, and the rest ends in the same bits.

``CL_BENCH_KILLS=100`` sets the number of kills; a nightly run takes 100 or more, a run of the slow tests a dozen.
``pytest -m slow -s`` prints what they interrupted.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NamedTuple

import pytest
from helpers import alive, environment, in_full, trained, until, workers
from jobs import Fork, Job

from cl_bench.compute import process, worker
from cl_bench.compute.process import descendants
from cl_bench.compute.record import load_record
from cl_bench.methods.registry import BUILT_IN, Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Row
from cl_bench.train import checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("as_in_a_shell", "forget_methods", "no_figures", "no_core_dumps"),
]

KILLS = int(os.environ.get("CL_BENCH_KILLS", "12"))
SEED = int(os.environ.get("CL_BENCH_KILLS_SEED", "0"))
OF_WORKERS = "SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGHUP", "SIGINT", "SIGSTOP"
OF_PYTEST = "SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGSTOP"
STILL = 300.0
"""Seconds without a change in the store after which nobody gets on any more, however busy the machine is."""
PLUGIN = """
import sys, time
from pathlib import Path
from cl_bench import Match, matching
from cl_bench.train import checkpoint

if Path(sys.argv[0]).stem == "worker":
    checkpoint.SECONDS_BETWEEN = 0.1

@matching("kills_slow")
def slow(views):
    time.sleep(0.01)
    return Match.identity(views)
"""


@pytest.fixture
def no_core_dumps() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


class ForkedWorker:
    """``subprocess.Popen`` of a worker, which is forked from a process that has torch, and is there at once."""

    def __init__(self, _: object, *, stderr: IO[str], **__: object) -> None:
        (requests, self._requests), (self._events, events) = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                for fd, own in enumerate((requests, events, stderr.fileno())):
                    os.dup2(own, fd)
                os.closerange(3, 1024)
                sys.argv = [worker.__file__]
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode) for fd, mode in enumerate("rww"))
                checkpoint.SECONDS_BETWEEN = 0.1  # the plugin is imported already
                worker.main()
            finally:
                os._exit(1)
        os.close(requests)
        os.close(events)
        self.stdin, self.stdout = os.fdopen(self._requests, "wb"), os.fdopen(self._events, "rb")

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        until(lambda: self.poll() is not None, timeout)
        assert self.returncode is not None
        return self.returncode


class Sweep:
    """Four trained encoders of a slow method and two untrained ones, and a store for each part of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "kills.py"
        self.file.write_text(PLUGIN)

    @cached_property
    def specs(self) -> tuple[RunSpec, ...]:
        method = spec_of(Registry([BUILT_IN, self.folder]).resolve("kills_slow"))
        profile = self.job("undisturbed").profile
        return (*profile.sweep(Row(method, "single_object", "overlapping")), *profile.random_init())

    @cached_property
    def undisturbed(self) -> dict[RunSpec, tuple[str, bytes]]:
        job = self.job("undisturbed")
        assert self.ask(job).wait() in (0, 1)
        found = self.found(job)
        assert len(found) == len(self.specs)
        return found

    def job(self, name: str) -> Job:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Job(folder, optimiser__epochs=20, detection__iterations=20)

    def ask(self, job: Job, share_views: int = 1) -> Fork:
        return job.fork(f"--method={self.file}", "--jobs=1", f"--share-views={share_views}")

    def found(self, job: Job) -> dict[RunSpec, tuple[str, bytes]]:
        """Return the records that a store holds, without what differs from run to run, and the encoders' bytes."""
        kept = {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing may be set aside
            for spec in self.specs:
                record = load_record(spec, job.store)
                if record is not None:
                    weights = (job.store.run(spec.pretrain.key).path / "encoder.safetensors").read_bytes()
                    kept[spec] = in_full(replace(record, seconds={}, provenance={})), weights
        return kept


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(tmp_path_factory.mktemp("kills"))


def written(job: Job) -> dict[str, int]:
    """Return the time at which each result in a store was written; an encoder counts once its status is there."""
    files = trained(job.root)
    ended = {str(Path(name).parent) for name in files if name.endswith("status.json")}
    return {
        name: when
        for name, when in files.items()
        if "spec" not in name and str(Path(name).parents[0]).removesuffix("/evals") in ended
    }


def litter(job: Job) -> list[Path]:
    """Return files that were not written to the end; what was asked for is noted after the results."""
    return [path for path in (job.root / "runs").rglob(".*") if path.parent.name != "specs"]


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)


class Kill(NamedTuple):
    """A signal to a process, and what that process was at, or the workers of that pytest."""

    whom: str
    signal: str
    phase: str


def kills(tally: Counter[Kill]) -> int:
    """Return how many of the signals were no mere stop."""
    return sum(n for kill, n in tally.items() if kill.signal != "SIGSTOP")


def phase_of(pids: Iterable[int]) -> str:
    """Say what some processes are at, by the run whose lock one of them has open."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            for file in (str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()):
                if file.endswith("/lock"):
                    run = Path(file).parent
                    if (run / "status.json").exists():
                        return "evaluation"
                    return "training, from a checkpoint" if (run / "checkpoint.pt").exists() else "training, anew"
    return "neither"


def told(tally: Counter[Kill]) -> str:
    """Return how many kills there were, of whom, and what they interrupted."""
    parts = []
    for by in (lambda kill: f"{kill.whom} {kill.signal}", lambda kill: f"interrupted {kill.phase}"):
        found = Counter[str]()
        for kill, n in tally.items():
            found[by(kill)] += n
        parts.append(", ".join(f"{name} {n}" for name, n in sorted(found.items())))
    return f"{kills(tally)} kills and {tally.total() - kills(tally)} stops: {'; '.join(parts)}"


class Killing:
    """Two askers on one store, of which some process is killed again and again until the store is complete."""

    def __init__(self, sweep: Sweep, job: Job, chance: random.Random, most: int) -> None:
        self.sweep, self.job, self.chance, self.most = sweep, job, chance, most
        self.askers: list[Fork] = []
        self.tally: Counter[Kill] = Counter()
        self.seen: dict[str, int] = {}
        self.pids: set[int] = set()
        self.checkpoints: set[str] = set()
        self.files: set[tuple[str, int]] = set()
        self.moved = time.monotonic()

    def go(self) -> None:
        self.askers = [self._ask() for _ in range(2)]
        try:
            while len(self.sweep.found(self.job)) < len(self.sweep.specs):
                self.askers = [one if self._runs(one) else self._ask() for one in self.askers]
                self._note()
                self._look()
                if kills(self.tally) < self.most:
                    self._wait()
                    self._kill()
                else:
                    time.sleep(0.2)
            for asker in filter(self._runs, self.askers):  # of one that has ended the status may have been read already
                asker.wait()
            self._note()
        finally:
            for pid in [asker.pid for asker in self.askers] + [*self.pids]:
                end(pid)

    def _ask(self) -> Fork:
        """Start an asker that trains encoders one by one or in lock-step, whatever those before it did."""
        return self.sweep.ask(self.job, self.chance.choice((1, 2, 4)))

    def _runs(self, asker: Fork) -> bool:
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(asker.pid, os.WNOHANG) == (0, 0)
        return False

    def _note(self) -> None:
        for name, when in written(self.job).items():
            assert self.seen.setdefault(name, when) == when, f"{name} was there, and was computed again"
        self.pids.update(pid for asker in self.askers for pid in descendants(asker.pid))

    def _look(self) -> None:
        """Fail where nobody gets on any more, and say what each asker's worker is at."""
        files = self._progress()
        if files != self.files:
            self.files, self.moved = files, time.monotonic()
        if time.monotonic() - self.moved > STILL:
            at_work = {asker.pid: (descendants(asker.pid), phase_of(descendants(asker.pid))) for asker in self.askers}
            pytest.fail(f"nobody gets on after {told(self.tally)}: {at_work}; the last lines are\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\n".join(line for asker in self.askers for line in asker.text.splitlines()[-5:])

    def _wait(self) -> None:
        """Mostly wait until somebody has got on, but not for ever; then for any moment after it."""
        if self.chance.random() < 0.8:
            before, give_up = self._progress(), time.monotonic() + 30
            while self._progress() == before and all(map(self._runs, self.askers)) and time.monotonic() < give_up:
                time.sleep(0.02)
        time.sleep(self.chance.random())

    def _progress(self) -> set[tuple[str, int]]:
        """Return every file of the runs and when it was written, and note the checkpoints."""
        files: set[tuple[str, int]] = set()
        for path in (self.job.root / "runs").rglob("*.*"):
            with contextlib.suppress(OSError):
                files.add((str(path), path.stat().st_mtime_ns))
        self.checkpoints |= {name for name, _ in files if name.endswith(".pt")}
        return files

    def _kill(self) -> None:
        asker = self.chance.choice(self.askers)
        mine = descendants(asker.pid)
        of_worker = bool(mine) and self.chance.random() < 0.6
        pid = self.chance.choice(mine) if of_worker else asker.pid
        name = self.chance.choice(OF_WORKERS if of_worker else OF_PYTEST)
        if not alive(pid):
            return
        self.pids |= set(mine)
        kill = Kill("worker" if of_worker else "pytest", name, phase_of([pid] if of_worker else mine))
        with contextlib.suppress(ProcessLookupError):  # it has just ended, or is ended with pytest while it is stopped
            os.kill(pid, getattr(signal, name))
            self.tally[kill] += 1
            if name == "SIGSTOP":  # held for a while, as by a machine that swaps
                time.sleep(1.5 * self.chance.random())
                os.kill(pid, signal.SIGCONT)


def test_kills_at_random_lose_nothing(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": ForkedWorker}))
    right, chance, done, rounds, checkpoints = sweep.undisturbed, random.Random(SEED), Counter[Kill](), 0, set()
    while kills(done) < KILLS:
        job = sweep.job(f"store-{rounds}")
        killing = Killing(sweep, job, chance, KILLS - kills(done))
        killing.go()
        done += killing.tally
        rounds += 1
        checkpoints |= killing.checkpoints
        assert sweep.found(job) == right, f"after {told(done)}, CL_BENCH_KILLS_SEED={SEED}"
        assert not (job.root / "set_aside").exists()
        assert not litter(job)
        assert rounds <= 3 * KILLS, f"the sweeps end before they are killed: {told(done)}"
        until(lambda: not any(map(alive, killing.pids)), 20, "every worker ends")  # noqa: B023
    assert checkpoints, "or the test shows nothing"
    print(f"\n{told(done)}; {rounds} stores of {len(sweep.specs)} encoders, nothing lost, nothing computed twice")


@contextlib.contextmanager
def spread(sweep: Sweep, job: Job) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run pytest with two processes of xdist; yields it and its descendants once both have a worker and one trains."""
    command = [sys.executable, "-m", "pytest", "-n", "2", *job.args(f"--method={sweep.file}", "--jobs=1")]
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    main = subprocess.Popen(command, cwd=job.folder, env=environment(), stdout=pipe, stderr=merged, text=True)
    every: list[int] = []
    try:
        until(lambda: len(workers(descendants(main.pid))) == 2, 120, "both have workers")
        until(lambda: list((job.root / "runs").rglob("checkpoint.pt")), 120, "one is at work")
        every = descendants(main.pid)
        yield main, every
    finally:
        main.kill()
        main.communicate(timeout=60)  # its processes end by themselves
        until(lambda: not any(map(alive, every)), 60, "all end with pytest")


def test_xdist_whose_processes_are_killed_goes_on(sweep: Sweep) -> None:
    """One of its two processes, then pytest itself, then nobody."""
    right, job = sweep.undisturbed, sweep.job("xdist")
    with spread(sweep, job) as (main, every):
        victim = next(pid for pid in every if len(workers(descendants(pid))) == 1)
        mine = descendants(victim)
        os.kill(victim, signal.SIGKILL)
        until(lambda: not any(map(alive, mine)), 20, "its worker ends")
        said, _ = main.communicate(timeout=300)
        assert main.returncode == 1 and "crashed" in said and "INTERNALERROR" not in said, said[-3000:]
    for spec in sweep.specs[:2]:
        shutil.rmtree(job.store.run(spec.pretrain.key).path, ignore_errors=True)
    done = written(job)
    assert done
    with spread(sweep, job):
        pass
    assert sweep.ask(job).wait() in (0, 1)
    assert sweep.found(job) == right
    assert {name: written(job)[name] for name in done} == done
    assert not (job.root / "set_aside").exists() and not litter(job)
