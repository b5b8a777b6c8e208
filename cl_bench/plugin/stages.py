"""``--until-conclusive``: more seeds, look after look, until every claim is decided.

The cases of all looks are collected at once, so that ``-k`` and ``--lf`` select among them, and those of later looks
are held back. A look runs its cases and judges every undecided claim. A claim's own test runs once: as soon as the
claim is decided, or at the end. pytest's counts and exit status therefore follow the final verdicts and no earlier
ones, and ``-x`` stops at the first refutation. If a run continues from the store, its first looks take no time and give
the same verdicts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol

import pytest

from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.claims.sequential import Look
from cl_bench.compute.asked import duration_seconds
from cl_bench.errors import listed
from cl_bench.plugin.hooks import Hooks, claimed, parameters_of
from cl_bench.plugin.options import or_usage_error
from cl_bench.report.plan import time_text
from cl_bench.spec import RunSpec
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Row

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


class Judged(Protocol):
    """Test of a claim about a row, which can be judged at a look."""

    @property
    def claim(self) -> Claim:
        """Claim of the test."""

    def at(self, look: Look) -> Judgement:
        """Return the judgement at a look."""


class Stages:
    """The looks of one pytest session.

    Args:
        hooks: Hooks of the session.
        test_of: Function that returns the claim of an item, from the item and the row.
    """

    def __init__(self, hooks: Hooks, test_of: Callable[[pytest.Item, Row], Judged]) -> None:
        self.hooks = hooks
        self.session = hooks.session
        self.config = hooks.config
        self._test_of = test_of
        self._held: list[pytest.Item] = []
        self._end = math.inf  # end of the budget, by the monotonic clock
        self._told = ""

    # ---- before anything runs

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Refuse invalid options, and start the clock."""
        option = self.session.options
        if getattr(self.config.option, "numprocesses", None):
            raise pytest.UsageError(
                "--until-conclusive decides in one process what runs next: leave out -n; --jobs sets the workers"
            )
        if option.baseline is not None:
            raise pytest.UsageError(
                f"--baseline {option.baseline} needs the same seeds in every row, and --until-conclusive adds seeds to "
                "some rows only: leave out one of the two"
            )
        budget = option.budget
        if budget is not None:
            self._end = time.monotonic() + or_usage_error(lambda: duration_seconds("--budget", budget))
        _ = self.session.looks

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None]:
        """Hold back the cases of later looks; refuse a run without a claim to decide, or without time for one look."""
        first = self.session.looks[0]
        self._held = [item for item in session.items if not self._within(item, first)]
        session.items[:] = [item for item in session.items if self._within(item, first)]
        option = self.session.options
        if session.items and not (session.testsfailed or self.config.option.collectonly):
            if all(test.claim.exploratory for test in self._claims(session.items).values()):
                raise pytest.UsageError(
                    "--until-conclusive: none of the selected claims is one that it waits for; exploratory claims are "
                    "judged, but not waited for"
                )
            if not option.plan and math.isfinite(self._end):
                encoders, seconds = self.hooks.planner.cost(self.hooks.wanted(session.items))
                if time.monotonic() + seconds > self._end:
                    cost = f"{encoders} encoders to compute, about {time_text(seconds)}"
                    raise pytest.UsageError(f"--budget {option.budget} is less than the first look takes: {cost}")
        yield

    # ---- look after look

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run cases, judge claims, and begin the next look if a claim is undecided."""
        option, pytests = self.session.options, self.config.option
        if option.plan or pytests.collectonly or (session.testsfailed and not pytests.continue_on_collection_errors):
            return None
        claims = self._claims(session.items)
        waiting = {item: test for item, test in claims.items() if not test.claim.exploratory}
        first, *more = self.session.looks
        specs = [spec for row in self.hooks.wanted(session.items).values() for spec in row]
        left = self._run(session, [item for item in session.items if item not in claims], self._end)
        if left or not self.session.wait(specs, self._end):
            raise session.Interrupted(
                f"--budget {option.budget} is spent within {first}; run the same command again to continue"
            )
        waiting = self._judge(session, waiting, first)
        for look in more:
            if not waiting or not self._advance(session, waiting, look):
                break
            waiting = self._judge(session, waiting, look)
        if not self._told:
            left_over = f"{len(waiting)} claim{'s' if len(waiting) > 1 else ''} not decided by max_seeds"
            self._told = left_over if waiting else "every claim is decided"
        self._run(session, [item for item, test in claims.items() if item in waiting or test.claim.exploratory])
        return True

    def _advance(self, session: pytest.Session, waiting: Mapping[pytest.Item, Judged], look: Look) -> bool:
        """Add the seeds of a look to the rows of undecided claims; if time is too short, say so and return False."""
        wanted = self.hooks.wanted(list(waiting), look)
        encoders, seconds = self.hooks.planner.cost(wanted)
        cost = f"{encoders} encoders to compute" + (f", about {time_text(seconds)}" if seconds > 0 else "")
        rest = self._end - time.monotonic()
        if seconds > rest or rest <= 0:
            self._told = f"{look} is not begun: {cost}, and {time_text(max(0.0, rest))} left of --budget"
            return False
        self._say(f"{look}: {cost}")
        specs = [spec for row in wanted.values() for spec in row]
        self.hooks.queue(specs)
        cases = [item for item in self._held if _case(item)[0].name in wanted and self._within(item, look)]
        self._held = [item for item in self._held if item not in cases]
        session.items += cases
        session.testscollected += len(cases)
        left = self._run(session, cases, self._end)
        session.testscollected -= len(left)
        if left or not self.session.wait(specs, self._end):
            self._told = (
                f"--budget {self.session.options.budget} is spent within {look}; run the same command again to continue"
            )
            return False
        self.session.reached |= dict.fromkeys(wanted, look)
        return True

    def _judge(
        self, session: pytest.Session, waiting: Mapping[pytest.Item, Judged], look: Look
    ) -> dict[pytest.Item, Judged]:
        """Judge undecided claims, run the tests of those that are now decided, and return the others."""
        undecided = {}
        for item, test in waiting.items():
            try:
                judgement = test.at(look)
            except Exception:  # more seeds do not help; the test reports the error
                continue
            self.hooks.summary.note(judgement)
            if judgement.verdict is Verdict.INCONCLUSIVE:
                undecided[item] = test
        names = f"; undecided: {listed([item.nodeid for item in undecided])}" if undecided else ""
        self._say(f"{look}: {len(waiting) - len(undecided)} of {len(waiting)} claims decided{names}")
        self._run(session, [item for item in waiting if item not in undecided])
        return undecided

    @staticmethod
    def _run(session: pytest.Session, items: Sequence[pytest.Item], end: float = math.inf) -> list[pytest.Item]:
        """Run tests as pytest does until the monotonic clock shows ``end``, and return those that are left."""
        for n, (item, following) in enumerate(zip_longest(items, items[1:])):
            if time.monotonic() > end:
                return list(items[n:])
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return []

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Show why no more seeds were added."""
        if self._told:
            terminalreporter.write_line(f"--until-conclusive: {self._told}")

    # ---- cases and claims of items

    def _within(self, item: pytest.Item, look: Look) -> bool:
        """Return False for a case of a later look, and True for every other item."""
        return not _is_case(item) or _case(item)[1].pretrain.seed < self.session.profile.first_seed + look.seeds

    def _claims(self, items: Sequence[pytest.Item]) -> dict[pytest.Item, Judged]:
        return {item: self._test_of(item, row) for item, row in claimed(items)}

    def _say(self, line: str) -> None:
        self.session.console().print(line, highlight=False, markup=False, soft_wrap=True)


def _is_case(item: pytest.Item) -> bool:
    return isinstance(parameters_of(item).get("case"), tuple)


def _case(item: pytest.Item) -> tuple[Row, RunSpec]:
    row, spec = parameters_of(item)["case"]
    return row, spec
