"""Fixtures of the suites: a method, a predictor, one encoder as a test, one claim as a test."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from cl_bench.claims.gate import Finding
from cl_bench.claims.judge import holm, judge
from cl_bench.claims.judgement import IncompleteSweep, Judgement, Sweep, Verdict
from cl_bench.claims.sequential import Look, first_decided
from cl_bench.errors import listed
from cl_bench.plugin.hooks import ClaimNotSupported, claim_of
from cl_bench.plugin.kept import row_to_json
from cl_bench.plugin.session import Session
from cl_bench.plugin.told import FINDING, NOT_JUDGED, ROW, tell, tell_judgement
from cl_bench.spec import RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row

if TYPE_CHECKING:
    from cl_bench.methods.method import Method
    from cl_bench.predictors import Predictor

DECOMPOSITION_TOLERANCE = 1e-4  # relative; the losses are computed in float32


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Method:
    """Return one of the methods that ``--method`` names, for a test of the contract."""
    return _session(request.config).registry.resolve(str(request.param))


@pytest.fixture
def predictor(request: pytest.FixtureRequest) -> Predictor:
    """Return one of the predictors that ``--predictor`` names."""
    found: Predictor = request.param
    return found


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """Return one encoder of the sweep, as a test."""
    row, spec = request.param
    return Case(_session(request.config), request.node, row, spec)


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> ClaimTest:
    """Return the claim that the test's ``claim`` marker makes about the row."""
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
        """Check that the record is complete and finite, and that the loss decomposed at every logged step."""
        tell(self.node, ROW, row_to_json(self.row))
        (record,), failures = self.session.pull([self.spec])
        if record is None and self.session.options.from_store:
            pytest.skip(f"{self.spec.case} is not in the store, and --from-store computes nothing.")
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
        """Compute the sweep and judge it: SUPPORTED passes, REFUTED fails, INCONCLUSIVE xfails or, if strict, fails.

        A refutation that does not hold among all claims of the run xfails too (``_refuted_alone``). A claim in the file
        of ``--baseline`` fails only if its tau, or its row's mean performance, is significantly worse than before, and
        not for its verdict. An exploratory claim passes or xfails, whatever its verdict.
        """
        profile, settings = self.session.profile, self.session.profile.claims
        rows = self.session.pulled_by(self.claim, self.row).rows
        for row in rows:
            tell(self.node, ROW, row_to_json(row))
        incomplete = None
        try:
            judgement = first_decided(self.at(look) for look in self.session.looks_of(rows))
        except IncompleteSweep as error:
            incomplete = error
        if incomplete:  # told outside of the except, or pytest would show this error and the first
            tell_judgement(self.node, Judgement.incomplete(self.claim, incomplete))
            if self.session.options.from_store:
                pytest.skip(f"{NOT_JUDGED} --from-store computes nothing. {incomplete}.")
            pytest.fail("\n".join([str(incomplete), *by_reason(getattr(incomplete, "__notes__", []))]), pytrace=False)
        tell_judgement(self.node, judgement)
        held = self._held_against_baseline(judgement)
        if judgement.verdict is Verdict.SUPPORTED:
            return
        if self.claim.exploratory:
            pytest.xfail(f"exploratory, the paper does not claim it: {judgement.sentence}")
        strict = self.session.options.strict_claims
        if not settings.asserted and not strict:
            pytest.xfail(f"reported, not asserted, by profile {profile.name}: {judgement.sentence}")
        if judgement.verdict is Verdict.INCONCLUSIVE and not strict:
            pytest.xfail(judgement.sentence)
        if held and not strict:
            pytest.xfail(f"not significantly worse than in the baseline: {judgement.sentence}")
        alone = "" if strict else self._refuted_alone(judgement)
        if alone:
            pytest.xfail(f"{alone}: {judgement.sentence}")
        raise ClaimNotSupported(judgement.sentence)

    def at(self, look: Look) -> Judgement:
        """Compute the sweep with the seeds of a look and judge it, once per session.

        Raises:
            IncompleteSweep: If a record could not be computed; its notes give the reason.
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
        """Return the reason why a refutation does not fail the run; empty if it does.

        Among many claims some are refuted by chance. A refutation must therefore hold among all claims that the session
        judges, by Holm's procedure. With ``--until-conclusive``, which decides claims at different looks, it must hold
        by Bonferroni's, which does not depend on the other claims' p.
        """
        selected = [(row, claim) for row, claim in self.session.selected if not claim.exploratory]
        count = len(selected)
        if self.session.options.until_conclusive:
            p = min(1.0, count * judgement.p_against)
        else:
            others = [self] + [replace(self, row=r, claim=c) for r, c in selected if (r, c) != (self.row, self.claim)]
            p, count = holm([found for test in others if (found := test.found())], against=True)[0], len(others)
        if p < judgement.alpha:
            return ""
        return f"refuted, but not after correction for the {count} claims of this run (adjusted p = {p:.2g})"

    def found(self) -> Judgement | None:
        """Return the judgement of the sweep at the last look that it has reached; None if records are missing."""
        try:
            return self.at(self.session.looks_of(self.session.pulled_by(self.claim, self.row).rows)[-1])
        except IncompleteSweep:
            return None

    def _held_against_baseline(self, judgement: Judgement) -> bool:
        """Return True if ``--baseline`` has this claim; fail if it is significantly worse or cannot be compared."""
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


def by_reason(failures: Iterable[str]) -> list[str]:
    """Join lines such as ``CASE: REASON`` of encoders that failed for the same reason."""
    cases: dict[str, list[str]] = {}
    for failure in dict.fromkeys(failures):
        case, _, reason = failure.partition(": ")
        cases.setdefault(reason, []).append(case)
    return [f"{listed(of_reason, 1)}: {reason}" for reason, of_reason in cases.items()]


def _session(config: pytest.Config) -> Session:
    session = config.pluginmanager.getplugin(Session.NAME)
    assert isinstance(session, Session)
    return session
