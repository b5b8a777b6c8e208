"""Verdicts held against a file of older ones, and ``--rerun``: as functions, and as outcomes of planted records."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import dense_row, plant, tiny, trained
from jobs import OUTCOMES, TAU_FALLS, TAU_RISES, TAU_UNCLEAR, Job, flat, outcomes

from cl_bench.baseline import Baseline, setting_of
from cl_bench.claims import Claim, IncompleteSweep, Judgement, Verdict
from cl_bench.errors import SpecError
from cl_bench.runner import load_record

pytest_plugins = ["pytester"]

CLAIM = Claim("tau_negative", "dense")
BEST_FIRST = [Verdict.SUPPORTED, Verdict.INCONCLUSIVE, Verdict.REFUTED]
TAUS = dict(zip(BEST_FIRST, (TAU_FALLS, TAU_UNCLEAR, TAU_RISES), strict=True))


def judgement(verdict: Verdict, row: str = "row", claim: Claim = CLAIM) -> Judgement:
    return Judgement(claim, row, verdict, None, None, f"{row}: {verdict}: because")


def saved(path: Path, *judgements: Judgement, setting: str = "as it was") -> Baseline:
    Baseline(path).renewed((j, setting) for j in judgements).save()
    return Baseline.load(path)


# ---- the file


@pytest.mark.parametrize("now", BEST_FIRST)
@pytest.mark.parametrize("then", BEST_FIRST)
def test_only_a_worse_verdict_is_a_regression(tmp_path: Path, then: Verdict, now: Verdict) -> None:
    baseline = saved(tmp_path / "old.json", judgement(then))
    said = baseline.regression(judgement(now), "as it was")
    worse = BEST_FIRST.index(now) > BEST_FIRST.index(then)
    assert said == (
        f"regressed since old.json, which has: row: {then}: because; now: row: {now}: because" if worse else None
    )
    changes = baseline.compare([judgement(now)])
    assert (changes.compared, changes.new) == (1, ())
    assert [len(changes.regressed), len(changes.improved)] == [worse, not worse and now != then]


def test_another_setting_is_not_compared(tmp_path: Path) -> None:
    baseline = saved(tmp_path / "old.json", judgement(Verdict.SUPPORTED))
    with pytest.raises(SpecError, match=r"^row: old\.json holds this claim of another setting .*--save-baseline$"):
        baseline.regression(judgement(Verdict.SUPPORTED), "another")


def test_what_is_saved_again_replaces_its_own_and_leaves_the_rest(tmp_path: Path) -> None:
    path, other = tmp_path / "old.json", Claim("tau_negative", "instance")
    old = saved(path, judgement(Verdict.SUPPORTED), judgement(Verdict.REFUTED, claim=other))
    old.renewed([(judgement(Verdict.INCONCLUSIVE), "new")]).save()
    new = Baseline.load(path)
    assert len(new) == 2
    assert new.regression(judgement(Verdict.INCONCLUSIVE), "new") is None
    assert new.regression(judgement(Verdict.REFUTED, claim=other), "as it was") is None
    assert "regressed" in str(new.regression(judgement(Verdict.REFUTED), "new")) and len(old) == 2


def test_an_incomplete_judgement_neither_renews_nor_compares(tmp_path: Path) -> None:
    baseline = saved(tmp_path / "old.json", judgement(Verdict.SUPPORTED))
    broken = Judgement.incomplete(CLAIM, IncompleteSweep("row", ["a"]))
    baseline.renewed([(broken, "new")]).save()
    assert baseline.regression(judgement(Verdict.SUPPORTED), "as it was") is None
    assert baseline.compare([broken]).compared == 0
    assert str(baseline.compare([broken])) == "since old.json: 0 claims compared; 0 regressed; 0 improved; 0 new"


def test_the_order_of_judging_does_not_change_the_file(tmp_path: Path) -> None:
    judged = [judgement(v, f"row {n}") for n, v in enumerate(BEST_FIRST)]
    saved(tmp_path / "a", *judged)
    saved(tmp_path / "b", *reversed(judged))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a baseline, as --save-baseline writes it"),
        (b"\xff\xfe", "not a baseline"),
        (b"[]", "not a baseline"),
        (b'{"format": 2}', "a baseline of format 2; this cl-bench reads 1"),
        (b'{"format": 1}', "not a baseline"),
        (b'{"format": 1, "claims": [{"row": "a"}]}', "not a baseline"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=f"^{re.escape(str(path))}: {re.escape(said)}"):
        Baseline.load(path)


@pytest.mark.parametrize(("field", "value"), [("verdict", "FINE"), ("claim", "tau"), ("level", "cell"), ("row", None)])
def test_an_entry_that_makes_no_sense_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "old.json"
    saved(path, judgement(Verdict.SUPPORTED))
    told = json.loads(path.read_text())
    if value is None:
        del told["claims"][0][field]
    else:
        told["claims"][0][field] = value
    path.write_text(json.dumps(told))
    with pytest.raises(SpecError, match="not a baseline"):
        Baseline.load(path)


def test_a_setting_is_all_but_the_code(tmp_path: Path) -> None:
    specs = tiny(tmp_path).sweep(dense_row())
    name = setting_of(specs, 0.05, 1.0)

    def method(**changes: Any) -> list[Any]:
        def of(spec: Any) -> Any:
            told = spec.pretrain.method.model_copy(update=changes)
            return spec.model_copy(update={"pretrain": spec.pretrain.model_copy(update={"method": told})})

        return [of(spec) for spec in specs]

    def pretrain(**changes: Any) -> list[Any]:
        return [s.model_copy(update={"pretrain": s.pretrain.model_copy(update=changes)}) for s in specs]

    assert setting_of(method(source="edited"), 0.05, 1.0) == name
    assert setting_of(pretrain(recipe=10**6), 0.05, 1.0) == name
    others = [specs[:-1], method(options=(("a", 1),)), pretrain(seed=7)]
    assert len({name, *(setting_of(other, 0.05, 1.0) for other in others)}) == 4
    assert name not in (setting_of(specs, 0.01, 1.0), setting_of(specs, 0.05, 2.0))


# ---- as outcomes


@pytest.mark.parametrize(
    ("then", "now", "options", "expected"),
    [
        (Verdict.SUPPORTED, Verdict.SUPPORTED, [], {"passed": 6}),
        (Verdict.SUPPORTED, Verdict.INCONCLUSIVE, [], {"passed": 4, "failed": 2}),
        (Verdict.INCONCLUSIVE, Verdict.REFUTED, [], {"passed": 4, "failed": 2}),
        (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, [], {"passed": 4, "xfailed": 2}),
        (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, ["--strict-claims"], {"passed": 4, "failed": 2}),
        (Verdict.REFUTED, Verdict.REFUTED, [], {"passed": 4, "xfailed": 2}),
        (Verdict.REFUTED, Verdict.REFUTED, ["--strict-claims"], {"passed": 4, "failed": 2}),
        (Verdict.REFUTED, Verdict.SUPPORTED, [], {"passed": 6}),
        (Verdict.SUPPORTED, Verdict.REFUTED, ["--set=claims.asserted=false"], {"passed": 4, "failed": 2}),
    ],
)
def test_a_worse_verdict_fails_and_one_no_worse_does_not(
    job: Job, then: Verdict, now: Verdict, options: list[str], expected: OUTCOMES
) -> None:
    path = job.folder / "old.json"
    job.plant(TAUS[then])
    first = job.run(f"--save-baseline={path}", *options)
    first.stdout.fnmatch_lines([f"baseline: {path} (2 claims)"])
    job.plant(TAUS[now])
    before = path.read_bytes()
    result = job.run(f"--baseline={path}", *options, "-rA")
    assert outcomes(result) == expected
    assert result.ret == ("failed" in expected) and path.read_bytes() == before
    regressed = BEST_FIRST.index(now) > BEST_FIRST.index(then)
    improved = BEST_FIRST.index(now) < BEST_FIRST.index(then)
    assert f"2 claims compared; {2 * regressed} regressed" in flat(result)
    assert f"; {2 * improved} improved" in flat(result) and "; 0 new" in flat(result)
    assert ("regressed since old.json, which has: single_object" in flat(result)) == regressed


def test_a_claim_that_is_not_in_the_baseline_is_judged_as_ever(job: Job) -> None:
    path = job.folder / "old.json"
    job.plant(TAU_RISES)
    job.run(f"--save-baseline={path}", "-k", "tau_linear")
    result = job.run(f"--baseline={path}", "-rA")
    assert outcomes(result) == {"passed": 4, "xfailed": 1, "failed": 1}
    new = "1 new: single_object-overlapping-dense_index (detection, tau_negative): REFUTED"
    assert f"1 claim compared; 0 regressed; 0 improved; {new}" in flat(result)


def test_both_options_compare_with_the_old_and_keep_the_new(job: Job) -> None:
    path = job.folder / "old.json"
    job.plant(TAU_FALLS)
    job.run(f"--save-baseline={path}")
    job.plant(TAU_RISES)
    assert outcomes(job.run(f"--baseline={path}", f"--save-baseline={path}")) == {"passed": 4, "failed": 2}
    assert outcomes(job.run(f"--baseline={path}")) == {"passed": 4, "xfailed": 2}


def test_another_grid_fails_with_what_to_do(job: Job) -> None:
    path = job.folder / "old.json"
    job.plant(TAU_FALLS)
    job.run(f"--save-baseline={path}")
    result = job.run(f"--baseline={path}", "--set=claims.alpha=0.1")
    assert outcomes(result) == {"passed": 4, "failed": 2}
    assert "old.json holds this claim of another setting" in flat(result)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--baseline={folder}/none.json", "--baseline .*none.json: No such file or directory"),
        ("--baseline={folder}/file", ".*file: not a baseline, as --save-baseline writes it"),
        ("--baseline={folder}", "--baseline .*: Is a directory"),
        ("--save-baseline={folder}/file", ".*file: not a baseline, .*"),
        ("--save-baseline={folder}/none/new.json", "--save-baseline .*new.json: there is no folder .*none"),
    ],
)
def test_a_file_that_makes_no_sense_is_a_usage_error(job: Job, option: str, said: str) -> None:
    (job.folder / "file").write_text("mine")
    result = job.run(option.format(folder=job.folder))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.stderr.lines if re.search(f"^ERROR: {said}$", line)]) == 1
    assert (job.folder / "file").read_text() == "mine"


def test_a_baseline_that_cannot_be_written_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    job.plant()
    monkeypatch.setattr("cl_bench.baseline.write_atomically", full)
    result = job.run(f"--save-baseline={job.folder / 'new.json'}")
    assert result.ret == 0 and "No space left on device; nothing is kept of this run's verdicts" in flat(result)


# ---- --rerun


def wanted(result: pytest.RunResult) -> set[str]:
    """The cases that a session would compute."""
    return set(re.findall(r"dense_index-\S+-s0", flat(result)))


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is computed: the cases that are asked for."""
    asked: list[str] = []

    def submit(self: Any, specs: Any) -> int:
        asked.extend(spec.case for spec in specs if load_record(spec, self.store) is None)
        raise pytest.UsageError("that is all")

    monkeypatch.setattr("cl_bench.engines.local.LocalEngine.submit", submit)
    return asked


