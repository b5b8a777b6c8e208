"""Collected results of a session's tests: the summary in the terminal, the report, the baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cl_bench.claims.judgement import Judgement
from cl_bench.compute.runner import load_record
from cl_bench.plugin.regression import kept_of
from cl_bench.plugin.session import Session
from cl_bench.report import RowResult, summary_table, write_report
from cl_bench.spec import MethodSpec, RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.spec.records import Record

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

# Keys of the values that tests pass to the summary, also from pytest-xdist workers.
ROW, JUDGEMENT, FINDING = "cl_bench.row", "cl_bench.judgement", "cl_bench.finding"


class Summary:
    """Collector of rows, judgements and findings, which are shown when the session ends."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._rows: dict[str, Row] = {}
        self._judgements: dict[str, dict[Claim, Judgement]] = {}
        self._findings: dict[str, None] = {}

    def take(self, report: pytest.TestReport) -> None:
        """Note the row of a test and its judgement."""
        for key, told in report.user_properties:
            if key == ROW:
                row = _row_from_json(str(told))
                self._rows[row.name] = row
            elif key == JUDGEMENT:
                self.note(Judgement.from_json(str(told)))
            elif key == FINDING:
                self._findings[str(told)] = None

    def note(self, judgement: Judgement) -> None:
        """Show this judgement of the claim in the summary, unless another one follows."""
        self._judgements.setdefault(judgement.row, {})[judgement.claim] = judgement

    def show(self, terminalreporter: TerminalReporter) -> None:
        """Print the table and the path of the report."""
        if not self._rows:
            return
        named = [str(method) for method in self.session.methods]
        order = sorted(self._rows.values(), key=lambda row: (row.order, named.index(str(row.method))))
        results = [self._result(row) for row in order]
        terminalreporter.section("cl-bench")
        self.session.console().print(summary_table(results))
        directory = Path(self.session.options.report or self.session.store.root / "report")
        try:
            written = write_report(results, self.session.here / directory, self.session.command, self.session.commit)
        except (OSError, ValueError) as error:
            terminalreporter.write_line(
                f"report: {error}; the records in {self.session.store.root} are whole", red=True
            )
        else:
            named = [path.name for path in written if path.suffix != ".png"]
            figures = len(written) - len(named)
            told = [*named, f"{figures} figure{'s' if figures != 1 else ''}"]
            terminalreporter.write_line(f"report: {written[0].parent} ({', '.join(told)})")
        self._show_baseline(terminalreporter)

    def _show_baseline(self, terminalreporter: TerminalReporter) -> None:
        """Print the changes since ``--baseline``, and save the baseline of ``--save-baseline``."""
        judged = [j for of_row in self._judgements.values() for j in of_row.values() if not j.claim.about_predictor]
        old, new = self.session.baseline, self.session.to_save
        if old is not None:
            terminalreporter.write_line(str(old.compare(judged)))
            for finding in self._findings:
                terminalreporter.write_line(finding)
        if new is not None:
            whole = [j for j in judged if not j.missing]
            try:
                renewed = new.renewed((j.row, j.claim, kept_of(self.session, j, self._rows[j.row])) for j in whole)
                renewed.save()
            except OSError as error:
                terminalreporter.write_line(f"baseline: {error}; nothing is kept of this run", red=True)
            else:
                terminalreporter.write_line(f"baseline: {new.path} ({len(renewed)} claims)")

    def _result(self, row: Row) -> RowResult:
        profile = self.session.profile
        sweep, data = self.session.sweep(row), profile.data_of(row)[0]

        def stored(specs: Sequence[RunSpec]) -> tuple[Record, ...]:
            return tuple(r for r in (load_record(s, self.session.store) for s in specs) if r is not None)

        return RowResult(
            name=row.name,
            title=f"{row.method}: {data.label.replace('_', '-')} data, {row.views} views",
            method=str(row.method),
            scheme=row.method.level,
            data=data.label,
            dataset=data.name,
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
            better=profile.better,
        )


def row_to_json(row: Row) -> str:
    """Return a row as text, which a test report can carry."""
    return json.dumps({**row._asdict(), "method": row.method.model_dump(mode="json")})


def _row_from_json(text: str) -> Row:
    told = json.loads(text)
    return Row(**{**told, "method": MethodSpec.model_validate(told["method"])})
