"""Each stage is computed once, and only where it is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers import KINDS, PROBES, dense_row, tiny, trained
from one_encoder import CPU, figures, specs, work

from cl_bench.compute import numerics
from cl_bench.compute.record import AVERAGE_PRECISIONS, STAGES, load_record
from cl_bench.compute.runner import compute
from cl_bench.losses import fused
from cl_bench.losses.optima import position_only_loss
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.records import LEVELS, Record
from cl_bench.store import Run, Store, StoreWarning

OWN_LOSS = """
from cl_bench import LossTerms, Method
from cl_bench.losses import terms as losses

class Own(Method, name="own"):
    def loss(self, views, objective):
        return LossTerms(losses.alignment(views.z1, views.z2), losses.uniformity(views.z1))
"""


def test_a_computed_record_is_complete(made: tuple[RunSpec, Path, Record]) -> None:
    spec, root, record = made
    assert (record.status, record.detail, record.case) == ("complete", "", spec.case)
    assert set(record.alignment) == set(record.uniformity) == set(record.performance) == set(LEVELS)
    assert all(-1 <= v <= 1 for v in record.alignment.values())
    assert all(v <= 1e-6 for v in record.uniformity.values())
    assert all(
        0 <= v <= 100 for v in (*record.performance.values(), *(record.extra[name] for name in AVERAGE_PRECISIONS))
    )
    assert set(record.seconds) == {"pretrain", *STAGES}
    assert record.decomposition_error < 1e-4
    assert set(record.extra) == {*AVERAGE_PRECISIONS} | {"matching_precision", "similarity_overlap"}
    assert set(record.probes) == set(PROBES) and record.probes["position_chance"] == 1 / 9
    assert all(0 <= v <= 1 for v in record.probes.values())
    assert set(record.similarities) == set(KINDS)
    assert all(sum(shares) == pytest.approx(1) for shares in record.similarities.values())
    lesser = sum(map(min, record.similarities["positive"], record.similarities["other_images"]))
    assert record.extra["similarity_overlap"] == pytest.approx(lesser)
    objective, batch = spec.pretrain.objective, spec.pretrain.optimiser.batch
    assert record.position_only_loss == position_only_loss(objective, batch, 9)  # type: ignore[arg-type]
    run = Store(root).run(spec.pretrain.key)
    history = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [0, 1]
    assert record.losses == tuple((entry["step"], entry["loss"]) for entry in history)
    mean = sum(entry["matching_precision"] for entry in history) / 2  # every anchor has its one positive
    assert record.extra["matching_precision"] == pytest.approx(mean) and 0 < mean < 1
    assert spec.pretrain.model_validate(run.read("spec")) == spec.pretrain


def test_a_precision_is_told_only_where_there_is_one(tmp_path: Path, forget_methods: None) -> None:
    """Not of an encoder that was not trained, nor of one that a method without a match trained."""
    profile = tiny(tmp_path)
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "own.py").write_text(OWN_LOSS)
    registry, store = Registry([folder]), Store(tmp_path / "store")
    own = profile.sweep(dense_row(**spec_of(registry.resolve("own")).model_dump()))[0]
    for spec in (profile.random_init()[0], own):
        assert compute(spec, store, registry, CPU)
        record = load_record(spec, store)
        assert record is not None and record.status == "complete"
        assert set(record.extra) == {*AVERAGE_PRECISIONS} | {"similarity_overlap"}
        assert math.isnan(record.position_only_loss)
        status = (store.run(spec.pretrain.key).path / "status.json").read_text()
        json.loads(status, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_provenance_of_a_training_is_asked_for_its_own_products(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU it tells which log-sum-exp served, and that depends on what the training multiplies."""
    monkeypatch.setattr(numerics, "provenance", lambda device: {"products": fused.products()})
    spec = tiny(tmp_path).random_init()[0]
    optimiser = spec.pretrain.optimiser.model_copy(update={"precision": precision})
    spec = spec.model_copy(update={"pretrain": spec.pretrain.model_copy(update={"optimiser": optimiser})})
    store = Store(tmp_path / "store")
    assert compute(spec, store, Registry(()), CPU)
    record = load_record(spec, store)
    assert record and record.provenance["products"] == {"float32": "tf32x3", "bfloat16": "float16"}[precision]


