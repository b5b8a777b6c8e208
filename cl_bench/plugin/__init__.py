"""pytest's side: options, fixtures, and what a record or a verdict means as the outcome of a test. No science here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from cl_bench.claims.gate import Finding
from cl_bench.claims.judge import holm, judge
from cl_bench.claims.judgement import (
    IncompleteSweep,
    Judgement,
    Sweep,
    Verdict,
)
from cl_bench.claims.sequential import Look, first_decided
from cl_bench.plugin.hooks import ClaimNotSupported, Hooks, claim_of
from cl_bench.plugin.session import Session
from cl_bench.plugin.stages import Stages
from cl_bench.plugin.summary import FINDING, JUDGEMENT, ROW, row_to_json
from cl_bench.spec import RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row

if TYPE_CHECKING:
    from cl_bench.methods.method import Method
    from cl_bench.predictors import Predictor

DECOMPOSITION_TOLERANCE = 1e-4  # relative; the losses are computed in float32


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the suites."""
    group = parser.getgroup("cl-bench", "claims about contrastive representations")
    add = group.addoption
    add(
        "--method",
        action="append",
        metavar="NAME|FILE.py[:NAME]|all[:k=v,..]",
        help="method to test, repeatable (default: dense_index)",
    )
    add("--profile", default="smoke", metavar="NAME|FILE.toml", help="setting of the sweep (default: smoke)")
    add(
        "--set", action="append", default=[], metavar="key.path=value", help="change a value of the profile, repeatable"
    )
    add(
        "--seeds",
        metavar="N|FIRST:END",
        help="seeds a configuration, 0 to N - 1 or FIRST to END - 1 (default: the profile's)",
    )
    add(
        "--until-conclusive",
        action="store_true",
        help="double the seeds until every claim is decided, or the profile's max_seeds are reached; the level is "
        "spent over the looks",
    )
    add(
        "--budget", metavar="1h30m", help="time that --until-conclusive may take; a look that does not fit is not begun"
    )
    add("--data-root", metavar="DIR", help="where STL-10, COCO and VOC lie, for a profile that takes them")
    add("--download", action="store_true", help="get missing data sets into --data-root, where torchvision can")
    add("--detector", metavar="torchvision|detectron2", help="backend of detection (default: the profile's)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where to train (default: auto)")
    add("--jobs", type=int, metavar="N", help="worker processes (default: one a core on a CPU, one on a GPU)")
    add("--engine", default="local", choices=("local", "ray"), help="workers on this machine, or on a Ray cluster")
    add("--store", default=".cl_bench", metavar="DIR", help="where results are kept (default: .cl_bench)")
    add("--report", metavar="DIR", help="where table and figures are written (default: STORE/report)")
    add(
        "--rerun",
        default="missing",
        choices=("missing", "failed", "all"),
        help="what to compute: what the store lacks (default), also what diverged, or all that is selected",
    )
    add("--baseline", metavar="FILE", help="a claim fails where tau or performance is surely worse than in FILE")
    add("--save-baseline", metavar="FILE", help="keep this run's figures in FILE, beside what it holds of other rows")
    add("--strict-claims", action="store_true", help="an INCONCLUSIVE claim fails")
    add("--list-methods", action="store_true", help="list every method there is, with its options; run nothing")
    add(
        "--predictor",
        action="append",
        default=[],
        metavar="NAME|FILE.py[:NAME]",
        help="predictor of performance to measure beside the built-in ones, repeatable",
    )
    add("--list-predictors", action="store_true", help="list every predictor there is; run nothing")
    add("--plan", action="store_true", help="list what would run and with what power; train nothing")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers and watch the session."""
    config.addinivalue_line(
        "markers", "sweep(data, views, schemes=...): the row of the paper's tables a suite is about"
    )
    config.addinivalue_line(
        "markers",
        "claim(kind, level, exploratory=...): what a test claims of the sweep; exploratory, True or schemes: "
        "the paper does not claim it, and it never fails",
    )
    config.addinivalue_line("markers", "contract: a test of each method that --method names; runs first")
    session = Session(config)
    config.pluginmanager.register(session, Session.NAME)
    hooks = Hooks(session)
    config.pluginmanager.register(hooks)
    if config.option.until_conclusive:
        config.pluginmanager.register(
            Stages(hooks, lambda item, row: ClaimTest(session, item, row, claim_of(item, row)))
        )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--list-methods`` or ``--list-predictors`` that is all there is to do."""
    option = config.option
    if not (option.list_methods or option.list_predictors):
        return None
    session = Session(config)
    if option.list_methods:
        session.list_methods()
    if option.list_predictors:
        session.list_predictors()
    return 0


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Method:
    """One of the methods that ``--method`` names; the only one for a test of the contract."""
    return _session(request.config).registry.resolve(str(request.param))


