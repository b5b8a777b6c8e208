"""--until-conclusive: seeds are doubled until every claim is decided, and an interrupted run goes on at its look."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import signal
import types
from pathlib import Path

import pytest
from helpers import ROOT, alive, plant, trained, until
from jobs import Job, flat, outcomes

from cl_bench.claims.judge import judge
from cl_bench.compute.process import descendants
from cl_bench.plugin import stages

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("as_in_a_shell")

SIX = {
    "grid__temperatures": [0.1, 0.2, 1.0],
    "grid__weightings": [[1, 1], [0.5, 1], [0, 1]],
    "max_seeds": 8,
    "claims__alpha": 0.3,
}
"""Six configurations, and looks at 2, 4 and 8 seeds with alpha .107, .079 and .114."""
PLACES = (0, 2, 1, 3, 5, 4)
"""Of the configurations by rising L_a + L_u: no smooth curve over a knob."""
FALLS, RISES = (90.0, 80.0, 70.0, 60.0, 50.0, 40.0), (40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
"""In the order of places: within the two families, each of three, chance has 1 of 36 orders so."""
NEARLY = (84.9, 85.0, 85.1, 64.9, 65.1, 40.0)
"""Four pairs in the wrong order, all within families. Averaged with as many of FALLS they are in the right one."""
UNCLEAR = (70.0, 90.0, 60.0, 80.0, 65.0, 85.0)
GO = "--until-conclusive"
LOOKS = ("look 1 of 3, 2 seeds, alpha .11", "look 2 of 3, 4 seeds, alpha .079", "look 3 of 3, 8 seeds, alpha .11")


@pytest.fixture
def six(tmp_path: Path, pytester: pytest.Pytester, no_figures: None) -> Job:
    return Job(tmp_path, pytester, **SIX)


def plant_seeds(job: Job, *performance: tuple[float, ...], **row: str) -> None:
    """Store a sweep for each seed; L_a and L_u rise with a configuration's place."""
    specs = job.profile.with_seeds(len(performance)).sweep(job.row(**row))
    for n, spec in enumerate(specs):
        seed, k = divmod(n, len(performance[0]))
        place = PLACES[k]
        plant(job.store, spec, L_a=-0.9 + place / 10, L_u=-3 + place / 10, performance=performance[seed][place])
    for n, spec in enumerate(job.profile.random_init()):
        plant(job.store, spec, performance=10 + n / 100)


def claims(job: Job) -> list[tuple[str, float, str]]:
    """Verdict, level and look of each claim of the report."""
    found = json.loads((job.report / "claims.json").read_text())
    return [(c["verdict"], round(c["alpha"], 3), c["sentence"].rpartition("; ")[2]) for c in found]


@pytest.mark.slow
def test_seeds_are_added_until_every_claim_is_decided(six: Job) -> None:
    plant_seeds(six, NEARLY, NEARLY, FALLS, FALLS)
    before = trained(six.root)
    result = six.run(GO)
    assert result.ret == 0
    assert outcomes(result) == {"passed": 4 * 6 + 2}
    assert claims(six) == [("SUPPORTED", 0.079, LOOKS[1])] * 2
    text = flat(result)
    assert f"{LOOKS[0]}: 0 of 2 claims decided; undecided: " in text
    assert f"{LOOKS[1]}: 0 encoders to compute" in text and f"{LOOKS[1]}: 2 of 2 claims decided" in text
    assert "--until-conclusive: every claim is decided" in text
    assert "24 of 24 runs complete" in six.summary
    assert LOOKS[2] not in text
    assert trained(six.root) == before
    with (six.report / "records.csv").open() as file:
        assert {r["seed"] for r in csv.DictReader(file) if r["family"] != "random_init"} == set("0123")
    told = [line for line in six.report.joinpath("summary.txt").read_text().splitlines() if "look 2 of 3" in line]
    six.run(GO)
    assert claims(six) == [("SUPPORTED", 0.079, LOOKS[1])] * 2 and told, "from the store it is the same"
    six.run("--seeds=2")
    assert [c[1] for c in claims(six)] == [0.3] * 2, "two seeds at once have the whole level"


@pytest.mark.parametrize(("first", "verdict", "code"), [(FALLS, "SUPPORTED", 0), (RISES, "REFUTED", 1)])
def test_later_seeds_do_not_undo_what_a_look_decided(
    six: Job, first: tuple[float, ...], verdict: str, code: int
) -> None:
    """They may well be in the store; nor are they looked at."""
    other = RISES if first is FALLS else FALLS
    plant_seeds(six, first, first, *[other] * 6)
    result = six.run(GO, "-x")
    assert result.ret == code
    assert outcomes(result) == ({"passed": 12 + 2} if code == 0 else {"passed": 12, "failed": 1})
    assert claims(six)[0] == (verdict, 0.107, LOOKS[0])
    assert "12 of 12 runs complete" in six.summary


