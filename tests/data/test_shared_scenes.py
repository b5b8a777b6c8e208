"""Scenes whose digits share something: rows of their own, against one another, and refused where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import plant, tiny
from jobs import TAU_FALLS, Job, flat, outcomes

from cl_bench.errors import SpecError
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile_files import load_profile

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("as_in_a_shell")

SUITE = "test_shared_content.py"
SHARED = {
    "scenes__one_class__digits": "same",
    "scenes__different_classes__digits": "different",
    "scenes__different_classes_one_tint__digits": "different",
    "scenes__different_classes_one_tint__tints": "same",
}
NAMES = ("one_class", "different_classes", "different_classes_one_tint")


@pytest.fixture
def job(tmp_path: Path, pytester: pytest.Pytester, no_figures: None) -> Job:
    return Job(tmp_path, pytester, **SHARED)


def planted(job: Job, **performance: tuple[float, ...]) -> None:
    """Sweeps of disjoint views by their scenes, and the overlapping twin, whose encoders learnt."""
    job.plant(TAU_FALLS, data="multi_object")
    row = job.row("multi_object", "disjoint")
    for scenes, values in performance.items():
        for n, spec in enumerate(job.profile.sweep(row._replace(scenes=scenes))):
            plant(job.store, spec, L_a=-0.9 + n / 10, L_u=-3 + n / 10, performance=values[n])


def test_rows_differ_in_what_digits_share_and_in_nothing_else(tmp_path: Path) -> None:
    profile = tiny(tmp_path, **SHARED)
    row = Job(tmp_path).row("multi_object", "disjoint")
    plain = profile.sweep(row)
    for name, shared in zip(NAMES, [("same", "any"), ("different", "any"), ("different", "same")], strict=True):
        other = row._replace(scenes=name)
        assert other.name == f"multi_object-{name}-disjoint-dense_index"
        for one, usual in zip(profile.sweep(other), plain, strict=True):
            for data in (one.pretrain.data, one.measure.data):
                assert (data.digits, data.tints) == shared
            back = {"digits": "any", "tints": "any"}
            pretrain = one.pretrain.model_copy(update={"data": one.pretrain.data.model_copy(update=back)})
            measure = one.measure.model_copy(update={"data": one.measure.data.model_copy(update=back)})
            assert one.model_copy(update={"pretrain": pretrain, "measure": measure}) == usual
            assert one.pretrain.key != usual.pretrain.key


@pytest.mark.parametrize(
    ("different", "verdict", "code"),
    [((80, 70, 60, 50), "SUPPORTED", 0), ((99, 90, 80, 71), "REFUTED", 1), ((91, 79, 71, 59), "INCONCLUSIVE", 0)],
)
@pytest.mark.slow
def test_digits_of_different_classes_are_held_against_those_of_one(
    job: Job, different: tuple[float, ...], verdict: str, code: int
) -> None:
    planted(job, one_class=(90, 80, 70, 60), different_classes=different)
    result = job.run("-k", "TestDifferentClasses and not model", suites=SUITE)
    assert result.ret == code
    claims = json.loads((job.report / "claims.json").read_text())
    assert [c["verdict"] for c in claims] == [verdict] * 2
    assert [c["row"] for c in claims] == ["multi_object-different_classes-disjoint-dense_index"] * 2
    told = "on average it does worse at detection than the same method on scenes with one class"
    assert told in job.summary
    assert (claims[0]["comparison"]["reference"], claims[0]["comparison"]["other"]) == (
        "multi_object, same digits",
        "multi_object, different digits",
    )


def test_one_colour_is_exploratory_and_never_fails(job: Job) -> None:
    usual, better = (60, 50, 40, 30), (90, 80, 70, 60)
    planted(job, different_classes=usual, different_classes_one_tint=better)
    result = job.run("-k", "TestOneTint and not model", "--strict-claims", suites=SUITE)
    assert outcomes(result) == {"xfailed": 2, "deselected": 14} and result.ret == 0
    assert job.summary.count("REFUTED (exploratory)") >= 2


def test_a_profile_without_such_scenes_skips_with_the_one_that_has_them(
    tmp_path: Path, pytester: pytest.Pytester, no_figures: None
) -> None:
    result = Job(tmp_path, pytester).run("-k", "not model", "-rs", suites=SUITE)
    assert outcomes(result)["skipped"] == 4 and result.ret == 0
    assert "profile tiny has no scenes called 'one_class'; --profile dial has" not in flat(result)
    assert "profile tiny has no scenes called 'different_classes'; --profile dial has" in flat(result)


def test_the_profile_dial_has_the_scenes_that_the_suite_asks_for() -> None:
    dial = load_profile("dial")
    assert tuple(dial.scenes) == NAMES
    assert dial.follows(load_profile("smoke", ["optimiser.epochs=9"]), "multi_object")
    assert not dial.follows(load_profile("smoke"), "multi_object")


def test_scenes_make_no_sense_of_files_of_images() -> None:
    with pytest.raises(SpecError, match="scenes: one_class takes the embedded scenes, got stl10"):
        load_profile("paper", ["scenes.one_class.digits=same"])


def test_a_claim_says_what_it_is_against() -> None:
    assert Claim("falls_behind", "dense").text.endswith("than the same method on single-object data")
    assert Claim("falls_behind", "dense", against="one_class").text.endswith("on scenes with one class")