@pytest.fixture
def predictor(request: pytest.FixtureRequest) -> Predictor:
    """One of the predictors that ``--predictor`` names."""
    found: Predictor = request.param
    return found


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """One encoder of the sweep."""
    row, spec = request.param
    return Case(_session(request.config), request.node, row, spec)


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> ClaimTest:
    """What the test's ``claim`` marker says of the row."""
    row = request.param
    return ClaimTest(_session(request.config), request.node, row, claim_of(request.node, row))


@dataclass(frozen=True)
class Case:
    """One encoder of a sweep, as a test."""

    session: Session
    node: pytest.Item
    row: Row
    spec: RunSpec

    def check(self) -> None:
        """Pull the record; it must be complete and finite, and the loss must have decomposed at every logged step."""
        tell(self.node, ROW, row_to_json(self.row))
        (record,), failures = self.session.pull([self.spec])
        if record is None:
            pytest.fail(failures[0], pytrace=False)
        if record.status != "complete":
            pytest.xfail(f"{record.status}: {record.detail}; left out of tau")
        figures = [*record.alignment.values(), *record.uniformity.values(), *record.performance.values()]
        if not all(math.isfinite(v) for v in figures):
            pytest.fail(f"{record.case}: a figure is not finite: {figures}", pytrace=False)
        if not record.decomposition_error <= DECOMPOSITION_TOLERANCE:
            pytest.fail(
                f"{record.case}: alignment + distribution differs from the loss by {record.decomposition_error:.1e} "
                f"(relative), more than {DECOMPOSITION_TOLERANCE:.0e}",
                pytrace=False,
            )


