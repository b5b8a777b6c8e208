"""Hooks of a pytest session over the suites: refusing invalid options, collecting, queueing and showing results."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cl_bench.claims.comparison import REFERENCE
from cl_bench.claims.sequential import Look
from cl_bench.compute.asked import prepare_data
from cl_bench.compute.devices import check_division
from cl_bench.compute.record import load_record
from cl_bench.errors import PluginError, check_folder, plain
from cl_bench.folders import suites_folder
from cl_bench.plugin.options import or_usage_error
from cl_bench.plugin.planning import Planner
from cl_bench.plugin.session import Session
from cl_bench.plugin.summary import Summary
from cl_bench.plugin.told import NOT_TESTED, attach, status
from cl_bench.spec import RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row
from cl_bench.spec.records import LEVELS, Record

if TYPE_CHECKING:
    from _pytest.outcomes import Failed
    from _pytest.terminal import TerminalReporter

    Known = list[tuple[RunSpec, str, Record | None]]  # of a row: each spec, its configuration, what the store holds
else:
    Failed = pytest.fail.Exception

NO_PAIR = {
    "no_worse_than": f"pair of {REFERENCE} and another dense method",
    "keeps_up": "pair of a dense method and an instance one",
}


class ClaimNotSupported(Failed):
    """Failure of a judged claim that is not supported; a declared known failure may raise nothing else."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, pytrace=False)