@pytest.mark.parametrize(("options", "outcome", "code"), [([], "xfailed", 0), (["--strict-claims"], "failed", 1)])
def test_the_maximum_of_seeds(six: Job, options: list[str], outcome: str, code: int) -> None:
    plant_seeds(six, *[UNCLEAR] * 8)
    result = six.run(GO, *options)
    assert result.ret == code
    assert outcomes(result) == {"passed": 48, outcome: 2}, "an early look that decides nothing is not counted"
    assert claims(six) == [("INCONCLUSIVE", 0.114, LOOKS[2])] * 2
    assert "--until-conclusive: 2 claims not decided by max_seeds" in flat(result)


def test_a_look_is_judged_once(six: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_seeds(six, NEARLY, NEARLY, FALLS, FALLS)
    calls: list[object] = []
    monkeypatch.setattr("cl_bench.plugin.fixtures.judge", lambda *given: calls.append(given[3]) or judge(*given))
    assert six.run(GO).ret == 0
    assert len(calls) == 2 * 2, "two claims at two looks; their own tests judge no look again"


def test_only_rows_of_undecided_claims_get_more_seeds(six: Job) -> None:
    """And an exploratory claim is judged, but never waited for."""
    plant_seeds(six, FALLS, FALLS)
    plant_seeds(six, NEARLY, NEARLY, FALLS, FALLS, data="multi_object")
    before = trained(six.root)
    result = six.run(GO, str(ROOT / "suites" / "test_multi_object.py"))
    assert outcomes(result) == {"passed": 12 + 2 + 24 + 2}
    found = dict.fromkeys(claims(six))
    assert set(found) == {("SUPPORTED", 0.107, LOOKS[0]), ("SUPPORTED", 0.079, LOOKS[1])}
    assert f"{LOOKS[0]}: 2 of 3 claims decided; undecided: " in flat(result)
    assert f"{LOOKS[1]}: 1 of 1 claims decided" in flat(result)
    assert trained(six.root) == before


def test_only_the_claims(six: Job) -> None:
    plant_seeds(six, NEARLY, NEARLY, FALLS, FALLS)
    result = six.run(GO, "-k", "tau")
    assert outcomes(result) == {"passed": 2, "deselected": 48}
    assert claims(six) == [("SUPPORTED", 0.079, LOOKS[1])] * 2


def test_seeds_of_one_s_own(six: Job) -> None:
    plant_seeds(six, *[UNCLEAR] * 3, *[FALLS] * 3)
    result = six.run(GO, "--seeds=3:6", "--set=max_seeds=3")
    assert outcomes(result) == {"passed": 18 + 2}, "one look with the whole level"
    assert [c[:2] for c in claims(six)] == [("SUPPORTED", 0.3)] * 2


def test_a_baseline_keeps_all_seeds_that_were_added(six: Job) -> None:
    plant_seeds(six, NEARLY, NEARLY, FALLS, FALLS)
    kept = f"{six.folder / 'kept.json'}"
    assert six.run(GO, f"--save-baseline={kept}").ret == 0
    told = json.loads(Path(kept).read_text())["claims"]
    assert [claim["figures"]["seeds"] for claim in told] == [[0, 1, 2, 3]] * 2
    again = six.run("--seeds=4", f"--baseline={kept}", "-k", "tau")
    assert again.ret == 0 and "2 claims compared; 0 verdicts changed" in flat(again)
    shutil.rmtree(six.root)
    plant_seeds(six, *[UNCLEAR] * 4)
    worse = six.run("--seeds=4", f"--baseline={kept}", "-k", "tau")
    assert outcomes(worse)["failed"] == 2 and "worse than kept.json" in flat(worse)


def test_a_plan_has_the_looks(six: Job) -> None:
    plant_seeds(six, UNCLEAR)
    before = trained(six.root)
    result = six.run(GO, "--plan", "--jobs=1")
    text = flat(result)
    assert "look seeds alpha spent at most at most" in text
    assert re.search(r" 1 2 0\.11 0\.11 6 24\.0 s", text), text
    assert re.search(r" 2 4 0\.079 0\.19 18 72\.0 s", text), text
    assert re.search(r" 3 8 0\.11 0\.3 42 2\.8 min", text), text
    assert trained(six.root) == before
    assert "Looks" not in flat(six.run("--plan", "--jobs=1"))


# ---- the budget


def test_a_look_that_does_not_fit_the_budget_is_not_begun(six: Job) -> None:
    plant_seeds(six, NEARLY, NEARLY)
    before = trained(six.root)
    result = six.run(GO, "--budget=40s", "--jobs=1")
    assert result.ret == 0
    assert outcomes(result) == {"passed": 12, "xfailed": 2}
    assert claims(six) == [("INCONCLUSIVE", 0.107, LOOKS[0])] * 2
    said = rf"--until-conclusive: {LOOKS[1]} is not begun: 12 encoders to compute, about 48\.0 s, and \d+\.\d s left of"
    assert re.search(said, flat(result)), flat(result)
    assert trained(six.root) == before


@pytest.mark.parametrize(
    ("budget", "expected", "code", "said"),
    [
        ("20s", {"passed": 12 + 6, "xfailed": 2}, 0, f"--budget 20s is spent within {LOOKS[1]}; run the same command"),
        ("8s", {"passed": 7}, 2, f"--budget 8s is spent within {LOOKS[0]}; run the same command again to continue"),
    ],
)
def test_a_budget_that_is_spent_within_a_look(
    six: Job, monkeypatch: pytest.MonkeyPatch, budget: str, expected: dict[str, int], code: int, said: str
) -> None:
    """By a clock that goes on by a second whenever it is looked at: at the start, before each look, for each case."""
    plant_seeds(six, *[NEARLY] * 2, *[FALLS] * 2)
    ticks = itertools.count()
    monkeypatch.setattr(stages, "time", types.SimpleNamespace(monotonic=lambda: float(next(ticks))))
    result = six.run(GO, f"--budget={budget}")
    assert said in flat(result)
    assert outcomes(result) == expected
    assert result.ret == code
    if code == 0:
        assert claims(six) == [("INCONCLUSIVE", 0.107, LOOKS[0])] * 2, "half a look is none"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([GO, "--budget=90"], r"--budget takes hours, minutes and seconds, as 90s, 45m, 2h or 1h30m, got '90'"),
        (["--budget=2h"], r"--budget 2h limits --until-conclusive: give both"),
        ([GO, "--seeds=9"], r"max_seeds is 8, less than the 9 of the first look; --set max_seeds=9"),
        ([GO, "--set=max_seeds=0"], r"max_seeds: .*got 0"),
        ([GO, "--budget=3s", "--jobs=1"], r"--budget 3s is less than the first look takes: 1 encoders to .*4\.0 s"),
        ([GO, "-k", "test_model"], r"--until-conclusive: none of the selected claims is one that it waits for"),
        ([GO, "--baseline={file}"], r"--baseline .* needs the same seeds in every row, .*: leave out one of the two"),
        ([GO, "-p", "xdist", "-n", "2"], r"--until-conclusive decides in one process .*leave out -n"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_a_usage_error(six: Job, options: list[str], said: str) -> None:
    plant_seeds(six, NEARLY, NEARLY)
    shutil.rmtree(six.store.run(six.specs()[2].pretrain.key).path)
    file = six.folder / "kept.json"
    file.write_text('{"format": 1, "claims": []}')
    before = trained(six.root)
    result = six.run(*(o.format(file=file) for o in options))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    everything = result.stderr.str() + result.stdout.str()
    assert len([line for line in everything.splitlines() if re.search(said, line)]) == 1, everything
    assert "Traceback" not in everything and "INTERNALERROR" not in everything
    assert trained(six.root) == before


def test_what_cannot_be_judged_fails_by_its_own_test(six: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_seeds(six, NEARLY, NEARLY)
    monkeypatch.setattr("cl_bench.plugin.fixtures.judge", lambda *_: 1 / 0)
    result = six.run(GO)
    assert outcomes(result) == {"passed": 12, "failed": 2}
    assert "ZeroDivisionError" in flat(result) and "INTERNALERROR" not in flat(result)


# ---- killed


@pytest.mark.slow
def test_a_killed_run_goes_on_at_its_look(tmp_path: Path) -> None:
    job = Job(tmp_path, max_seeds=4, optimiser__epochs=6, claims__alpha=0.05)
    plant_seeds(job, *[(70.0, 90.0, 60.0, 80.0)] * 2)

    def count() -> int:
        return len(list((job.root / "runs").glob("*/evals/detection-*.json")))

    planted, of_first = count(), trained(job.root)
    killed = job.fork(GO, "--jobs=1")
    try:
        until(lambda: count() > planted, 300, "a second look's encoder is there")
        workers = descendants(killed.pid)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        until(lambda: not any(map(alive, workers)), 10, "its workers end")
    finally:
        killed.stop()
    first, second = "look 1 of 2, 2 seeds, alpha .031", "look 2 of 2, 4 seeds, alpha .019"
    assert f"{first}: 0 of 2 claims decided" in killed.text and f"{second}: 8 encoders to compute" in killed.text
    done = count() - planted
    assert 1 <= done < 8, "killed too late: the test shows nothing"
    again = job.fork(GO, "--jobs=1")
    try:
        assert again.wait(600) in (0, 1)
    finally:
        again.stop()
    assert f"{first}: 0 of 2 claims decided" in again.text
    assert f"{second}: {8 - done} encoders to compute" in again.text
    assert "16 of 16 runs complete" in job.summary
    assert {k: v for k, v in trained(job.root).items() if k in of_first} == of_first
    assert {c[1:] for c in claims(job)} == {(0.019, second)}