@pytest.mark.parametrize(
    ("options", "which"),
    [
        ([], lambda cases: []),
        (["--rerun=missing"], lambda cases: []),
        (["--rerun=failed"], lambda cases: cases[1:2]),
        (["--rerun=all"], lambda cases: cases),
        (["--rerun=all", "-k", "w0.25"], lambda cases: [case for case in cases if "w0.25" in case]),
    ],
)
def test_what_is_run_again(
    job: Job, no_engine: list[str], options: list[str], which: Callable[[list[str]], list[str]]
) -> None:
    job.plant()
    specs = job.profile.sweep(job.row())
    shutil.rmtree(job.store.run(specs[1].pretrain.key).path)
    plant(job.store, specs[1], diverged="pre-training: loss nan")
    before = trained(job.root)
    job.run("-k", "model", *options)
    again = which([spec.case for spec in specs])
    assert list(dict.fromkeys(no_engine)) == again
    away = {path.name[:32]: path for path in (job.root / "set_aside").glob("*")}
    assert set(away) == {spec.pretrain.key[:32] for spec in specs if spec.case in again}
    assert sum(len(list(path.rglob("*.json"))) for path in away.values()) == len(before) - len(trained(job.root))


def test_a_run_that_another_process_holds_stays(job: Job, no_engine: list[str]) -> None:
    job.plant()
    (first, *others) = job.profile.sweep(job.row())
    with job.store.run(first.pretrain.key).locked() as mine:
        assert mine
        result = job.run("-k", "model", "--rerun=all")
    assert "--rerun all: 3 put away; 1 are being computed by another process" in flat(result)
    assert no_engine == [spec.case for spec in others] and load_record(first, job.store)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rerun=fialed"], r"argument --rerun: invalid choice: 'fialed' \(choose from"),
        (["--rerun=all", "-p", "xdist", "-n1"], r"--rerun puts results away in one process: leave out -n"),
    ],
)
def test_a_rerun_that_makes_no_sense_is_a_usage_error(job: Job, options: list[str], said: str) -> None:
    job.plant()
    before = trained(job.root)
    result = job.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR and trained(job.root) == before
    assert len([line for line in result.stderr.lines if re.search(said, line)]) == 1
