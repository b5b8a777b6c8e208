"""A record is believed of its own run and its own encoder alone, and only where its values can be."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import some, tiny, trained
from hypothesis import given
from hypothesis import strategies as st
from test_runner import figures, specs, work

from cl_bench.compute.record import AVERAGE_PRECISIONS, STAGES, evaluation_name, load_record
from cl_bench.compute.stored import SLACK, evaluation_complaint, status_complaint
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Run, Store, StoreWarning, sealed
from cl_bench.train import pretrain
from cl_bench.train.training import Pretrained

SHA = "0" * 64
ANY = {"seconds": 1.5, "provenance": {}}
FOUND = {"source": SHA, "values": {}, "failed": ""}
WHOLE: dict[str, dict[str, Any]] = {
    "status": {
        **ANY,
        "status": "complete",
        "detail": "",
        "decomposition_error": 1e-7,
        "matching_precision": 0.5,
        "position_only_loss": 5.46,
        "encoder_sha256": SHA,
        "history_sha256": SHA,
    },
    "diverged status": {**ANY, "status": "diverged", "detail": "loss nan at step 3", "decomposition_error": 0.0},
    "measure": {
        **ANY,
        "encoder_sha256": SHA,
        "alignment": {"instance": -0.5, "dense": 0.5},
        "uniformity": {"instance": -2.0, "dense": -1.0},
        "probes": {"position_share": 0.5},
        "similarities": {"positive": [0.25, 0.75]},
        "similarity_overlap": 0.5,
    },
    "linear": {**ANY, "encoder_sha256": SHA, "accuracy": 50.0, "halves": [49.0, 51.0]},
    "detection": {
        **ANY,
        "encoder_sha256": SHA,
        **{"coco_ap": 1.0, "coco_ap50": 2.0, "voc07_ap": 3.0, "voc07_ap50": 4.0, "halves": {"coco_ap": [1.0, 1.5]}},
    },
    "predictors": {**ANY, "encoder_sha256": SHA, "found": {"rankme": {**FOUND, "values": {"rankme@dense": 3.5}}}},
    "diverged": {**ANY, "encoder_sha256": SHA, "diverged": "infinite"},
}


def complaint(kind: str, payload: dict[str, Any], sha256: str = SHA) -> str:
    if "status" in kind:
        return status_complaint(payload)
    return evaluation_complaint("linear" if kind == "diverged" else kind, sha256, payload)


# ---- values


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_payload_is_believed_and_each_of_its_fields_must_be_there(kind: str) -> None:
    assert complaint(kind, WHOLE[kind]) == ""
    for name in WHOLE[kind]:
        rest = {k: v for k, v in WHOLE[kind].items() if k != name}
        assert complaint(kind, rest), f"without {name}"
        assert complaint(kind, {**rest, name: object()}).startswith(name), name


BAD = [
    *(("linear", "accuracy", value) for value in ("99", 1e9, -0.1, 100.1, math.nan, math.inf, True, None, [99.0])),
    *(("detection", name, value) for name in AVERAGE_PRECISIONS for value in ("1", 101.0, -1, math.nan)),
    *(("measure", "alignment", {"instance": value, "dense": 0.0}) for value in (1.1, -1.1, "0", math.nan, False)),
    *(("measure", "uniformity", {"instance": 0.0, "dense": value}) for value in (0.1, "0", math.nan, -math.inf)),
    ("measure", "alignment", {"dense": 0.0}),
    ("measure", "uniformity", {"dense": 0.0, "instance": 0.0, "cell": 0.0}),
    *(("status", "status", value) for value in ("completed", "failed", "", None, True, 1)),
    *(("status", "matching_precision", value) for value in (1.1, -0.1, math.nan, "0.5", True)),
    *(("status", "decomposition_error", value) for value in (-1e-9, math.nan, "0", None)),
    *(
        ("status", name, value)
        for name in ("encoder_sha256", "history_sha256")
        for value in ("", "0" * 63, "g" * 64, 0)
    ),
    *(("status", "position_only_loss", value) for value in (math.nan, math.inf, "5", True)),
    *(("linear", "halves", value) for value in ([101.0, 0.0], [1.0, 2.0, 3.0], ["1"], 5.0, None)),
    *(("measure", "probes", {"position_share": value}) for value in (1.1, -0.1, math.nan, "0")),
    *(("measure", "similarities", {"positive": value}) for value in (0.5, [1.1], [math.nan], ["0"])),
    *(("measure", "similarity_overlap", value) for value in (1.1, -0.1, math.nan, None)),
    *(("predictors", "found", {"p": {**FOUND, "values": {"p": value}}}) for value in (math.nan, math.inf, "1", None)),
    *(("predictors", "found", {"p": {**FOUND, **bad}}) for bad in ({"source": "0"}, {"failed": None})),
    ("status", "detail", "something"),
    ("diverged status", "detail", ""),
    ("diverged", "diverged", ""),
    *((kind, "seconds", value) for kind in WHOLE for value in (-1.0, math.nan, math.inf, "1", True)),
    *((kind, "provenance", value) for kind in WHOLE for value in (None, "x", [])),
]
GOOD = [
    *(("linear", "accuracy", value) for value in (0, 100, 0.0, 100.0)),
    *(
        ("measure", "alignment", {"instance": value, "dense": value})
        for value in (-1, 1, -1 - SLACK / 2, 1 + SLACK / 2)
    ),
    *(("measure", "uniformity", {"instance": value, "dense": value}) for value in (0, SLACK / 2, -50.0)),
    *(("status", "matching_precision", value) for value in (None, 0, 1)),
    *(("status", "position_only_loss", value) for value in (None, -3, 7.5)),
    *(("measure", "similarity_overlap", value) for value in (0, 1, 1 + SLACK / 2)),
    *(("status", "decomposition_error", value) for value in (0, 3.0, math.inf)),
    ("predictors", "found", {"p": {**FOUND, "failed": "predictor 'p' (p.py:3): it failed"}}),
    ("status", "seconds", 0),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD, ids=lambda v: str(v)[:30])
def test_what_cannot_be_is_named(kind: str, name: str, value: object) -> None:
    said = complaint(kind, {**WHOLE[kind], name: value})
    assert said.startswith(name), said
    assert "\n" not in said


@pytest.mark.parametrize(("kind", "name", "value"), GOOD, ids=lambda v: str(v)[:30])
def test_what_can_be_is_believed(kind: str, name: str, value: object) -> None:
    assert complaint(kind, {**WHOLE[kind], name: value}) == ""


@some(300)
@given(value=st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers()))
def test_a_percentage_is_a_number_from_0_to_100_and_nothing_else(value: object) -> None:
    right = type(value) in (int, float) and 0 <= value <= 100  # type: ignore[operator]
    assert (complaint("linear", {**WHOLE["linear"], "accuracy": value}) == "") == right


@some(300)
@given(
    payload=st.dictionaries(
        st.sampled_from(sorted(WHOLE["status"] | WHOLE["linear"])), st.none() | st.text() | st.floats()
    )
)
def test_no_payload_can_crash_the_reading(payload: dict[str, Any]) -> None:
    assert all(complaint(kind, payload) for kind in ("status", *STAGES))


def test_an_evaluation_is_of_one_encoder() -> None:
    for kind in (*STAGES, "diverged"):
        assert complaint(kind, WHOLE[kind], "1" * 64) == "of another encoder"


# ---- runs


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[RunSpec, RunSpec, RunSpec], Path]:
    """Make a store with two encoders and an untrained one."""
    folder = tmp_path_factory.mktemp("two")
    profile, one = specs(folder)
    other = next(s for s in profile.sweep(row_of(one)) if s.pretrain.key != one.pretrain.key)
    untrained = profile.random_init()[0]
    store = Store(folder / "store")
    for spec in (one, other, untrained):
        assert work(spec, store)
    return (one, other, untrained), store.root


@pytest.fixture
def kept(two: tuple[tuple[RunSpec, RunSpec, RunSpec], Path], tmp_path: Path) -> tuple[RunSpec, RunSpec, RunSpec, Store]:
    """Return a copy of the store that a test may damage."""
    found, root = two
    shutil.copytree(root, tmp_path / "store")
    return (*found, Store(tmp_path / "store"))


def row_of(spec: RunSpec) -> Any:
    from cl_bench.spec.profile import Row

    return Row(spec.pretrain.method, spec.pretrain.data.kind, spec.pretrain.views)


def again(spec: RunSpec, store: Store, said: str) -> tuple[object, ...]:
    """Return the figures after the damaged file was set aside with a warning and computed again."""
    with pytest.warns(StoreWarning, match=f"{said}; set aside"):
        assert load_record(spec, store) is None
        assert work(spec, store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return figures(load_record(spec, store))


@pytest.mark.parametrize("copied", ["folder", "records", "evals", "status.json", "encoder.safetensors"])
def test_what_is_another_runs_is_not_believed(kept: tuple[RunSpec, RunSpec, RunSpec, Store], copied: str) -> None:
    one, other, _, store = kept
    mine, theirs = (store.run(spec.pretrain.key).path for spec in (one, other))
    right = figures(load_record(one, store))
    assert right != figures(load_record(other, store)), "or the test shows nothing"
    if copied == "folder":
        shutil.rmtree(mine)
        shutil.copytree(theirs, mine)
    for path in theirs.rglob("*.json") if copied == "records" else theirs.glob("evals/*") if copied == "evals" else []:
        shutil.copy(path, mine / path.relative_to(theirs))
    if copied == "encoder.safetensors":
        shutil.copy(theirs / copied, mine)
        (mine / "evals").rename(mine / "gone")
        assert again(one, store, "hash is off") == right
    else:
        if copied == "status.json":
            shutil.copy(theirs / copied, mine)
        assert again(one, store, "not the record of this run") == right


def test_an_evaluation_under_another_ones_name_is_not_believed(
    kept: tuple[RunSpec, RunSpec, RunSpec, Store], tmp_path: Path
) -> None:
    one, _, _, store = kept
    longer = specs(tmp_path, linear__epochs=3)[1]
    folder = store.run(one.pretrain.key).path / "evals"
    (path,) = folder.glob("linear-*.json")
    path.rename(folder.parent / f"{evaluation_name(longer, 'linear')}.json")
    with pytest.warns(StoreWarning, match="not the record of this run"):
        assert load_record(longer, store) is None


def reweighed(change: float) -> Callable[..., Pretrained]:
    """Training that ends in other weights, as on a GPU it may each time."""
    real = pretrain.pretrain

    def train(*arguments: Any) -> Pretrained:
        done = real(*arguments)
        with torch.no_grad():
            for weights in done.encoder.parameters():
                weights += change * weights.abs().mean() * torch.linspace(-1, 1, weights.numel()).view(weights.shape)
        return done

    return train


@pytest.mark.parametrize("which", [0, 2], ids=["trained", "untrained"])
@pytest.mark.parametrize(
    "lost", [["status.json"], ["encoder.safetensors"], ["status.json", "encoder.safetensors"]], ids=str
)
def test_evaluations_of_old_weights_do_not_stay_beside_new_ones(
    kept: tuple[RunSpec, RunSpec, RunSpec, Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: int,
    lost: list[str],
) -> None:
    """Records that a kill in the middle of ``--rerun`` leaves: no status, which is set aside, but evaluations."""
    spec, store = kept[which], kept[3]
    assert isinstance(spec, RunSpec)
    old = figures(load_record(spec, store))
    for name in lost:
        (store.run(spec.pretrain.key).path / name).unlink()
    monkeypatch.setattr(pretrain, "pretrain", reweighed(0.5))
    with pytest.warns(StoreWarning, match="of another encoder; set aside") as caught:
        assert work(spec, store)
    assert len(caught) == len(STAGES)
    fresh = Store(tmp_path / "fresh")
    assert work(spec, fresh)
    new = figures(load_record(spec, store))
    assert new == figures(load_record(spec, fresh)) != old


def test_evaluations_stand_where_the_same_weights_come_out_again(
    kept: tuple[RunSpec, RunSpec, RunSpec, Store],
) -> None:
    one, _, _, store = kept
    (store.run(one.pretrain.key).path / "status.json").unlink()
    before = trained(store.root)
    assert work(one, store)
    after = trained(store.root)
    assert {name: after[name] for name in before if "evals" in name} == {
        n: t for n, t in before.items() if "evals" in n
    }


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("linear", "accuracy", "99"),
        ("linear", "accuracy", 1e9),
        ("status", "status", "perfect"),
        ("detection", "coco_ap", None),
    ],
)
def test_a_value_that_cannot_be_is_computed_again(
    kept: tuple[RunSpec, RunSpec, RunSpec, Store], name: str, field: str, value: object
) -> None:
    """The hash is right: whoever wrote it could compute one."""
    one, _, _, store = kept
    right = figures(load_record(one, store))
    (path,) = store.run(one.pretrain.key).path.glob("status.json" if name == "status" else f"evals/{name}-*.json")
    path.write_bytes(sealed({**json.loads(path.read_text())["payload"], field: value}))
    assert again(one, store, f"{path}: {field}[^;]*") == right


def test_a_record_of_an_older_version_is_computed_again(tmp_path: Path) -> None:
    """It says neither whose it is nor of which encoder."""
    spec = tiny(tmp_path).random_init()[0]
    store = Store(tmp_path / "store")
    run: Run = store.run(spec.pretrain.key)
    run.path.mkdir(parents=True)
    old = {"status": "complete", "detail": "", "decomposition_error": 0.0, "seconds": 1.0, "encoder_sha256": SHA}
    (run.path / "status.json").write_bytes(sealed(old))
    with pytest.warns(StoreWarning, match="not the record of this run"):
        assert load_record(spec, store) is None
    assert work(spec, store)
    assert isinstance(load_record(spec, store), Record)
