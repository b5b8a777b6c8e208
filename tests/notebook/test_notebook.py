"""Functions for a notebook: records computed and loaded, claims judged, encoders by name; and the examples of each."""

from __future__ import annotations

import doctest
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from helpers import dense_row, environment, plant, record, tiny_profile, trained, untrained

import cl_bench
import cl_bench.notebook.known
import cl_bench.spec.profile_files
from cl_bench import Claim, Records
from cl_bench.claims.judge import judge as judge_sweep
from cl_bench.claims.judgement import IncompleteSweep, Sweep
from cl_bench.compute.local import ComputationError, LocalEngine
from cl_bench.errors import MethodError, SpecError
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec.profile import Profile, Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.store import Store

DOWN = Claim("tau_negative", "instance")
GRID = {"grid__temperatures": [0.1, 0.5, 2.0], "grid__weightings": [[1, 0.5], [1, 1], [0.5, 1]]}
FUNCTIONS = "run", "load_records", "judge", "load_encoder"
PLUGIN = """
from cl_bench import DenseViews, Match, matching

@matching("mine")
def mine(views: DenseViews, *, reach: float = {reach}) -> Match:
    return Match.identity(views)
"""


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of profiles: ``ci`` with its own grid, and all else as small as can be."""
    folder = tmp_path_factory.mktemp("profiles")
    tiny_profile(folder / "ci.toml", **GRID)
    return folder


def own_row(profile: Profile, method: str = "dense_index", **where: str) -> Row:
    return Row(spec_of(Registry().resolve(method)), **{"data": "single_object", "views": "overlapping", **where})  # type: ignore[arg-type]


def plant_row(store: Store, profile: Profile, row: Row, skip: int = 0, **more: float) -> None:
    for n, spec in enumerate(profile.sweep(row)[skip:]):
        plant(store, spec, L_a=-0.9 + n / 10, L_u=-3 + n / 10, performance=90 - 10 * n, **more)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, profiles: Path) -> Path:
    """Make a store with one row, all of whose records but the first are planted."""
    store = Store(tmp_path_factory.mktemp("computed") / "results")
    profile = load_profile(str(profiles / "ci.toml"))
    plant_row(store, profile, own_row(profile), skip=1)
    for n, spec in enumerate(profile.random_init()):
        plant(store, spec, performance=10 + n / 100)
    return store.root


@pytest.fixture
def workplace(
    tmp_path: Path, profiles: Path, computed: Path, monkeypatch: pytest.MonkeyPatch, as_in_a_shell: None
) -> Iterator[Path]:
    """Enter a directory with a copy of that store as ``results``, in which ``ci`` is that profile."""
    shutil.copytree(computed, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cl_bench.spec.profile_files, "PROFILES", profiles)
    monkeypatch.setattr(cl_bench.notebook.known, "PROFILES", profiles)
    return tmp_path


@pytest.fixture
def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a worker process is started")

    monkeypatch.setattr(LocalEngine, "_spawn", refuse)


def whole(workplace: Path) -> Profile:
    """Plant the record that is missing there."""
    profile = load_profile("ci")
    plant(Store(workplace / "results"), profile.sweep(own_row(profile))[0], L_a=-1.0, L_u=-3.1, performance=95)
    return profile


# ---- the examples


def test_the_examples_run_one_after_the_other(workplace: Path) -> None:
    """In order: the first computes the encoder that the others look at."""
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for name in FUNCTIONS:
        (example,) = finder.find(getattr(cl_bench, name), name, globs={})
        assert example.examples
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
    records = cl_bench.load_records("results", "ci")
    spec = next(spec for spec in records.specs if spec.case == records[0].case)
    before = trained(workplace / "results")
    again = cl_bench.run(spec, store="results", progress=False)
    assert again == records[0] and trained(workplace / "results") == before
    assert again.predictors and "rankme@dense" in again.predictors
    encoder = cl_bench.load_encoder("results", again)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    by_key = cl_bench.load_encoder("results", again.key[:8])
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), by_key.parameters(), strict=True))


def test_neither_torch_nor_pytest_is_loaded_before_it_is_needed() -> None:
    asked = "".join(f"; cl_bench.{name}" for name in (*FUNCTIONS, "Claim", "Record", "Records"))
    code = f"import sys, cl_bench{asked}; sys.exit(', '.join({{'torch', 'pytest', '_pytest'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


# ---- run


def test_a_stored_row_is_loaded_and_nothing_is_computed(
    workplace: Path, nothing_is_computed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = whole(workplace)
    found = cl_bench.run(profile="ci", store="results")
    assert [r.case for r in found] == [s.case for s in (*profile.sweep(own_row(profile)), *profile.random_init())]
    assert [s.case for s in found.specs] == [r.case for r in found] and found.profile is not None
    assert found.profile.name == "ci" and not found.failures and capsys.readouterr().out == ""
    assert len(cl_bench.run(profile="ci", store="results", untrained=False)) == len(found) - 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"profile": "smok"}, "no profile 'smok'; did you mean 'ci'|no profile 'smok'"),
        ({"method": "dense_indx"}, "no method 'dense_indx'; did you mean 'dense_index'"),
        ({"method": len}, "method= takes a name or a file, .*%%writefile"),
        ({"data": "single_objekt"}, "data='single_objekt': .*did you mean 'single_object'"),
        ({"views": "disjunct"}, "views='disjunct': .*overlapping, disjoint"),
        ({"scenes": "same_class"}, "scenes='same_class'"),
        ({"seeds": 0}, "--seeds takes a number N .*got '0'"),
        ({"set": ["optimiser.epoch=2"]}, "optimiser.epoch.*did you mean 'optimiser.epochs'|epochs"),
        ({"set": "optimiser.epochs=2"}, "set='optimiser.epochs=2': takes a list"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"share_views": 0}, "--share-views must be at least 1, got 0"),
        ({"share_views": 2.5}, "share_views"),
        ({"gpus_per_model": 0}, "--gpus-per-model must be at least 1, got 0"),
        ({"gpus_per_model": 3}, "--gpus-per-model 3 does not divide the batch of"),
        (
            {"timeout_per_encoder": "soon"},
            r"^timeout_per_encoder takes hours, minutes and seconds, as 90s.* got .soon.",
        ),
        ({"timeout_per_encoder": 3600}, r"^timeout_per_encoder takes hours, .* got .3600."),
        ({"device": "gpu9"}, "gpu9"),
        ({"data_root": "nowhere"}, "--data-root nowhere: no such folder"),
    ],
)
def test_what_makes_no_sense_is_one_line_before_anything_trains(
    workplace: Path, nothing_is_computed: None, asked: dict[str, object], said: str
) -> None:
    with pytest.raises((SpecError, MethodError), match=said) as caught:
        cl_bench.run(**{"profile": "ci", "store": "new", **asked})  # type: ignore[call-overload]
    assert "\n" not in str(caught.value)


def test_an_encoder_that_fails_is_told_of_and_a_row_without_any_is_an_error(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        return ComputationError("dense_index-info_nce-t0.1-s0: the machine is on fire")

    monkeypatch.setattr(LocalEngine, "_one", fail)
    with pytest.warns(UserWarning, match="1 of 8 encoders could not be computed: .*on fire"):
        found = cl_bench.run(profile="ci", store="results", progress=False)
    assert len(found) == 7 and "1 failed" in repr(found)
    with pytest.raises(IncompleteSweep, match=r"missing: dense_index-info_nce-t0.1-s0") as caught:
        cl_bench.judge(found, DOWN)
    assert any("on fire" in note for note in caught.value.__notes__)
    with pytest.raises(ComputationError, match="on fire"):
        cl_bench.run(found.specs[0], store="results", progress=False)
    with pytest.raises(ComputationError, match="8 of 8 encoders"):
        cl_bench.run(profile="ci", store="new", progress=False)


def test_a_method_that_is_edited_between_two_calls_is_another_one(workplace: Path, forget_methods: None) -> None:
    file = workplace / "mine.py"
    specs = []
    for reach in (0.25, 0.35):
        file.write_text(PLUGIN.format(reach=reach))
        method = Registry([file], ()).resolve("./mine.py")
        assert method.options == {"reach": reach}
        specs.append(spec_of(method))
    assert specs[0].source != specs[1].source and specs[0].options == specs[1].options == ()
    file.write_text(PLUGIN.replace('"mine"', '"other"').format(reach=1))
    assert Registry([file], ()).names == ("other",)


# ---- load_records


def test_all_records_are_loaded_whatever_their_profile(workplace: Path) -> None:
    profile, store = whole(workplace), Store(workplace / "results")
    other = load_profile("ci", ["measure_t=3", "linear.epochs=7", "detection.metric=voc07_ap"])
    row = own_row(profile, "instance", data="multi_object", views="disjoint")
    plant_row(store, other, row)
    plant(store, other.random_init()[0], performance=33)  # the same encoder, evaluated otherwise
    found = cl_bench.load_records("results")
    assert {f"{r.data}-{r.views}-{r.method}": 0 for r in found if r.family != "random_init"}.keys() == {
        "single_object-overlapping-dense_index",
        "multi_object-disjoint-instance",
    }
    assert sorted(r.performance["dense"] for r in found if r.family == "random_init") == [10, 10.01, 33]
    assert len(cl_bench.load_records("results", "ci")) == 8
    theirs = cl_bench.load_records("results", "ci", set=["measure_t=3", "linear.epochs=7", "detection.metric=voc07_ap"])
    assert len(theirs) == 7 and {r.views for r in theirs if r.family != "random_init"} == {"disjoint"}
    assert [r.case for r in cl_bench.load_records("results", "ci")] == [
        r.case for r in cl_bench.run(profile="ci", store="results")
    ]


def test_a_store_that_does_not_tell_what_was_asked_for_is_read_by_the_built_in_profiles(workplace: Path) -> None:
    whole(workplace)
    before = cl_bench.load_records("results")
    for folder in (workplace / "results").glob("runs/*/specs"):
        shutil.rmtree(folder)
    assert [repr(r) for r in cl_bench.load_records("results")] == [repr(r) for r in before]
    (workplace / "my.toml").write_text('base = "ci"\nmeasure_t = 3.0\n')
    assert len(cl_bench.load_records("results", "my.toml")) == 0


def test_what_is_not_whole_is_passed_over(workplace: Path) -> None:
    profile = whole(workplace)
    first, second, *_ = profile.sweep(own_row(profile))
    store = Store(workplace / "results")
    for spec, text in ((first, "{"), (second, '{"payload": {"record": "x/spec"}, "sha256": ""}')):
        (store.run(spec.pretrain.key).path / "spec.json").write_text(text)
    (workplace / "results" / "runs" / "stray").mkdir()
    (workplace / "results" / "runs" / "a file").write_text("")
    assert len(cl_bench.load_records("results")) == 6


def test_the_records_of_a_method_are_those_of_its_present_source(workplace: Path) -> None:
    profile = whole(workplace)
    plant_row(Store(workplace / "results"), profile, dense_row(source="0" * 64))
    both = cl_bench.load_records("results", "ci")
    assert len(both) == 6 + 6 + 2
    with pytest.raises(SpecError, match=r"more than one record of dense_index-info_nce-t0.1-s0: .*method="):
        cl_bench.judge(both, DOWN)
    assert len(cl_bench.load_records("results", "ci", method="dense_index")) == 8


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("result",), "no store 'result'; did you mean 'results'"),
        ((".",), "store '.': holds no runs"),
        (("results", "cii"), "no profile 'cii'; did you mean 'ci'"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_nothing_is_made(
    workplace: Path, asked: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        cl_bench.load_records(*asked)
    with pytest.raises(SpecError, match="changes a profile"):
        cl_bench.load_records("results", set=["seeds=2"])
    assert sorted(p.name for p in workplace.iterdir()) == ["results"]


def test_a_table_has_the_columns_of_the_report(workplace: Path) -> None:
    pytest.importorskip("pandas")
    whole(workplace)
    frame = cl_bench.load_records("results").to_frame()
    assert list(frame["row"]) == ["single_object-overlapping-dense_index"] * 6 + ["random_init"] * 2
    assert list(frame["performance_dense"])[:2] == [95, 90] and frame["half.dense.0"].notna().all()


def test_without_pandas_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install"):
        Records(()).to_frame()


def test_records_are_a_sequence_that_selects(workplace: Path) -> None:
    profile = whole(workplace)
    plant_row(Store(workplace / "results"), profile, own_row(profile, views="disjoint"))
    found = cl_bench.load_records("results", "ci")
    one = found.where(views="disjoint", method="dense_index")
    assert len(one) == 8 and len(one.specs) == 8 and found[-1] in one and len(found[1:3]) == 2
    assert repr(one) == "<8 records: single_object-disjoint-dense_index (6), random_init (2)>"
    with pytest.raises(SpecError, match="no records of views 'disjont'; did you mean 'disjoint'"):
        found.where(views="disjont")


# ---- judge


def test_a_claim_is_judged_as_the_suites_do(workplace: Path) -> None:
    profile = whole(workplace)
    found = cl_bench.load_records("results", "ci")
    cases = [spec.case for spec in profile.sweep(own_row(profile))]
    trained_ones, others = list(found[:6]), list(found[6:])
    expected = judge_sweep(DOWN, Sweep("single_object-overlapping-dense_index", trained_ones, cases), others)
    for records in (found, list(found), cl_bench.run(profile="ci", store="results")):
        assert cl_bench.judge(records, DOWN).to_json() == expected.to_json()
    lenient = cl_bench.load_records("results", "ci", set=["claims.alpha=0.3", "claims.margin=3.0"])
    judged = cl_bench.judge(lenient, DOWN)
    assert judged.alpha == 0.3 and str(judged.verdict) == "SUPPORTED", judged.sentence
    assert cl_bench.judge(lenient, DOWN, alpha=0.1).alpha == 0.1


def test_a_paired_claim_and_one_of_disjoint_views_take_the_other_row(workplace: Path) -> None:
    profile, store = whole(workplace), Store(workplace / "results")
    plant_row(store, profile, own_row(profile, "dense_cosine"))
    plant_row(store, profile, own_row(profile, views="disjoint"))
    found = cl_bench.load_records("results", "ci")
    with pytest.raises(SpecError, match="records of several rows; select one with where"):
        cl_bench.judge(found, DOWN)
    index = found.where(views="overlapping", method="dense_index")
    worse = Claim("no_worse_than", "dense")
    with pytest.raises(SpecError, match="give its records as reference="):
        cl_bench.judge(found.where(method="dense_cosine"), worse)
    judged = cl_bench.judge(found.where(method="dense_cosine"), worse, reference=index)
    assert judged.comparison is not None and judged.comparison.n == 6
    disjoint, level = found.where(views="disjoint"), Claim("at_random_level", "instance")
    with pytest.raises(SpecError, match="with overlapping views as twin="):
        cl_bench.judge(disjoint, level)
    judged = cl_bench.judge(disjoint, level, twin=index)
    assert str(judged.verdict) == "REFUTED" and judged.validity is not None and "overlapping" in judged.validity.whose


def test_a_missing_record_is_named_whether_the_grid_is_known_or_not(workplace: Path) -> None:
    found = cl_bench.load_records("results", "ci")  # without the first
    with pytest.raises(IncompleteSweep, match=r"1 record missing: dense_index-info_nce-t0.1-s0") as caught:
        cl_bench.judge(found, DOWN)
    assert "cl_bench.run() computes" in caught.value.__notes__[-1]
    two = [record(f"info_nce-t{t}", seed=seed) for t in (1, 2) for seed in (0, 1)]
    with pytest.raises(IncompleteSweep, match="missing: dense_index-info_nce-t2-s1"):
        cl_bench.judge([*two[:-1], *untrained(1, 2)], DOWN)
    with pytest.raises(IncompleteSweep, match="random_init") as caught:
        cl_bench.judge(two, DOWN)
    assert any("untrained" in note for note in caught.value.__notes__)
    with pytest.raises(SpecError, match="there is only one"):
        cl_bench.judge([*two, *untrained(1)], Claim("at_random_level", "dense"))
    with pytest.raises(SpecError, match="records of no trained encoder"):
        cl_bench.judge(untrained(1, 2), DOWN)
    with pytest.raises(SpecError, match="more than one record of dense_index-info_nce-t1-s0"):
        cl_bench.judge([two[0], replace(two[0], key="another"), *untrained(1, 2)], DOWN)


# ---- load_encoder


def test_an_encoder_that_is_not_there_or_not_the_only_one_is_refused(workplace: Path) -> None:
    profile = whole(workplace)
    plant_row(Store(workplace / "results"), profile, own_row(profile, views="disjoint"), diverged="a nan")  # type: ignore[arg-type]
    case = "dense_index-info_nce-t0.5-s0"
    with pytest.raises(SpecError, match=f"no encoder 'dense_index-info_nce-t0.6-s0'; did you mean '{case}'"):
        cl_bench.load_encoder("results", "dense_index-info_nce-t0.6-s0")
    with pytest.raises(SpecError, match=r"has 2 encoders .*data=, views= or a key: \w{8} \(single_object, overl") as e:
        cl_bench.load_encoder("results", case)
    assert "\n" not in str(e.value)
    with pytest.raises(SpecError, match=r"no weights of .*views='overlapping': encoder.safetensors is not there"):
        cl_bench.load_encoder("results", case, views="overlapping")
    with pytest.raises(SpecError, match=r"no weights of .*: a nan"):
        cl_bench.load_encoder("results", case, views="disjoint")
    with pytest.raises(SpecError, match=r"no encoder .*data='multi_object'"):
        cl_bench.load_encoder("results", case, data="multi_object")
    with pytest.raises(SpecError, match="no store 'elsewhere'"):
        cl_bench.load_encoder("elsewhere", case)


def test_every_function_has_a_home_and_an_example() -> None:
    for name in FUNCTIONS:
        home = import_module(getattr(cl_bench, name).__module__)
        assert ">>>" in (getattr(home, name).__doc__ or "") and name in cl_bench.__all__
