"""Values that a test passes on: to the summary, to JUnit's properties, and to its own status with ``-v``."""

from __future__ import annotations

import pytest

from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.report.brief import figure, flat_figures

# Keys of the values that tests pass to the summary, also from pytest-xdist workers.
ROW, JUDGEMENT, FINDING = "cl_bench.row", "cl_bench.judgement", "cl_bench.finding"
NOT_TESTED, NOT_JUDGED = "This is not tested, because", "This is not judged, because"
"""Beginnings of the reason for which a test of the suites is skipped, by which the summary knows it."""
_TOLD = pytest.StashKey[list[tuple[str, str]]]()


def tell(node: pytest.Item, key: str, value: str) -> None:
    """Pass a value on to the summary."""
    node.stash.setdefault(_TOLD, []).append((key, value))


def tell_judgement(node: pytest.Item, judgement: Judgement) -> None:
    """Pass a judgement on to the summary, and its figures to ``--junitxml`` as flat properties of the test."""
    tell(node, JUDGEMENT, judgement.to_json())
    node.user_properties.extend(flat_figures(judgement).items())


def attach(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put what a test told on its report, which pytest-xdist takes from a worker as it is."""
    if report.when == "call" and _TOLD in item.stash:
        report.cl_bench = item.stash[_TOLD]  # type: ignore[attr-defined]


def told_by(report: pytest.TestReport) -> list[tuple[str, str]]:
    """Return what a test told, as pairs of key and value."""
    return [(str(key), str(value)) for key, value in getattr(report, "cl_bench", ())]


def status(report: pytest.TestReport, verbose: bool) -> tuple[str, str, str] | None:
    """Return the status of a test that told of a row or a claim, None where it is pytest's own.

    The category, which pytest counts, never differs from pytest's own.
    """
    told = dict(told_by(report))
    if ROW not in told or report.when != "call":
        return None
    xfailed = hasattr(report, "wasxfail")
    if JUDGEMENT not in told:  # a model's test, whose line in the progress says more than a dot
        return ("passed", "", "PASSED") if report.passed and not xfailed else None
    if not verbose or (xfailed and not report.skipped) or (report.skipped and not xfailed):
        return None
    judgement = Judgement.from_json(told[JUDGEMENT])
    word = f"{judgement.verdict} {figure(judgement)}".rstrip()
    if report.failed:
        refuted = judgement.verdict is Verdict.REFUTED
        return "failed", "F", word if refuted else f"FAILED, {word}"
    return ("xfailed", "x", word) if xfailed else ("passed", ".", word)
