"""A user's whole run on a tiny profile and records without training: in this process or in a fork of it."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, alive, plant, tiny_profile, until

from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.store import Store

OUTCOMES = Mapping[str, int]
TAU_FALLS, TAU_RISES, TAU_UNCLEAR = (90, 80, 70, 60), (60, 70, 80, 90), (70, 90, 80, 60)
"""Performance of two configurations of each family, in the order of rising L_a and L_u."""
ALPHA = 0.3
"""Level of the claims: two pairs of configurations are both in the claimed order by chance in 1 of 4 cases."""


class Job:
    """A tiny profile, a store, and the suites on them."""

    def __init__(self, folder: Path, pytester: pytest.Pytester | None = None, **changes: Any) -> None:
        self.folder = folder
        self.pytester = pytester
        self.root = folder / "the store"
        self.report = folder / "the report"
        self.profile_file = tiny_profile(folder / "tiny.toml", **{"claims__alpha": ALPHA, **changes})
        self.profile = load_profile(str(self.profile_file))

    @property
    def store(self) -> Store:
        return Store(self.root)

    def row(self, data: str = "single_object", views: str = "overlapping", method: str = "dense_index") -> Row:
        return Row(spec_of(Registry().resolve(method)), data, views)  # type: ignore[arg-type]

    def specs(self, data: str = "single_object", views: str = "overlapping") -> tuple[RunSpec, ...]:
        return (*self.profile.sweep(self.row(data, views)), *self.profile.random_init())

    @property
    def summary(self) -> str:
        """The report's summary.txt, in one line."""
        return re.sub(r"\s+", " ", (self.report / "summary.txt").read_text())

    def plant(self, performance: tuple[float, ...] = TAU_FALLS, untrained: float = 10.0, **row: str) -> None:
        """Store a sweep whose L_a and L_u rise together; each seed is a tenth of a point better than the one before."""
        specs = self.profile.sweep(self.row(**row))
        places = {name: n for n, name in enumerate(dict.fromkeys(spec.pretrain.objective.config for spec in specs))}
        for spec in specs:
            n, seed = places[spec.pretrain.objective.config], spec.pretrain.seed
            L_a, L_u, score = -0.9 + n / 10 + seed / 1000, -3 + n / 10, performance[n] + seed / 10
            plant(self.store, spec, L_a=L_a, L_u=L_u, performance=score)
        for n, spec in enumerate(self.profile.random_init()):
            plant(self.store, spec, performance=untrained + n / 100)

    def args(self, *more: str, suites: str = "test_single_object.py") -> list[str]:
        own = f"--profile={self.profile_file}", f"--store={self.root}", f"--report={self.report}", "--device=cpu"
        where = str(ROOT / "suites" / suites)
        return ["-p", "no:cacheprovider", f"--rootdir={ROOT}", where, *own, *more]

    def run(self, *more: str, suites: str = "test_single_object.py") -> pytest.RunResult:
        """Run pytest inside this process."""
        assert self.pytester is not None
        return self.pytester.runpytest_inprocess(*self.args(*more, suites=suites))

    def fork(self, *more: str, encoding: str = "utf-8") -> Fork:
        """Run pytest in a child of this process."""
        return Fork(self.args(*more), self.folder, encoding)


class Fork:
    """pytest in a child process that writes to a file."""

    def __init__(self, args: list[str], folder: Path, encoding: str) -> None:
        self.out = folder / f"out-{time.monotonic_ns()}"
        target = os.open(self.out, os.O_WRONLY | os.O_CREAT)
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.setsid()
                os.chdir(folder)
                for fd in (1, 2):
                    os.dup2(target, fd)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                sys.stdout = sys.__stdout__ = os.fdopen(os.dup(1), "w", encoding=encoding)
                sys.stderr = sys.__stderr__ = os.fdopen(os.dup(2), "w", encoding=encoding)
                for name in [name for name in os.environ if name.startswith("PYTEST_")]:
                    del os.environ[name]
                os.environ["TERM"] = "xterm"
                signal.signal(signal.SIGINT, signal.default_int_handler)
                code = int(pytest.main(args))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.close(target)

    @property
    def text(self) -> str:
        return self.out.read_text()

    def wait(self, seconds: float = 120) -> int:
        status = until(lambda: (got := os.waitpid(self.pid, os.WNOHANG))[0] and (got[1], True), seconds, "it ends")[0]
        return os.waitstatus_to_exitcode(status)

    def stop(self) -> None:
        if alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)


def outcomes(result: pytest.RunResult) -> OUTCOMES:
    found = result.parseoutcomes()
    return {name: n for name, n in found.items() if name not in ("warnings", "warning")}


def flat(result: pytest.RunResult) -> str:
    return re.sub(r"\s+", " ", result.stdout.str())
