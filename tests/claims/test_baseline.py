"""Figures held against a file of older ones, and ``--rerun``: as functions, and as outcomes of planted records."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import dense_row, plant, tiny, trained
from jobs import TAU_FALLS, TAU_RISES, Job, flat, outcomes

from cl_bench.claims.baseline import Baseline, Kept, OldFormat, setting_of
from cl_bench.claims.judgement import IncompleteSweep, Judgement, Verdict
from cl_bench.compute.record import load_record
from cl_bench.errors import SpecError
from cl_bench.spec.claim import Claim
from cl_bench.statistics.reseeding import Seeded

pytest_plugins = ["pytester"]

CLAIM = Claim("tau_negative", "dense")
FIGURES = Seeded(("a-t1", "a-t2"), ("a", "a"), (3, 4), np.random.default_rng(0).normal(size=(3, 2, 2)))


def judgement(verdict: Verdict, row: str = "row", claim: Claim = CLAIM) -> Judgement:
    return Judgement(claim, row, verdict, None, None, f"{row}: {verdict}: because")


def kept(verdict: Verdict = Verdict.SUPPORTED, setting: str = "as it was", **changes: Any) -> Kept:
    return Kept(
        **{"figures": FIGURES, "untrained": {0: 9.5}, **changes}, verdict=verdict, sentence="so", setting=setting
    )


def saved(path: Path, **rows: Kept) -> Baseline:
    Baseline(path).renewed((row, CLAIM, what) for row, what in rows.items()).save()
    return Baseline.load(path)


# ---- the file


def test_what_is_kept_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    other = FIGURES.only(["a-t2"])
    back = saved(tmp_path / "old.json", row=kept(reference=("the other", other))).of("row", CLAIM, "as it was")
    assert back is not None and back.reference is not None
    assert (back.verdict, back.sentence, back.setting, back.untrained) == (
        Verdict.SUPPORTED,
        "so",
        "as it was",
        {0: 9.5},
    )
    assert back.figures.same_as(FIGURES) and back.figures.families == FIGURES.families
    assert back.reference[0] == "the other" and back.reference[1].same_as(other)
    lines = (tmp_path / "old.json").read_text().splitlines()
    shown = next(line for line in lines if '"alignment"' in line)
    assert shown.count(",") == 2, "the seeds of a figure on a line"


def test_nothing_is_kept_of_another_row_and_another_setting_is_not_compared(tmp_path: Path) -> None:
    baseline = saved(tmp_path / "old.json", row=kept())
    assert baseline.of("another", CLAIM, "as it was") is None
    assert baseline.of("row", Claim("tau_negative", "instance"), "as it was") is None
    with pytest.raises(SpecError, match=r"^row: old\.json holds this claim for another setting .*--save-baseline$"):
        baseline.of("row", CLAIM, "another")


def test_what_is_saved_again_replaces_its_own_and_leaves_the_rest(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.json", row=kept(), other=kept())
    old.renewed([("row", CLAIM, kept(setting="new"))]).save()
    new = Baseline.load(tmp_path / "old.json")
    assert len(new) == 2 and new.of("row", CLAIM, "new") and new.of("other", CLAIM, "as it was")
    assert old.of("row", CLAIM, "as it was"), "what was loaded stays as it was"


def test_changed_verdicts_are_told(tmp_path: Path) -> None:
    baseline = saved(tmp_path / "old.json", a=kept(), b=kept(Verdict.REFUTED), c=kept())
    now = [judgement(Verdict.INCONCLUSIVE, "a"), judgement(Verdict.REFUTED, "b"), judgement(Verdict.REFUTED, "d")]
    broken = Judgement.incomplete(CLAIM, IncompleteSweep("c", ["a"]))
    assert str(baseline.compare([*now, broken])) == (
        "since old.json: 2 claims compared; 1 verdicts changed: a (detection, tau_negative): SUPPORTED -> "
        "INCONCLUSIVE; 1 new: d (detection, tau_negative): REFUTED"
    )


def test_the_order_of_judging_does_not_change_the_file(tmp_path: Path) -> None:
    rows = {name: kept(untrained={seed: 1.0}) for seed, name in enumerate("abc")}
    saved(tmp_path / "a", **rows)
    saved(tmp_path / "b", **dict(reversed(rows.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a baseline that --save-baseline wrote"),
        (b"\xff\xfe", "not a baseline"),
        (b"[]", "not a baseline"),
        (b'{"format": 3}', "a baseline of format 3; this cl-bench reads format 2"),
        (b'{"format": 2}', "claims: must be a list, got None"),
        (b'{"format": 2, "claims": [{"row": "a"}]}', "claims[0]: a table of row, claim, level, verdict, "),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=f"^{re.escape(str(path))}: {re.escape(said)}"):
        Baseline.load(path)


def test_a_file_of_format_1_is_refused_with_the_command_that_renews_it(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"format": 1, "claims": []}')
    with pytest.raises(OldFormat, match=r"format 1, which holds verdicts and no figures; renew it with: pytest it$"):
        Baseline.load(path, "pytest it")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["verdict"], "FINE", "claims[0].verdict: SUPPORTED or REFUTED or INCONCLUSIVE is wanted, got 'FINE'"),
        (["claim"], "tau", "claims[0]: a claim is wanted, got "),
        (["row"], 3, "claims[0].row: text is wanted, got 3"),
        (["untrained"], {"one": 1}, "claims[0].untrained: a seed as key is wanted, got 'one'"),
        (["figures", "seeds"], [4, 3], "claims[0].figures.seeds: a rising list of whole numbers is wanted, got [4, 3]"),
        (
            ["figures", "seeds"],
            [3],
            "claims[0].figures.configurations.a-t1.alignment: a list of 1 numbers, one a seed,",
        ),
        (
            ["figures", "configurations", "a-t1", "alignment"],
            [0, None],
            "claims[0].figures.configurations.a-t1.alignment",
        ),
        (["figures", "configurations", "a-t1", "family"], 1, "claims[0].figures.configurations.a-t1.family: text"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_by_its_place(
    tmp_path: Path, place: list[str], value: Any, said: str
) -> None:
    path = tmp_path / "old.json"
    saved(path, row=kept())
    told = json.loads(path.read_text())
    (*way, last), at = place, told["claims"][0]
    for step in way:
        at = at[step]
    at[last] = value
    path.write_text(json.dumps(told))
    with pytest.raises(SpecError, match=f"^{re.escape(f'{path}: {said}')}"):
        Baseline.load(path)


def test_a_claim_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    saved(path, row=kept())
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "claims": told["claims"] * 2}))
    with pytest.raises(SpecError, match=r"claims\[1\]: row \(tau_negative, dense\) is listed twice$"):
        Baseline.load(path)


def test_a_setting_is_all_but_the_code_and_the_seeds(tmp_path: Path) -> None:
    specs = tiny(tmp_path).sweep(dense_row())
    name = setting_of(specs, 0.05, 1.0)

    def method(**changes: Any) -> list[Any]:
        def of(spec: Any) -> Any:
            told = spec.pretrain.method.model_copy(update=changes)
            return spec.model_copy(update={"pretrain": spec.pretrain.model_copy(update={"method": told})})

        return [of(spec) for spec in specs]

    def pretrain(**changes: Any) -> list[Any]:
        return [s.model_copy(update={"pretrain": s.pretrain.model_copy(update=changes)}) for s in specs]

    same = method(source="edited"), pretrain(recipe=10**6), pretrain(seed=7), [*specs, *pretrain(seed=1)]
    assert {name} == {setting_of(other, 0.05, 1.0) for other in same}
    others = [specs[:-1], method(options=(("a", 1),))]
    assert len({name, *(setting_of(other, 0.05, 1.0) for other in others)}) == 3
    assert name not in (setting_of(specs, 0.01, 1.0), setting_of(specs, 0.05, 2.0))


# ---- as outcomes


def test_what_is_surely_worse_fails_with_its_figures_and_the_same_never(two_seeds: Job) -> None:
    job, path = two_seeds, two_seeds.folder / "old.json"
    job.plant(TAU_FALLS)
    job.run(f"--save-baseline={path}").stdout.fnmatch_lines([f"baseline: {path} (2 claims)"])
    before = path.read_bytes()
    same = job.run(f"--baseline={path}", "--strict-claims")
    assert same.ret == 0 and "2 claims compared; 0 verdicts changed; 0 new" in flat(same)
    job.plant(TAU_RISES)
    worse = job.run(f"--baseline={path}", "-rA")
    assert outcomes(worse) == {"passed": 8, "failed": 2} and path.read_bytes() == before
    for evaluation in ("linear evaluation", "detection"):
        assert re.search(
            rf"worse than old\.json: single_object-overlapping-dense_index: tau with {evaluation} \(tau_negative\) "
            r"-1\.00 before, 1\.00 now: worse by 2\.00, at least 2\.00 at one-sided level [\d.]+; more than "
            r"max_tau_drop = 0\.1",
            flat(worse),
        )
    lenient = job.run(f"--baseline={path}", "--set=claims.max_tau_drop=1.99", "-rA")
    assert outcomes(lenient) == {"passed": 8, "failed": 2}
    assert "mean performance at detection 75.05 before, 75.05 now" in flat(lenient)


def test_a_verdict_alone_does_not_fail(two_seeds: Job) -> None:
    job, path = two_seeds, two_seeds.folder / "old.json"
    job.plant(TAU_RISES)
    one = "-k", "tau_detection"
    assert outcomes(job.run(f"--save-baseline={path}", *one)) == {"failed": 1, "deselected": 9}
    assert outcomes(job.run(f"--baseline={path}", *one)) == {"xfailed": 1, "deselected": 9}
    assert outcomes(job.run(f"--baseline={path}", *one, "--strict-claims")) == {"failed": 1, "deselected": 9}


def test_a_mean_that_falls_fails_though_tau_stays(two_seeds: Job) -> None:
    job, path = two_seeds, two_seeds.folder / "old.json"
    job.plant(TAU_FALLS)
    job.run(f"--save-baseline={path}", "-k", "tau_detection")
    job.plant(tuple(p - 3 for p in TAU_FALLS))
    result = job.run(f"--baseline={path}", "-k", "tau", "-rA")
    assert outcomes(result) == {"passed": 1, "failed": 1, "deselected": 8}
    assert "75.05 before, 72.05 now: worse by 3.00 points" in flat(result)
    assert "more than max_performance_drop = 1" in flat(result)
    assert "1 claim compared; 0 verdicts changed; 1 new: single_object" in flat(result)
    kept = job.run(f"--baseline={path}", "-k", "tau", "--set=claims.max_performance_drop=4")
    assert kept.ret == 0


def test_other_seeds_are_compared_and_another_grid_is_not(two_seeds: Job) -> None:
    job, path = two_seeds, two_seeds.folder / "old.json"
    job.plant(TAU_FALLS)
    job.run(f"--save-baseline={path}", "-k", "tau")
    changed = job.run(f"--baseline={path}", "-k", "tau", "--set=claims.margin=2")
    assert outcomes(changed) == {"failed": 2, "deselected": 8}
    assert "old.json holds this claim for another setting" in flat(changed)
    later = Job(job.folder, job.pytester, seeds=2, first_seed=5)
    later.plant(TAU_FALLS)
    result = later.run(f"--baseline={path}", "-k", "tau")
    assert result.ret == 0 and "2 claims compared" in flat(result)


def test_one_seed_on_both_sides_is_refused_before_anything_trains(job: Job) -> None:
    path = job.folder / "old.json"
    job.plant(TAU_FALLS)
    job.run(f"--save-baseline={path}", "-k", "tau")
    result = job.run(f"--baseline={path}", "-k", "tau")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --baseline *old.json: it has one seed per configuration, as this run has, and *"]
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--baseline={folder}/none.json", "--baseline .*none.json: No such file or directory"),
        ("--baseline={folder}/file", ".*file: not a baseline that --save-baseline wrote"),
        ("--baseline={folder}/one", r".*renew it with: pytest .*--profile=.*--save-baseline \S*/one"),
        ("--baseline={folder}", "--baseline .*: Is a directory"),
        ("--save-baseline={folder}/file", ".*file: not a baseline that --save-baseline wrote"),
        ("--save-baseline={folder}/none/new.json", "--save-baseline .*new.json: there is no folder .*none"),
        ("--set=claims.max_tau_drop=2", ".*claims.max_tau_drop.*less than 2.*"),
        ("--set=claims.max_performance_drop=-1", ".*claims.max_performance_drop.*greater than or equal to 0.*"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(job: Job, option: str, said: str) -> None:
    (job.folder / "file").write_text("mine")
    (job.folder / "one").write_text('{"format": 1, "claims": []}')
    result = job.run(option.format(folder=job.folder))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.stderr.lines if re.search(f"^ERROR: {said}$", line)]) == 1
    assert (job.folder / "file").read_text() == "mine"


def test_a_baseline_that_cannot_be_written_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    job.plant()
    monkeypatch.setattr("cl_bench.claims.baseline.write_atomically", full)
    result = job.run(f"--save-baseline={job.folder / 'new.json'}")
    assert result.ret == 0 and "No space left on device; nothing is kept of this run" in flat(result)


# ---- --rerun


def wanted(result: pytest.RunResult) -> set[str]:
    """Return the cases that a session would compute."""
    return set(re.findall(r"dense_index-\S+-s0", flat(result)))


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is computed: the cases that are asked for."""
    asked: list[str] = []

    def submit(self: Any, specs: Any) -> int:
        asked.extend(spec.case for spec in specs if load_record(spec, self.store) is None)
        raise pytest.UsageError("that is all")

    monkeypatch.setattr("cl_bench.compute.local.LocalEngine.submit", submit)
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
    assert "--rerun all: 3 set aside; 1 are being computed by another process" in flat(result)
    assert no_engine == [spec.case for spec in others] and load_record(first, job.store)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rerun=fialed"], r"argument --rerun: invalid choice: 'fialed' \(choose from"),
        (
            ["--rerun=all", "-p", "xdist", "-n1"],
            r"--rerun sets old results aside, which one process has to do: leave out -n",
        ),
    ],
)
def test_a_rerun_that_makes_no_sense_is_a_usage_error(job: Job, options: list[str], said: str) -> None:
    job.plant()
    before = trained(job.root)
    result = job.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR and trained(job.root) == before
    assert len([line for line in result.stderr.lines if re.search(said, line)]) == 1
