"""State of a pytest session over the suites: its options, and access to its records."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cl_bench.claims.baseline import Baseline, OldFormat, setting_of
from cl_bench.claims.comparison import REFERENCE
from cl_bench.claims.gate import Finding
from cl_bench.claims.judgement import Judgement
from cl_bench.claims.sequential import Look, looks
from cl_bench.compute.asked import (
    PLAIN_WIDTH,
    data_under,
    duration_seconds,
    method_specs,
    outcomes,
    profile_on,
    seed_settings,
    wait_for,
)
from cl_bench.compute.devices import check_per_model, check_share_views, default_jobs, overcommitted, usable_devices
from cl_bench.compute.loading import existing_store
from cl_bench.compute.local import LocalEngine
from cl_bench.compute.progress import Display
from cl_bench.compute.record import load_record
from cl_bench.console import Console
from cl_bench.errors import PredictorError
from cl_bench.plugin.options import Options, or_usage_error, renewing_command
from cl_bench.plugin.regression import findings_of
from cl_bench.spec import MethodSpec, RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.encoder_names import architecture
from cl_bench.spec.profile import Profile, Row
from cl_bench.spec.records import LEVELS, Record
from cl_bench.store import Store, digest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from cl_bench.data.locator import DatasetLocator
    from cl_bench.methods.registry import Registry
    from cl_bench.predictors import Predictor
    from cl_bench.predictors.registry import Predictors


class Pulled(NamedTuple):
    """Rows whose records a claim needs.

    Attributes:
        row: Row that the claim is about.
        reference: Row that a paired claim compares it with.
        twin: Same row with overlapping views, which must have learnt, for a row of disjoint views.
    """

    row: Row
    reference: Row | None
    twin: Row | None

    @property
    def rows(self) -> list[Row]:
        """Rows that are not None."""
        return [row for row in self if row is not None]


class Session:
    """Profile, methods, store and engine of a pytest session, made when a suite first needs them."""

    NAME = "cl_bench_session"

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.options = Options.of(config)
        self.selected: list[tuple[Row, Claim]] = []
        """The claims that this session judges, in order; known once tests are collected."""
        self.reached: dict[str, Look] = {}  # by row, if it is past the first look
        self.judged: dict[tuple[Row, Claim, str, Look], Judgement] = {}  # of a claim about a row, at each look

    @property
    def here(self) -> Path:
        """Folder that pytest was called in, which relative paths on its command line start from."""
        return self.config.invocation_params.dir

    @property
    def command(self) -> str:
        """Command line of the session."""
        return shlex.join(["pytest", *map(str, self.config.invocation_params.args)])

    @property
    def commit(self) -> str:
        """Commit of cl-bench's checkout, marked if files differ from it; empty if it is no checkout."""
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    # ---- profile, data, methods and predictors

    @cached_property
    def profile(self) -> Profile:
        """Validated profile."""
        measured = [self.predictors.spec_of(p) for p in self.measured]
        name, root = self.options.profile, self.data_root
        return or_usage_error(
            lambda: profile_on(name, self.settings, root, lambda spec: self.data.found(spec), measured)
        )

    @property
    def settings(self) -> list[str]:
        """Changes to the profile by the command line, in the form of ``--set``."""
        option = self.options
        typed = option.seeds
        seeds = [] if typed is None else or_usage_error(lambda: seed_settings(typed))
        detector = [] if option.detector is None else [f"detection.detector={option.detector}"]
        return [*self.encoder, *option.set, *seeds, *detector]

    @cached_property
    def encoder(self) -> list[str]:
        """Settings of a profile that ``--encoder`` stands for."""
        text = self.options.encoder
        found = {} if text is None else or_usage_error(lambda: architecture(text, self.here))
        own = {**found, "padding": "zeros"} if found else {}
        return [f"encoder.{key}={json.dumps(value)}" for key, value in own.items()]

    @property
    def data_root(self) -> Path | None:
        """Folder that ``--data-root`` names."""
        given = self.options.data_root
        return None if given is None else self.here / given

    @cached_property
    def data(self) -> DatasetLocator:
        """Locator of the data sets."""
        option = self.options
        fetch = option.download and not self.is_worker
        return or_usage_error(lambda: data_under(self.data_root, self.store, fetch, option.download))

    @property
    def is_worker(self) -> bool:
        """True in a worker of pytest-xdist."""
        return hasattr(self.config, "workerinput")

    @cached_property
    def methods(self) -> list[MethodSpec]:
        """Methods that ``--method`` names."""
        names = self.options.method or ["dense_index"]
        return or_usage_error(lambda: method_specs(names, self.registry, self.here))

    @cached_property
    def registry(self) -> Registry:
        """Registry of all methods: built in, of this project, of packages, and in the files of ``--method``."""
        from cl_bench.methods.registry import BUILT_IN, Registry

        return Registry([BUILT_IN, self.config.rootpath / "methods"])

    @cached_property
    def predictors(self) -> Predictors:
        """Registry of all predictors: built in, of installed packages, and in the files of ``--predictor``."""
        from cl_bench.predictors.registry import Predictors

        return Predictors()

    @cached_property
    def named_predictors(self) -> list[Predictor]:
        """Predictors that ``--predictor`` names."""
        names = self.options.predictor
        return or_usage_error(lambda: [p for name in names for p in self.predictors.select(name, self.here)])

    def doubtful(self) -> Iterator[str]:
        """Yield a line for each named predictor that fails on synthetic features; it may fail on an encoder's too."""
        from cl_bench.predictors.contract import try_on

        for predictor in self.named_predictors:
            try:
                try_on(predictor)
            except PredictorError as error:
                yield f"{error}; the run goes on, and leaves it out where it fails on an encoder"

    @property
    def measured(self) -> list[Predictor]:
        """Built-in predictors, and those that ``--predictor`` names."""
        named = self.named_predictors  # by now the registry knows their files
        return list(dict.fromkeys([*self.predictors.built_in, *named]))

    def list_predictors(self) -> None:
        """Print all predictors, including those in the files that ``--predictor`` names."""
        from cl_bench.methods.catalogue import predictors_table

        _ = self.named_predictors
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        console.print(predictors_table(self.predictors, self.here))

    def list_methods(self) -> None:
        """Print all methods, including those in the files that ``--method`` names."""
        from cl_bench.methods.catalogue import entries, methods_table

        if self.options.method:
            _ = self.methods
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        found = or_usage_error(lambda: entries(self.registry))
        console.print(methods_table(found, self.registry.broken, self.here))

    def rows(self, item: Any) -> list[Row]:
        """Return the rows that a test is about, one for each method whose scheme its suite covers."""
        asked = {"schemes": LEVELS, "scenes": "", **item.get_closest_marker("sweep").kwargs}
        if self.profile.lacks(asked["scenes"]):
            return []
        where = asked["data"], asked["views"], asked["scenes"]
        return [Row(m, *where) for m in self.methods if m.level in asked["schemes"]]

    def reference_of(self, claim: Claim, row: Row) -> Row | None:
        """Return the row that a paired claim compares a row with; None if ``--method`` names no method for it."""
        if claim.kind == "falls_behind":
            return row._replace(scenes=claim.against) if claim.against else row._replace(data="single_object")
        if claim.kind == "keeps_up":
            others = [m for m in self.methods if m.level != row.method.level]
            others.sort(key=lambda m: m.name != REFERENCE)
        else:
            others = [m for m in self.methods if claim.paired and m.name == REFERENCE and m != row.method]
        return row._replace(method=others[0]) if others else None

    def pulled_by(self, claim: Claim, row: Row) -> Pulled:
        """Return the rows whose records a claim needs."""
        twin = row._replace(views="overlapping", scenes="") if row.views == "disjoint" else None
        return Pulled(row, self.reference_of(claim, row), twin)

    @cached_property
    def looks(self) -> tuple[Look, ...]:
        """Looks at which claims are judged: one, or several with ``--until-conclusive``."""
        profile = self.profile
        if not self.options.until_conclusive:
            return (Look(1, 1, profile.seeds, profile.claims.alpha),)
        return or_usage_error(lambda: looks(profile.seeds, profile.max_seeds, profile.claims.alpha))

    def looks_of(self, rows: Sequence[Row]) -> tuple[Look, ...]:
        """Return the looks that all of these rows have reached, at least the first."""
        return self.looks[: min(self.reached.get(row.name, self.looks[0]).number for row in rows)]

    def sweep(self, row: Row, look: Look | None = None) -> tuple[RunSpec, ...]:
        """Return every encoder of a row up to that look, or up to the last look that the row has reached."""
        return self.profile.with_seeds((look or self.looks_of([row])[-1]).seeds).sweep(row)

    @cached_property
    def baseline(self) -> Baseline | None:
        """Baseline of ``--baseline``, which this run is compared with, or None."""
        given = self.options.baseline
        if given is None:
            return None
        path, renew = self.here / given, renewing_command(self.config.invocation_params.args, given)
        baseline = or_usage_error(lambda: Baseline.load(path, renew), f"--baseline {path}")
        if baseline.one_seed and self.profile.seeds == 1:
            raise pytest.UsageError(
                f"--baseline {path}: it has one seed per configuration, as this run has, and with one seed on each "
                "side there is no spread between seeds to compare a difference with; give --seeds 2 or more, or keep a "
                "baseline of several seeds"
            )
        return baseline

    @cached_property
    def to_save(self) -> Baseline | None:
        """Baseline of ``--save-baseline`` with its entries so far, or None."""
        given = self.options.save_baseline
        if given is None:
            return None
        path = self.here / given
        if not path.parent.is_dir():
            raise pytest.UsageError(f"--save-baseline {path}: there is no folder {path.parent}")

        def held() -> Baseline:
            try:
                return Baseline.load(path) if path.exists() else Baseline(path)
            except OldFormat:  # this is the command that renews it
                return Baseline(path)

        return or_usage_error(held, f"--save-baseline {path}")

    def setting(self, claim: Claim, row: Row) -> str:
        """Return the hash of everything that the verdict on a claim depends on, except code and seeds."""
        rows = self.pulled_by(claim, row).rows
        specs = [spec for look in self.looks for pulled in rows for spec in self.sweep(pulled, look)]
        settings = self.profile.claims
        return setting_of([*specs, *self.profile.random_init()], settings.alpha, settings.margin)

    @cached_property
    def findings(self) -> dict[tuple[Row, Claim], list[str | Finding]]:
        """Findings of the comparison with ``--baseline``, by the claim whose test reports them."""
        return {} if self.baseline is None else findings_of(self, self.baseline)

    @property
    def report(self) -> Path:
        """Folder of the report: one for each profile, and for each setting that the command line makes of it."""
        if self.options.report is not None:
            return self.here / self.options.report
        name = "-".join([self.profile.name, *self.settings])
        plain = re.sub(r"[^\w.=-]+", "_", name)
        return self.store.root / "report" / (plain if len(plain) < 100 else f"{plain[:60]}-{digest(name)[:12]}")

    # ---- records

    @cached_property
    def store(self) -> Store:
        """Store of the results."""
        given = self.options.store
        path = (self.config.rootpath if given == ".cl_bench" else self.here) / given
        make = existing_store if self.options.from_store else Store
        return or_usage_error(lambda: make(path), f"--store {path}")

    @cached_property
    def timeout(self) -> float:
        """Seconds that a worker may take for an encoder."""
        given = self.options.timeout_per_encoder
        return math.inf if given is None else or_usage_error(lambda: duration_seconds("--timeout-per-encoder", given))

    @cached_property
    def engine(self) -> LocalEngine:
        """Engine that computes missing records."""
        kind, devices, jobs = self.workers
        _ = self.methods  # by now the registry knows the files that --method names
        root, per_model, share = self.data.places.root, self.options.gpus_per_model, self.options.share_views
        plugins = self.registry.plugins
        return kind(self.store, plugins, devices, jobs, self.display, root, per_model, self.timeout, share)

    @cached_property
    def workers(self) -> tuple[type[LocalEngine], list[str], int]:
        """Engine class of ``--engine``, the devices of its workers, and the number of workers."""
        option = self.options
        if option.jobs is not None and option.jobs < 1:
            raise pytest.UsageError(f"--jobs must be at least 1, got {option.jobs}")
        per_model = option.gpus_per_model
        or_usage_error(lambda: check_share_views(option.share_views, per_model))
        if option.engine == "ray":
            if per_model != 1:
                raise pytest.UsageError(
                    f"--gpus-per-model {per_model}: with --engine ray a model has one GPU; leave out one of the two"
                )
            from cl_bench.compute.ray import RayEngine, joined

            devices = or_usage_error(lambda: joined(option.device))
            return RayEngine, devices, option.jobs or (1 if self.is_worker else len(devices))
        devices = or_usage_error(lambda: usable_devices(option.device))
        or_usage_error(lambda: check_per_model(per_model, devices))
        if option.jobs is not None and (line := overcommitted(option.jobs, devices, per_model)):
            self.console().print(line, highlight=False, markup=False, soft_wrap=True)
        return LocalEngine, devices, option.jobs or default_jobs(devices, per_model)

    @cached_property
    def display(self) -> Display:
        """Progress display."""
        return Display()

    def pull(self, specs: Sequence[RunSpec]) -> tuple[list[Record | None], list[str]]:
        """Return the records of some specs, computed if missing; None where that failed, and a line per failure."""
        if self.options.from_store:
            stored = [load_record(spec, self.store) for spec in specs]
            return stored, [f"{s.case}: not in the store" for s, r in zip(specs, stored, strict=True) if r is None]
        self.wait(specs)
        return outcomes(specs, self.engine)

    def wait(self, specs: Sequence[RunSpec], until: float = math.inf) -> bool:
        """Wait until each spec's outcome is known, or the monotonic clock shows ``until``; True if all are known."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        return wait_for(specs, self.engine, self.display, self.console, until, capture.global_and_fixture_disabled())

    def submit(self, specs: Sequence[RunSpec]) -> None:
        """Queue the specs that the store lacks."""
        self.display.total += self.engine.submit(specs)

    def console(self) -> Console:
        """Return a console that writes where pytest does; it is silent in pytest-xdist workers."""
        reporter: TerminalReporter | None = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is None or self.is_worker:
            return Console(quiet=True)
        if reporter._tw.width_of_current_line:  # ensure_newline() would have pytest write the file's name again
            reporter._tw.line()
        file = reporter._tw._file
        if isinstance(file, io.TextIOWrapper) and not file.encoding.lower().startswith("utf"):
            file.reconfigure(errors="replace")
        return Console(file=file, width=None if file.isatty() else PLAIN_WIDTH)

    def close(self) -> None:
        """Stop the workers, if any were started."""
        if "engine" in self.__dict__:
            self.engine.close()
