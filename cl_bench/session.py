"""One pytest session over the suites: what it runs, how it pulls records, what it shows at the end."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from rich.console import Console

from cl_bench.claims import Claim, Judgement
from cl_bench.comparison import REFERENCE
from cl_bench.engines.local import ComputationError, LocalEngine, default_jobs, usable_devices
from cl_bench.errors import MethodError, SpecError, first_line
from cl_bench.origins import origins
from cl_bench.profile import Profile, Row, load_profile
from cl_bench.progress import Display
from cl_bench.records import RANDOM_INIT, Record
from cl_bench.report import RowResult, origins_table, plan_table, summary_table, write_report
from cl_bench.runner import load_record
from cl_bench.spec import DataSpec, MethodSpec, RunSpec, ScenesSpec
from cl_bench.store import Store

if TYPE_CHECKING:
    from _pytest.outcomes import Failed
    from _pytest.terminal import TerminalReporter

    from cl_bench.data.finder import Finder
    from cl_bench.registry import Registry
else:
    Failed = pytest.fail.Exception

PLAIN_WIDTH = 110  # columns of the summary where there is no terminal to ask
ROW, JUDGEMENT = "cl_bench.row", "cl_bench.judgement"  # what tests tell the summary, also from pytest-xdist workers
T = TypeVar("T")


class NotSupported(Failed):
    """A judged claim that is not supported: all that a declared known failure may raise."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, pytrace=False)