class Hooks:
    """Hooks of one pytest session, and the results of its tests."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config = session.config
        self.planner = Planner(session)
        self.summary = Summary(session)
        self._asked: list[RunSpec] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Refuse invalid options before anything is collected and, under pytest-xdist, before its workers start."""
        option = self.session.options
        self._greet()
        if getattr(self.config.option, "numprocesses", None):
            if option.plan:
                raise pytest.UsageError("--plan runs nothing: leave out -n")
            if option.rerun != "missing":
                raise pytest.UsageError(
                    "--rerun sets old results aside, which one process has to do: leave out -n; --jobs sets the workers"
                )
        computing = {"--rerun": option.rerun != "missing", "--until-conclusive": option.until_conclusive}
        for other, given in computing.items():
            if option.from_store and given:
                raise pytest.UsageError(f"--from-store computes nothing: leave out {other}")
        if option.budget is not None and not option.until_conclusive:
            raise pytest.UsageError(f"--budget {option.budget} limits --until-conclusive: give both")
        if option.download or option.data_root is not None:
            _ = self.session.data
        changes = option.seeds, option.detector, option.encoder
        if option.set or option.profile != "smoke" or any(change is not None for change in changes):
            _ = self.session.profile
        detector = option.detector
        if detector is not None:
            from cl_bench.evaluate.detection import check_detector

            or_usage_error(lambda: check_detector(detector))
        if option.method:
            _ = self.session.methods
        workers = option.jobs, option.device, option.engine, option.gpus_per_model, option.share_views
        if workers != (None, "auto", "local", 1, 1):
            _ = self.session.workers
        _ = self.session.timeout
        if option.store != ".cl_bench":
            _ = self.session.store
        if (report := option.report) is not None:
            or_usage_error(lambda: check_folder("--report", self.session.here / report))
        if option.predictor:
            for line in self.session.doubtful():
                self.session.console().print(plain(line), style="red", highlight=False, markup=False)
        _ = self.session.baseline, self.session.to_save

    def _greet(self) -> None:
        """Say at once what is asked for, where a suite is: finding methods imports torch, which takes seconds."""
        option = self.session.options
        folder = suites_folder()
        paths = [(self.session.here / str(word).partition("::")[0]).resolve() for word in self.config.args]
        if any(path == folder or folder in path.parents for path in paths):
            methods = ", ".join(option.method or ["dense_index"])
            profile = Path(option.profile).name
            line = plain(f"cl-bench: {methods}, profile {profile}, results in {option.store}")
            self.session.console().print(line, highlight=False, markup=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Report an error in a plugin as one line with its place there, without a traceback through cl-bench."""
        try:
            return (yield)
        except PluginError as error:
            if pyfuncitem.get_closest_marker("contract") is None:
                raise
            message = str(error)
        pytest.fail(message, pytrace=False)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put tests of the contract first: they take seconds, and show why later tests would fail."""
        items.sort(key=lambda item: item.get_closest_marker("contract") is None)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise tests: one case per model, one claim per row, and the contract once per method."""
        if metafunc.definition.get_closest_marker("contract") is not None and "method" in metafunc.fixturenames:
            metafunc.parametrize("method", self.session.methods, ids=str, indirect=True)
        if metafunc.definition.get_closest_marker("contract") is not None and "predictor" in metafunc.fixturenames:
            named = self.session.named_predictors
            skip = pytest.mark.skip(reason=f"{NOT_TESTED} --predictor names no predictor.")
            parameters: list[Any] = [*named] if named else [pytest.param(None, marks=skip)]
            ids = [predictor.name for predictor in named] or ["none"]
            metafunc.parametrize("predictor", parameters, ids=ids, indirect=True)
        if metafunc.definition.get_closest_marker("sweep") is None:
            return
        rows = self.session.rows(metafunc.definition)
        if "case" in metafunc.fixturenames:
            last = self.session.looks[-1]  # cases of later looks than the first are held back (stages.py)
            cases = [pytest.param((row, s), id=s.case) for row in rows for s in self.session.sweep(row, last)]
            metafunc.parametrize("case", cases or [self._untested(metafunc.definition)], indirect=True)
        if "claim" in metafunc.fixturenames:
            metafunc.parametrize("claim", self._claims(metafunc.definition, rows), indirect=True)

    def _claims(self, definition: Any, rows: Sequence[Row]) -> list[Any]:
        """Return a parameter for each row of a claim; if there is none, a skipped parameter with the reason."""
        claims, kind = [], ""
        for row in rows:
            about = claim_of(definition, row)
            kind = about.kind
            if about.paired and self.session.reference_of(about, row) is None:
                continue
            reason = None if about.exploratory else self.session.profile.known_failures(row).get(about)
            marks = [pytest.mark.xfail(strict=True, reason=reason, raises=ClaimNotSupported)] if reason else []
            claims.append(pytest.param(row, id=str(row.method), marks=marks))
        if claims:
            return claims
        return [self._untested(definition, kind)]

    def _untested(self, definition: Any, kind: str = "") -> Any:
        """Return a skipped parameter, for a test of a row that there is none of, with the reason as a sentence."""
        asked = definition.get_closest_marker("sweep").kwargs
        reason = self.session.profile.lacks(asked.get("scenes", ""))
        lacks = NO_PAIR.get(kind, f"{' or '.join(asked.get('schemes', LEVELS))} method")
        skip = pytest.mark.skip(reason=f"{NOT_TESTED} {reason or f'--method names no {lacks}'}.")
        return pytest.param(None, id="no row", marks=skip)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Queue all records that the selected tests need, so that every worker has work."""
        self.session.selected = [(row, claim_of(item, row)) for item, row in claimed(session.items)]
        self._enough_untrained()
        wanted = self.wanted(session.items)
        if not wanted:
            return
        per_model = self.session.options.gpus_per_model
        or_usage_error(lambda: check_division(per_model, (spec for specs in wanted.values() for spec in specs)))
        if self.session.options.plan:
            or_usage_error(lambda: self.planner.show(wanted, lambda look: self.wanted(session.items, look)))
        elif not self.session.options.from_store:
            self._asked = list(dict.fromkeys(spec for specs in wanted.values() for spec in specs))
            self.queue(self._asked)

    def _enough_untrained(self) -> None:
        """Refuse claims about untrained encoders with a single one, which shows no spread, before anything trains."""
        profile = self.session.profile if self.session.selected else None
        if profile and profile.random_inits < 2:
            about = next((f"{row.name}: {c.kind}" for row, c in self.session.selected if c.about_untrained), "")
            if about:
                raise pytest.UsageError(
                    f"profile {profile.name}: random_inits = {profile.random_inits}, and {about} is compared with the "
                    "spread of untrained encoders; give 2 or more (--set random_inits=3)"
                )

    def queue(self, specs: Sequence[RunSpec]) -> None:
        """Queue specs for computing: set stored results aside with ``--rerun``, and prepare the data first."""
        self._set_aside(specs)
        session = self.session
        or_usage_error(
            lambda: prepare_data(specs, session.store, lambda: session.data, session.display, session.console)
        )
        session.submit(specs)

    def _set_aside(self, specs: Sequence[RunSpec]) -> None:
        """Move stored results of these runs, or of those that diverged, out of the way if ``--rerun`` says so."""
        rerun, store = self.session.options.rerun, self.session.store
        if rerun == "missing":
            return
        found = or_usage_error(lambda: [(spec.pretrain.key, load_record(spec, store)) for spec in specs])
        stored = {key: record for key, record in found if record is not None}
        keys = [key for key, record in stored.items() if rerun == "all" or record.status != "complete"]
        away = or_usage_error(lambda: [key for key in keys if store.run(key).set_aside()], f"--rerun {rerun}")
        busy = f"; {len(keys) - len(away)} are being computed by another process" if len(away) < len(keys) else ""
        self.session.console().print(f"--rerun {rerun}: {len(away)} set aside{busy}", highlight=False, markup=False)

    def wanted(self, items: Sequence[pytest.Item], look: Look | None = None) -> dict[str, list[RunSpec]]:
        """Return specs by row; those of claims up to that look, or up to the last look that their rows have reached."""
        wanted: dict[str, dict[RunSpec, None]] = {}
        for item in items:
            parameters = parameters_of(item)
            if item.get_closest_marker("sweep") is None:
                continue
            if isinstance(parameters.get("case"), tuple):  # not so where no method is of the suite's scheme
                row, spec = parameters["case"]
                wanted.setdefault(row.name, {})[spec] = None
            if isinstance(parameters.get("claim"), Row):
                row = parameters["claim"]
                for pulled in self.session.pulled_by(claim_of(item, row), row).rows:
                    wanted.setdefault(pulled.name, {}).update(dict.fromkeys(self.session.sweep(pulled, look)))
                wanted.setdefault("random_init", {}).update(dict.fromkeys(self.session.profile.random_init()))
        return {name: list(specs) for name, specs in wanted.items()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """Run no test if ``--plan`` is given."""
        return True if self.session.options.plan else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what the test told on its report."""
        report = yield
        attach(item, report)
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
        """Print no dot for a model's test, and with ``-v`` the verdict and tau for a claim's."""
        return status(report, getattr(config.option, "verbose", 0) > 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the row of a test and its judgement."""
        self.summary.take(report)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter, exitstatus: int) -> None:
        """Show the table, the path of the report and, of an interrupted run, how much of it is kept."""
        self.summary.show(terminalreporter)
        self.summary.show_skipped()
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            self.summary.show_interrupted(terminalreporter, self._asked)

    def pytest_unconfigure(self) -> None:
        """Stop the workers, however the session ends."""
        self.session.close()


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """Return the parameters of a test by name; empty if it is not parametrised."""
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters


def claimed(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, Row]]:
    """Select the tests of claims, each with the row that its claim is about."""
    rows = ((item, parameters_of(item).get("claim")) for item in items)
    return ((item, row) for item, row in rows if isinstance(row, Row))  # none where no method is of the suite's scheme


def claim_of(node: Any, row: Row) -> Claim:
    """Return the claim of a test's marker about a row; its ``exploratory`` is True, or schemes to which it applies."""
    marker = node.get_closest_marker("claim")
    if marker is None:
        raise pytest.UsageError(
            f"{node.nodeid}: a test with the claim fixture needs @pytest.mark.claim(kind, level=...)"
        )
    given = marker.kwargs.get("exploratory", ())
    schemes = LEVELS if given is True else given
    if not set(schemes) <= set(LEVELS):
        raise pytest.UsageError(f"{node.nodeid}: exploratory takes True or schemes of {LEVELS}, got {given!r}")
    return Claim(*marker.args, **{**marker.kwargs, "exploratory": row.method.level in schemes})