@pytest.mark.parametrize("how", ["deleted", "garbled"])
def test_a_history_that_cannot_be_trusted_leaves_no_losses(kept: tuple[RunSpec, Store, Run], how: str) -> None:
    spec, store, run = kept
    path = run.path / "history.jsonl"
    if how == "garbled":
        path.write_text(path.read_text().replace("loss", "lass"))
        with pytest.warns(StoreWarning, match="hash is off"):
            record = load_record(spec, store)
    else:
        path.unlink()
        record = load_record(spec, store)
    assert record is not None and record.status == "complete" and record.losses == ()


def test_nothing_is_computed_twice(kept: tuple[RunSpec, Store, Run]) -> None:
    spec, store, _ = kept
    before = trained(store.root)
    assert work(spec, store)
    assert trained(store.root) == before


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["deleted", "garbled"])
def test_only_the_evaluation_that_is_missing_is_computed(
    kept: tuple[RunSpec, Store, Run], made: tuple[RunSpec, Path, Record], stage: str, how: str
) -> None:
    spec, store, run = kept
    before = trained(store.root)
    (path,) = run.path.glob(f"evals/{stage}-*.json")
    path.unlink() if how == "deleted" else path.write_bytes(path.read_bytes()[:-5])
    if how == "garbled":
        with pytest.warns(StoreWarning):
            assert load_record(spec, store) is None
    assert load_record(spec, store) is None
    assert work(spec, store)
    after = trained(store.root)
    assert {name for name in after if after[name] != before.get(name)} == {str(path.relative_to(store.root))}
    assert figures(load_record(spec, store)) == figures(made[2])


@pytest.mark.parametrize("how", ["deleted", "garbled", "truncated", "status deleted", "status garbled"])
def test_an_encoder_that_is_lost_is_trained_again_to_the_same_weights(
    kept: tuple[RunSpec, Store, Run], made: tuple[RunSpec, Path, Record], how: str
) -> None:
    spec, store, run = kept
    path = run.path / ("status.json" if "status" in how else "encoder.safetensors")
    weights = (run.path / "encoder.safetensors").read_bytes()
    if "deleted" in how:
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content if "garbled" in how else content[:-100])
    if "deleted" in how:
        assert work(spec, store)
    else:
        with pytest.warns(StoreWarning):
            assert work(spec, store)
    assert (run.path / "encoder.safetensors").read_bytes() == weights
    assert figures(load_record(spec, store)) == figures(made[2])


def test_another_evaluation_takes_the_same_encoder(kept: tuple[RunSpec, Store, Run], tmp_path: Path) -> None:
    spec, store, _ = kept
    before = trained(store.root)
    _, other = specs(tmp_path, detection__iterations=3)
    assert (other.pretrain, other.linear) == (spec.pretrain, spec.linear)
    assert load_record(other, store) is None
    assert work(other, store)
    after = trained(store.root)
    assert {name: after[name] for name in before} == before
    new = {name.partition("/evals/")[2].partition("-")[0] or name.split("/")[2] for name in set(after) - set(before)}
    assert new == {"detection", "specs"}  # and what was asked for
    assert load_record(spec, store) is not None
    assert load_record(other, store) is not None


@pytest.mark.parametrize("change", ["optimiser__lr", "grid__temperatures", "seeds", "views", "source"])
def test_what_decides_the_weights_decides_the_key(tmp_path: Path, change: str) -> None:
    profile, spec = specs(tmp_path)
    if change == "views":
        other = profile.sweep(dense_row(views="disjoint", source=spec.pretrain.method.source))[0]
    elif change == "source":
        other = profile.sweep(dense_row(source="0" * 64))[0]
    elif change == "seeds":
        other = specs(tmp_path, seeds=2)[0].sweep(dense_row(source=spec.pretrain.method.source))[1]
    else:
        other = specs(tmp_path, **{change: [0.3] if "grid" in change else 0.5})[1]
    assert other.pretrain.key != spec.pretrain.key