class Session:
    """One pytest session: profile, methods, store and engine, made when the first suite asks for them."""

    NAME = "cl_bench_session"

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._rows: dict[str, Row] = {}
        self._judgements: dict[str, dict[Claim, Judgement]] = {}

    # ---- what to run

    @cached_property
    def profile(self) -> Profile:
        """The validated profile."""
        return _or_usage_error(lambda: load_profile(self.config.option.profile, self._settings)).with_data(self._found)

    @property
    def _settings(self) -> list[str]:
        """What the command line changes in the profile, as ``--set`` says it."""
        option = self.config.option
        seeds = [] if option.seeds is None else [f"seeds={option.seeds}"]
        detector = [] if option.detector is None else [f"detection.detector={option.detector}"]
        return [*option.set, *seeds, *detector]

    def _found(self, spec: DataSpec) -> DataSpec:
        return spec if isinstance(spec, ScenesSpec) else self.data.found(spec)

    @cached_property
    def data(self) -> Finder:
        """Where data sets are, and which are missing."""
        from cl_bench.data import Places
        from cl_bench.data.finder import Finder

        option = self.config.option
        if option.download and option.data_root is None:
            raise pytest.UsageError("--download needs --data-root DIR, where to put what it gets")
        root = None if option.data_root is None else self.config.invocation_params.dir / option.data_root
        return Finder(Places.of(self.store.root, root), fetch=option.download and not self._is_worker)

    @property
    def _is_worker(self) -> bool:
        """Whether this is a worker of pytest-xdist."""
        return hasattr(self.config, "workerinput")

    @cached_property
    def methods(self) -> list[MethodSpec]:
        """What ``--method`` names."""
        from cl_bench.registry import spec_of
        from cl_bench.synthetic import try_options

        def named() -> list[MethodSpec]:
            here = self.config.invocation_params.dir
            names = self.config.option.method or ["dense_index"]
            found = [method for name in names for method in self.registry.select(name, here)]
            for method in found:
                try_options(method)
            return list(dict.fromkeys(map(spec_of, found)))

        return _or_usage_error(named)

    @cached_property
    def registry(self) -> Registry:
        """Every method there is: built in, of this project, of installed packages; and the files of ``--method``."""
        from cl_bench.registry import BUILT_IN, Registry

        return Registry([BUILT_IN, self.config.rootpath / "methods"])

    def list_methods(self) -> None:
        """Print every method there is, and those of the files that ``--method`` names."""
        from cl_bench.catalogue import entries, methods_table

        if self.config.option.method:
            _ = self.methods
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        found = _or_usage_error(lambda: entries(self.registry))
        console.print(methods_table(found, self.registry.broken, self.config.invocation_params.dir))

    def rows(self, item: Any) -> list[Row]:
        """The rows a test is about, one a method whose scheme its suite covers."""
        marker = item.get_closest_marker("sweep")
        schemes = marker.kwargs.get("schemes", ("instance", "dense"))
        return [Row(m, marker.kwargs["data"], marker.kwargs["views"]) for m in self.methods if m.level in schemes]

    @cached_property
    def reference(self) -> MethodSpec | None:
        """The method that a comparison is with, where ``--method`` names it."""
        return next((m for m in self.methods if m.name == REFERENCE), None)

    def pulled_by(self, claim: Claim, row: Row) -> list[Row]:
        """The rows whose records a claim takes: the one it is about and, for a comparison, the reference's."""
        if claim.kind != "no_worse_than" or self.reference is None:
            return [row]
        return [row, row._replace(method=self.reference)]

    # ---- pulling records

    @cached_property
    def store(self) -> Store:
        """Where results are kept."""
        given = self.config.option.store
        path = (self.config.rootpath if given == ".cl_bench" else self.config.invocation_params.dir) / given
        return _or_usage_error(lambda: Store(path), f"--store {path}")

    @cached_property
    def engine(self) -> LocalEngine:
        """Who computes what is missing."""
        devices = self.check_engine()
        jobs = self.config.option.jobs or default_jobs(devices)
        _ = self.methods  # by now the registry knows the files that --method names
        return LocalEngine(self.store, self.registry.places, devices, jobs, self.display, self.data.places.root)

    def check_engine(self) -> list[str]:
        """The devices, if they work and the number of workers makes sense."""
        option = self.config.option
        if option.jobs is not None and option.jobs < 1:
            raise pytest.UsageError(f"--jobs must be at least 1, got {option.jobs}")
        return _or_usage_error(lambda: usable_devices(option.device))

    @cached_property
    def display(self) -> Display:
        """What a person sees meanwhile."""
        return Display()

    def pull(self, specs: Sequence[RunSpec]) -> tuple[list[Record | None], list[str]]:
        """The records of some specs, computed if they must be; None where that failed, and a line for each failure."""
        self.submit(specs)
        if not all(self.engine.has(spec) for spec in specs):
            capture = self.config.pluginmanager.getplugin("capturemanager")
            with capture.global_and_fixture_disabled(), self.display.waiting(self._console()) as refresh:
                self.engine.wait(specs, refresh)
        records: list[Record | None] = []
        failures = []
        for spec in specs:
            try:
                records.append(self.engine.record(spec))
            except ComputationError as error:
                records.append(None)
                failures.append(str(error))
        return records, failures

    def submit(self, specs: Sequence[RunSpec]) -> None:
        """Queue what is missing."""
        self.display.total += self.engine.submit(specs)

    def _console(self) -> Console:
        """Where pytest writes; silent in pytest-xdist workers, which have no terminal."""
        reporter: TerminalReporter | None = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is None or self._is_worker:
            return Console(quiet=True)
        if reporter._tw.width_of_current_line:  # ensure_newline() would have pytest write the file's name again
            reporter._tw.line()
        file = reporter._tw._file
        if isinstance(file, io.TextIOWrapper) and not file.encoding.lower().startswith("utf"):
            file.reconfigure(errors="replace")
        return Console(file=file, width=None if file.isatty() else PLAIN_WIDTH)

    # ---- hooks

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Refuse what makes no sense before anything is collected and, under pytest-xdist, before its workers start."""
        option = self.config.option
        if option.plan and getattr(option, "numprocesses", None):
            raise pytest.UsageError("--plan runs nothing: leave out -n")
        if option.download or option.data_root is not None:
            _ = self.data
        if option.set or option.seeds is not None or option.profile != "smoke" or option.detector is not None:
            _ = self.profile
        if option.detector is not None:
            from cl_bench.evaluate.detection import check_detector

            _or_usage_error(lambda: check_detector(option.detector))
        if option.method:
            _ = self.methods
        if option.jobs is not None or option.device != "auto":
            self.check_engine()
        if option.store != ".cl_bench":
            _ = self.store

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """What is wrong with a plugin is one line, with its place in the plugin: no traceback through cl-bench."""
        try:
            return (yield)
        except MethodError as error:
            if pyfuncitem.get_closest_marker("contract") is None:
                raise
            message = str(error)
        pytest.fail(message, pytrace=False)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The contract comes first: it takes seconds, and tells why what follows would fail."""
        items.sort(key=lambda item: item.get_closest_marker("contract") is None)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One case a model, one claim a row; the contract once a method."""
        if metafunc.definition.get_closest_marker("contract") is not None and "method" in metafunc.fixturenames:
            metafunc.parametrize("method", self.methods, ids=str, indirect=True)
        if metafunc.definition.get_closest_marker("sweep") is None:
            return
        rows = self.rows(metafunc.definition)
        if "case" in metafunc.fixturenames:
            cases = [pytest.param((row, s), id=s.case) for row in rows for s in self.profile.sweep(row)]
            metafunc.parametrize("case", cases, indirect=True)
        if "claim" in metafunc.fixturenames:
            about = claim_of(metafunc.definition)
            claims = []
            if about.kind == "no_worse_than":
                rows = [row for row in rows if self.reference and row.method != self.reference]
                if not rows:
                    no_pair = pytest.mark.skip(reason=f"--method names no pair: {REFERENCE} and another dense one")
                    claims = [pytest.param(None, id="no pair", marks=no_pair)]
            for row in rows:
                reason = self.profile.known_failures(row).get(about)
                marks = [pytest.mark.xfail(strict=True, reason=reason, raises=NotSupported)] if reason else []
                claims.append(pytest.param(row, id=str(row.method), marks=marks))
            metafunc.parametrize("claim", claims, indirect=True)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Queue all that the selected tests will pull, so that every worker has something to do."""
        wanted = self._wanted(session.items)
        if not wanted:
            return
        if self.config.option.plan:
            self._plan(wanted)
        else:
            specs = [spec for specs in wanted.values() for spec in specs]
            self._prepare([spec for spec in specs if load_record(spec, self.store) is None])
            self.submit(specs)

    def _plan(self, wanted: dict[str, list[RunSpec]]) -> None:
        """Show what would run, how long it takes, what data is missing and where the profile's values are from."""
        console = self._console()
        state = {
            name: [(s, s.pretrain.objective.config, load_record(s, self.store)) for s in specs]
            for name, specs in wanted.items()
        }
        estimates = {name: self._timed(name, wanted[name][0]) for name, cases in state.items() if not _stored(cases)}
        estimates = {name: stages for name, stages in estimates.items() if stages}
        console.print(plan_table(state, self.profile.claims.alpha, self.engine.jobs, estimates))
        for line in dict.fromkeys(self.data.missing.values()):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(origins_table(_or_usage_error(lambda: origins(self.config.option.profile, self._settings))))

    def _timed(self, row: str, spec: RunSpec) -> dict[str, float]:
        """Seconds an encoder of a row takes here, by stage."""
        import torch

        from cl_bench.estimate import estimate

        device, method = torch.device(self.check_engine()[0]), None
        self._console().print(f"timing a few steps of {row} on {device} ...", highlight=False, markup=False)
        if device.type == "cpu":
            torch.set_num_threads(1)  # as a worker has
        if spec.pretrain.method.name != RANDOM_INIT:
            method = self.registry.resolve(str(spec.pretrain.method))
        try:
            return estimate(spec, method, device)
        except (MethodError, ValueError, RuntimeError) as error:  # a plan that cannot time one row is one all the same
            self._console().print(f"{row} could not be timed: {first_line(error)}", highlight=False, markup=False)
            return {}

    def _prepare(self, specs: Sequence[RunSpec]) -> None:
        """Find and decode the data of what is to be computed, before any of it is."""
        data = {d for spec in specs for d in spec.data_sets if not isinstance(d, ScenesSpec)}
        if data:
            with self.display.bar(self._console()) as on_step:
                _or_usage_error(lambda: self.data.prepare(data, on_step))

    def _wanted(self, items: Sequence[pytest.Item]) -> dict[str, list[RunSpec]]:
        """Specs by row."""
        wanted: dict[str, dict[RunSpec, None]] = {}
        for item in items:
            parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
            if item.get_closest_marker("sweep") is None:
                continue
            if isinstance(parameters.get("case"), tuple):  # not so where no method is of the suite's scheme
                row, spec = parameters["case"]
                wanted.setdefault(row.name, {})[spec] = None
            if isinstance(parameters.get("claim"), Row):
                row = parameters["claim"]
                for pulled in self.pulled_by(claim_of(item), row):
                    wanted.setdefault(pulled.name, {}).update(dict.fromkeys(self.profile.sweep(pulled)))
                wanted.setdefault("random_init", {}).update(dict.fromkeys(self.profile.random_init()))
        return {name: list(specs) for name, specs in wanted.items()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """With ``--plan`` nothing runs."""
        return True if self.config.option.plan else None

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """A model's line says more than a dot would."""
        if report.when == "call" and report.passed and [k for k, _ in report.user_properties] == [ROW]:
            return ("passed", "", "PASSED") if not hasattr(report, "wasxfail") else None
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which rows were tested and what was judged."""
        for key, told in report.user_properties:
            if key == ROW:
                row = _row_from_json(str(told))
                self._rows[row.name] = row
            elif key == JUDGEMENT:
                judgement = Judgement.from_json(str(told))
                self._judgements.setdefault(judgement.row, {})[judgement.claim] = judgement

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """The table, and where the report is."""
        if not self._rows:
            return
        named = [str(method) for method in self.methods]
        order = sorted(self._rows.values(), key=lambda row: (row.order, named.index(str(row.method))))
        results = [self._result(row) for row in order]
        terminalreporter.section("cl-bench")
        self._console().print(summary_table(results))
        directory = Path(self.config.option.report or self.store.root / "report")
        try:
            written = write_report(results, self.config.invocation_params.dir / directory)
        except (OSError, ValueError) as error:
            terminalreporter.write_line(f"report: {error}; the records in {self.store.root} are whole", red=True)
        else:
            named = [path.name for path in written if path.suffix != ".png"]
            figures = len(written) - len(named)
            told = [*named, f"{figures} figure{'s' if figures != 1 else ''}"]
            terminalreporter.write_line(f"report: {written[0].parent} ({', '.join(told)})")

    def _result(self, row: Row) -> RowResult:
        profile = self.profile
        sweep = profile.sweep(row)

        def stored(specs: Sequence[RunSpec]) -> tuple[Record, ...]:
            return tuple(r for r in (load_record(s, self.store) for s in specs) if r is not None)

        return RowResult(
            name=row.name,
            title=f"{row.method}: {row.data.replace('_', '-')} data, {row.views} views",
            method=str(row.method),
            scheme=row.method.level,
            data=row.data,
            dataset=profile.sources(row.data).data.name,
            views=row.views,
            records=stored(sweep),
            random_init=stored(profile.random_init()),
            judgements=tuple(self._judgements.get(row.name, {}).values()),
            expected=len(sweep),
            profile=profile.name,
            detection_metric=profile.detection.metric,
            departs=not profile.follows(load_profile("paper"), row.data),
            detection_protocol=profile.detection.sentence,
            linear_protocol=profile.linear.sentence,
            known=tuple(profile.known_failures(row).items()),
            alpha=profile.claims.alpha,
            margin=profile.claims.margin,
        )

    def pytest_unconfigure(self) -> None:
        """Stop the workers, however the session ends."""
        if "engine" in self.__dict__:
            self.engine.close()


def _stored(cases: Sequence[tuple[RunSpec, str, Record | None]]) -> bool:
    return any(record is not None for _, _, record in cases)


def claim_of(node: Any) -> Claim:
    """What a test's ``claim`` marker says."""
    marker = node.get_closest_marker("claim")
    if marker is None:
        raise pytest.UsageError(
            f"{node.nodeid}: a test with the claim fixture needs @pytest.mark.claim(kind, level=...)"
        )
    return Claim(*marker.args, **marker.kwargs)


def row_to_json(row: Row) -> str:
    """A row as a test report can carry it."""
    return json.dumps({"method": row.method.model_dump(mode="json"), "data": row.data, "views": row.views})


def _row_from_json(text: str) -> Row:
    told = json.loads(text)
    return Row(MethodSpec.model_validate(told["method"]), told["data"], told["views"])


def _or_usage_error(make: Callable[[], T], what: str = "") -> T:
    """What an option asks for; one that makes no sense ends the session before anything trains (exit status 4)."""
    try:
        return make()
    except (SpecError, MethodError) as error:
        raise pytest.UsageError(str(error)) from None
    except OSError as error:
        raise pytest.UsageError(f"{what}: {error.strerror or error}") from None
