"""Collected results of a session's tests: the summary in the terminal, the report, the baseline."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.text import Text

from cl_bench.claims.judgement import Judgement
from cl_bench.compute.record import load_record
from cl_bench.plugin.kept import KeptRow, kept_rows, merged, read_kept, row_from_json, write_kept
from cl_bench.plugin.regression import kept_of
from cl_bench.plugin.session import Session
from cl_bench.plugin.told import FINDING, JUDGEMENT, NOT_JUDGED, NOT_TESTED, ROW, told_by
from cl_bench.report import RowResult, summary_table, write_report
from cl_bench.report.brief import answer_sentence, brief_markdown, brief_summary
from cl_bench.report.html import Picture
from cl_bench.spec import RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.spec.records import Record

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

SKIPS = 3
"""Most reasons for skipped tests that are shown."""
_REST = "All tables and notes are in summary.txt beside it; -vv shows them here."


class Summary:
    """Collector of rows, judgements and findings, which are shown when the session ends."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._rows: dict[str, Row] = {}
        self._judgements: dict[str, dict[Claim, Judgement]] = {}
        self._findings: dict[str, None] = {}
        self._skipped: Counter[str] = Counter()

    def take(self, report: pytest.TestReport) -> None:
        """Note the row of a test and its judgement, or the reason for which it was skipped."""
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if reason.startswith((NOT_TESTED, NOT_JUDGED)):
                self._skipped[reason] += 1
        for key, told in told_by(report):
            if key == ROW:
                row = row_from_json(told)
                self._rows[row.name] = row
            elif key == JUDGEMENT:
                self.note(Judgement.from_json(told))
            elif key == FINDING:
                self._findings[told] = None

    def note(self, judgement: Judgement) -> None:
        """Show this judgement of the claim in the summary, unless another one follows."""
        self._judgements.setdefault(judgement.row, {})[judgement.claim] = judgement

    def show(self, terminalreporter: TerminalReporter) -> None:
        """Print the table and the path of the report."""
        if not self._rows:
            return
        named = [str(method) for method in self.session.methods]
        order = sorted(self._rows.values(), key=lambda row: (row.order, named.index(str(row.method))))
        results = {row.name: self._result(row, self.session.sweep(row)) for row in order}
        rows, verbosity, console = [*results.values()], self.session.config.option.verbose, self.session.console()
        if verbosity < 0:
            console.print(answer_sentence(rows), highlight=False, markup=False, soft_wrap=not console.is_terminal)
        else:
            terminalreporter.section("cl-bench")
            console.print(summary_table(rows) if verbosity > 1 else brief_summary(rows), highlight=False)
        try:
            written = self._write(results)
        except (OSError, ValueError) as error:
            terminalreporter.write_line(
                f"report: {error}; the records in {self.session.store.root} are whole", red=True
            )
        else:
            terminalreporter.write_line(f"report: {_files(written, verbosity)}")
        changes = self._show_baseline(terminalreporter)
        page = os.environ.get("GITHUB_STEP_SUMMARY")
        if page:
            self._append(Path(page), "\n\n".join(["### cl-bench", brief_markdown(rows), *changes]), terminalreporter)

    def _append(self, page: Path, text: str, terminalreporter: TerminalReporter) -> None:
        """Append a text to the page of a build on GitHub."""
        try:
            with page.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
        except OSError as error:
            terminalreporter.write_line(f"GITHUB_STEP_SUMMARY: {error}", red=True)

    def _write(self, tested: Mapping[str, RowResult]) -> list[Path]:
        """Write the report of this session's rows and of those that its folder holds already.

        Raises:
            OSError: If a file cannot be written.
            ValueError: If two rows would share a figure's file name.
        """
        session, folder = self.session, self.session.report
        kept = {name: one for name, one in read_kept(folder).items() if not session.profile.lacks(one.row.scenes)}

        def stored(one: KeptRow) -> RowResult:
            return self._result(one.row, session.profile.with_seeds(one.seeds).sweep(one.row))

        found = merged(kept, tested, stored)
        of_rows = {name: self._rows[name] if name in self._rows else kept[name].row for name in found}
        rows = {name: found[name] for name in sorted(found, key=lambda name: of_rows[name].order)}
        shown = self._pictures([(of_rows[name], result) for name, result in rows.items()])
        store = str(session.store.root)
        written = write_report([*rows.values()], folder, session.command, session.commit, store, shown)
        own = {name: (row, session.looks_of([row])[-1].seeds) for name, row in self._rows.items()}
        write_kept(
            folder, kept_rows(kept, rows, own, lambda claim, row: [r.name for r in session.pulled_by(claim, row).rows])
        )
        return written

    def _pictures(self, rows: Sequence[tuple[Row, RowResult]]) -> list[Picture]:
        """Draw data, views and matched cells of some rows, by each row's best encoder at detection."""
        from cl_bench.compute.pictures import pictures

        best = []
        for row, result in rows:
            if not any(r.status == "complete" for r in result.records):
                continue  # a method that failed with each encoder, or never ended, is not called in this process
            scores = {r.key: r.performance["dense"] for r in result.records if "dense" in r.performance}
            sweep = self.session.profile.sweep(row)
            best.append(max(sweep, key=lambda spec: scores.get(spec.pretrain.key, -1.0)))
        drawn = pictures(best, self.session.store, self.session.registry, self.session.data.places)
        return [Picture(one.group, one.caption, one.content, "image/webp") for one in drawn]

    def show_skipped(self) -> None:
        """Print why tests of the suites were skipped, which pytest tells only with ``-rs``."""
        if self.session.config.option.verbose < 0:
            return
        shown = self._skipped.most_common(SKIPS)
        rest = self._skipped.total() - sum(count for _, count in shown)
        lines = [f"{count} skipped: {reason}" for reason, count in shown]
        for line in [*lines, *([f"{rest} more skipped: -rs shows why"] if rest else [])]:
            self.session.console().print(Text(line, style="dim"))

    def show_interrupted(self, terminalreporter: TerminalReporter, wanted: Sequence[RunSpec]) -> None:
        """Print how many of the requested encoders the store holds after an interruption."""
        if wanted:
            whole = sum(load_record(spec, self.session.store) is not None for spec in wanted)
            terminalreporter.write_line(
                f"{whole} of {len(wanted)} encoders kept; run the same command again to continue"
            )

    def _show_baseline(self, terminalreporter: TerminalReporter) -> list[str]:
        """Print and return the changes since ``--baseline``, and save the baseline of ``--save-baseline``."""
        judged = [j for of_row in self._judgements.values() for j in of_row.values() if not j.claim.about_predictor]
        old, new = self.session.baseline, self.session.to_save
        changes = [] if old is None else [str(old.compare(judged)), *self._findings]
        for line in changes:
            terminalreporter.write_line(line)
        if new is not None:
            whole = [j for j in judged if not j.missing]
            try:
                renewed = new.renewed((j.row, j.claim, kept_of(self.session, j, self._rows[j.row])) for j in whole)
                renewed.save()
            except OSError as error:
                terminalreporter.write_line(f"baseline: {error}; nothing is kept of this run", red=True)
            else:
                terminalreporter.write_line(f"baseline: {new.path} ({len(renewed)} claims)")
        return changes

    def _result(self, row: Row, sweep: Sequence[RunSpec]) -> RowResult:
        profile = self.session.profile
        data = profile.data_of(row)[0]

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


def _files(written: Sequence[Path], verbosity: int) -> str:
    """Return the page of a report, and where all tables are; with ``-vv`` the folder and all its files."""
    folder = written[0].parent
    if verbosity < 2:
        rest = [] if verbosity < 0 else [_REST]
        return "\n".join([str(folder / "report.html"), *rest])
    named = [path.name for path in written if path.suffix != ".png"]
    figures = len(written) - len(named)
    return f"{folder} ({', '.join(named)}, {figures} figure{'s' if figures != 1 else ''})"