@dataclass(frozen=True)
class ClaimTest:
    """One claim about a row, as a test."""

    session: Session
    node: pytest.Item
    row: Row
    claim: Claim

    def check(self) -> None:
        """Pull the sweep and judge it: SUPPORTED passes, REFUTED fails, INCONCLUSIVE xfails or, if strict, fails.

        A refutation that does not hold among all claims of the run xfails too (``_refuted_alone``).
        A claim that ``--baseline`` holds fails where its tau, or its row's mean performance, is surely worse than it
        was, and not for its verdict. An exploratory claim passes or xfails, whatever is found.
        """
        profile, settings = self.session.profile, self.session.profile.claims
        rows = self.session.pulled_by(self.claim, self.row).rows
        for row in rows:
            tell(self.node, ROW, row_to_json(row))
        try:
            judgement = first_decided(self.at(look) for look in self.session.looks_of(rows))
        except IncompleteSweep as error:
            tell(self.node, JUDGEMENT, Judgement.incomplete(self.claim, error).to_json())
            pytest.fail("\n".join([str(error), *getattr(error, "__notes__", [])]), pytrace=False)
        tell(self.node, JUDGEMENT, judgement.to_json())
        held = self._held_against_baseline(judgement)
        if judgement.verdict is Verdict.SUPPORTED:
            return
        if self.claim.exploratory:
            pytest.xfail(f"exploratory, the paper does not claim it: {judgement.sentence}")
        strict = self.session.config.option.strict_claims
        if not settings.asserted and not strict:
            pytest.xfail(f"reported, not asserted, by profile {profile.name}: {judgement.sentence}")
        if judgement.verdict is Verdict.INCONCLUSIVE and not strict:
            pytest.xfail(judgement.sentence)
        if held and not strict:
            pytest.xfail(f"not surely worse than it was: {judgement.sentence}")
        alone = "" if strict else self._refuted_alone(judgement)
        if alone:
            pytest.xfail(f"{alone}: {judgement.sentence}")
        raise ClaimNotSupported(judgement.sentence)

    def at(self, look: Look) -> Judgement:
        """Pull the sweep as it is by a look and judge it, once a session.

        Raises:
            IncompleteSweep: A record could not be computed; its notes say why.
        """
        asked = self.row, self.claim, self.claim.against, look
        if asked not in self.session.judged:
            self.session.judged[asked] = self._judge(look)
        return self.session.judged[asked]

    def _judge(self, look: Look) -> Judgement:
        profile, settings = self.session.profile, self.session.profile.claims
        rows = self.session.pulled_by(self.claim, self.row)
        untrained = profile.random_init()
        specs = [*(spec for row in rows.rows for spec in self.session.sweep(row, look)), *untrained]
        pulled, failures = self.session.pull(specs)
        found = {spec: record for spec, record in zip(specs, pulled, strict=True) if record is not None}

        def sweep_of(row: Row) -> Sweep:
            asked = self.session.sweep(row, look)
            return Sweep(row.name, [found[spec] for spec in asked if spec in found], [spec.case for spec in asked])

        try:
            judgement = judge(
                self.claim,
                sweep_of(rows.row),
                [found[spec] for spec in untrained if spec in found],
                look.alpha,
                settings.margin,
                rows.reference and sweep_of(rows.reference),
                rows.twin and sweep_of(rows.twin),
                profile.better,
            )
        except IncompleteSweep as error:
            for failure in failures:
                error.add_note(failure)
            raise
        return judgement if look.of == 1 else replace(judgement, sentence=f"{judgement.sentence}; {look}")

    def _refuted_alone(self, judgement: Judgement) -> str:
        """Why a refutation does not fail the run; nothing where it does.

        Of many claims whose contraries are all untrue some are refuted now and then. So a refutation has to hold among
        all claims that the session judges, by Holm's procedure; with ``--until-conclusive``, which decides them at
        different looks, by Bonferroni's, which waits for no other.
        """
        selected = [(row, claim) for row, claim in self.session.selected if not claim.exploratory]
        count = len(selected)
        if self.session.config.option.until_conclusive:
            p = min(1.0, count * judgement.p_against)
        else:
            others = [self] + [replace(self, row=r, claim=c) for r, c in selected if (r, c) != (self.row, self.claim)]
            p, count = holm([found for test in others if (found := test.found())], against=True)[0], len(others)
        if p < judgement.alpha:
            return ""
        return f"refuted, but not among the {count} claims of this run (adjusted p = {p:.2g})"

    def found(self) -> Judgement | None:
        """The judgement of the sweep as it is; None where records are missing."""
        try:
            return self.at(self.session.looks_of(self.session.pulled_by(self.claim, self.row).rows)[-1])
        except IncompleteSweep:
            return None

    def _held_against_baseline(self, judgement: Judgement) -> bool:
        """Whether ``--baseline`` holds this claim; what is surely worse than there, or not to be compared, fails."""
        baseline = self.session.baseline
        if baseline is None:
            return False
        found = self.session.findings.get((self.row, self.claim), [])
        for finding in found:
            tell(self.node, FINDING, str(finding))
        failed = [f"worse than {baseline.path.name}: {f}" for f in found if isinstance(f, Finding) and f.failed]
        failed += [f for f in found if isinstance(f, str)]
        if failed and not self.claim.exploratory:
            pytest.fail("\n".join(failed), pytrace=False)
        return judgement in baseline


def tell(node: pytest.Item, key: str, value: str) -> None:
    """Pass something on to the summary."""
    node.user_properties.append((key, value))


def _session(config: pytest.Config) -> Session:
    session = config.pluginmanager.getplugin(Session.NAME)
    assert isinstance(session, Session)
    return session
