"""Each stage is computed once and only where it is missing; what goes wrong is stored as it should be, or not."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import KINDS, PROBES, dense_row, plant, tiny, trained

from cl_bench.compute.runner import AVERAGE_PRECISIONS, STAGES, compute, load_record
from cl_bench.errors import Diverged, MethodError, OutOfMemory
from cl_bench.losses.optima import position_only_loss
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Profile
from cl_bench.spec.records import LEVELS, Record
from cl_bench.store import Run, Store, StoreWarning

CPU = torch.device("cpu")
PLUGIN = """
from cl_bench import Match, matching

@matching("crooked")
def crooked(views):
    {body}
"""


OWN_LOSS = """
from cl_bench import LossTerms, Method
from cl_bench.losses import terms as losses

class Own(Method, name="own"):
    def loss(self, views, objective):
        return LossTerms(losses.alignment(views.z1, views.z2), losses.uniformity(views.z1))
"""


def specs(folder: Path, **changes: object) -> tuple[Profile, RunSpec]:
    profile = tiny(folder, **changes)
    source = spec_of(Registry().resolve("dense_index")).source
    return profile, profile.sweep(dense_row(source=source))[0]


def work(spec: RunSpec, store: Store, on_step: Callable[[str, int, int], None] | None = None) -> bool:
    return compute(spec, store, Registry(), CPU, on_step)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Path, Record]:
    """Return a spec, a store in which it was computed, and its record."""
    folder = tmp_path_factory.mktemp("made")
    _, spec = specs(folder)
    store = Store(folder / "store")
    assert load_record(spec, store) is None
    assert work(spec, store)
    record = load_record(spec, store)
    assert record is not None
    return spec, store.root, record


@pytest.fixture
def kept(made: tuple[RunSpec, Path, Record], tmp_path: Path) -> tuple[RunSpec, Store, Run]:
    """Return a copy of the store that a test may damage."""
    spec, root, _ = made
    shutil.copytree(root, tmp_path / "store")
    store = Store(tmp_path / "store")
    return spec, store, store.run(spec.pretrain.key)


def figures(record: Record | None) -> tuple[object, ...]:
    assert record is not None
    return record.alignment, record.uniformity, record.performance, record.extra, record.decomposition_error


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


def test_pre_training_that_diverges_is_stored_as_such_and_not_evaluated(tmp_path: Path) -> None:
    _, spec = specs(tmp_path, optimiser__lr=1e30)
    store = Store(tmp_path / "store")
    assert work(spec, store)
    record = load_record(spec, store)
    assert record is not None
    assert (record.status, dict(record.performance), dict(record.alignment)) == ("diverged", {}, {})
    assert record.detail.startswith("pre-training: ")
    assert [p.name for p in store.run(spec.pretrain.key).path.rglob("*.safetensors")] == []
    before = trained(store.root)
    assert not any("evals" in name for name in before)
    assert work(spec, store)
    assert trained(store.root) == before


@pytest.mark.parametrize(("stage", "change"), [("linear", "linear__lr"), ("detection", "detection__lr")])
def test_an_evaluation_that_diverges_is_stored_as_such(tmp_path: Path, stage: str, change: str) -> None:
    _, spec = specs(tmp_path, **{change: 1e38, "detection__iterations": 8, "linear__epochs": 4})
    store = Store(tmp_path / "store")
    assert work(spec, store)
    record = load_record(spec, store)
    assert record is not None
    assert (record.status, dict(record.performance)) == ("diverged", {})
    assert stage in record.detail
    before = trained(store.root)
    assert work(spec, store)
    assert trained(store.root) == before


def test_two_evaluations_that_diverge_are_both_named(
    kept: tuple[RunSpec, Store, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store, run = kept
    for path in run.path.glob("evals/*.json"):
        path.unlink()

    def fail(*_: object, **__: object) -> None:
        raise Diverged("infinite")

    monkeypatch.setattr("cl_bench.evaluate.alignment_uniformity.measure", fail)
    monkeypatch.setattr("cl_bench.evaluate.linear.evaluate_linear", fail)
    assert work(spec, store)
    record = load_record(spec, store)
    assert record is not None
    assert (record.status, record.detail) == ("diverged", "measure: infinite; linear: infinite")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('gone')", r"crooked.*plugin\.py:6.*KeyError: 'gone'"),
        ("return None", r"crooked.*must return a Match, got NoneType"),
        ("return Match.identity(views).weights[:1]", r"crooked"),
        ("raise ValueError", r"crooked.*plugin\.py:6.*ValueError"),
        ("import torch; torch.zeros(2) @ torch.zeros(3)", r"crooked.*plugin\.py:6"),
    ],
)
def test_a_plugin_that_fails_leaves_no_record(tmp_path: Path, body: str, message: str, forget_methods: None) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "plugin.py").write_text(PLUGIN.format(body=body))
    registry, store = Registry([folder]), Store(tmp_path / "store")
    spec = tiny(tmp_path).sweep(dense_row(**spec_of(registry.resolve("crooked")).model_dump()))[0]
    for _ in range(2):
        with pytest.raises(MethodError, match=message) as caught:
            compute(spec, store, registry, CPU)
        assert "\n" not in str(caught.value)
    assert load_record(spec, store) is None
    assert not [name for name in trained(store.root) if not name.endswith("spec.json")]


@pytest.mark.parametrize(
    ("stage", "where", "said"),
    [
        ("measure", "cl_bench.evaluate.alignment_uniformity.measure", r"the features of 64 images; try --device cpu"),
        ("linear", "cl_bench.evaluate.linear.evaluate_linear", r"a batch of 128; try --set linear\.batch=64"),
        (
            "detection",
            "cl_bench.evaluate.detection.evaluate_detection",
            r"a batch of 2; try --set detection\.batch=1 --set detection\.lr=0\.05 --set detection\.iterations=4 "
            r"\(for the whole row: it is another recipe\)",
        ),
    ],
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried"), MemoryError(), None], ids=repr)
def test_a_stage_that_is_out_of_memory_says_what_to_try_and_is_tried_again(
    kept: tuple[RunSpec, Store, Run],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    where: str,
    said: str,
    error: Exception | None,
) -> None:
    spec, store, run = kept
    before = trained(store.root)
    (path,) = run.path.glob(f"evals/{stage}-*.json")
    path.unlink()

    def fail(*_: object) -> None:
        if error is None:
            torch.empty(2**55)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(OutOfMemory, match=f"^{stage}: out of memory with {said}$"):
            work(spec, store)
    assert len(trained(store.root)) == len(before) - 1 and load_record(spec, store) is None
    assert work(spec, store) and load_record(spec, store) is not None


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"batch": 32}, "32 images of a batch of 32; try --set single_object.optimiser.chunk=16 ("),
        ({"batch": 32, "chunk": 8}, "8 images of a batch of 32; try --set single_object.optimiser.chunk=4 ("),
        ({"batch": 45}, "45 images of a batch of 45; try --set single_object.optimiser.chunk=15 ("),
        ({"batch": 32, "chunk": 2}, "2 images of a batch of 32; try --device cpu"),
        ({"batch": 31}, "31 images of a batch of 31; try --device cpu"),
    ],
    ids=str,
)
def test_pre_training_that_is_out_of_memory_names_a_chunk_that_the_batch_can_be_cut_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: dict[str, int], said: str
) -> None:
    spec = specs(tmp_path, **{f"optimiser__{key}": value for key, value in plan.items()})[1]
    store = Store(tmp_path / "store")

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("cl_bench.train.pretrain.pretrain", fail)
    with pytest.raises(OutOfMemory) as caught:
        work(spec, store)
    assert str(caught.value).startswith(f"pre-training: out of memory with {said}")
    assert not (store.run(spec.pretrain.key).path / "status.json").exists()


def test_a_plugin_edited_since_the_spec_was_made_is_not_stored_under_the_old_source(
    tmp_path: Path, forget_methods: None
) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "plugin.py").write_text(PLUGIN.format(body="return Match.identity(views)"))
    made_with = spec_of(Registry([folder]).resolve("crooked"))
    (folder / "plugin.py").write_text(PLUGIN.format(body="return Match.identity(views)  # and something else"))
    spec = tiny(tmp_path).sweep(dense_row(**made_with.model_dump()))[0]
    store = Store(tmp_path / "store")
    with pytest.raises(MethodError, match=r"crooked.*(edited|changed)"):
        compute(spec, store, Registry([folder]), CPU)
    assert load_record(spec, store) is None


@pytest.mark.parametrize("stage", ["pre-training", "linear"])
def test_an_interruption_is_taken_up_again(tmp_path: Path, made: tuple[RunSpec, Path, Record], stage: str) -> None:
    spec, _, record = made
    store = Store(tmp_path / "store")

    def interrupt(now: str, done: int, total: int) -> None:
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(spec, store, interrupt)
    assert load_record(spec, store) is None
    before = trained(store.root)
    seen: list[str] = []
    assert work(spec, store, lambda now, done, total: seen.append(now))
    assert ("pre-training" in seen) == (stage == "pre-training")
    after = trained(store.root)
    assert {k: v for k, v in after.items() if k in before and "spec" not in k} == {
        k: v for k, v in before.items() if "spec" not in k
    }
    assert figures(load_record(spec, store)) == figures(record)


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_disk_that_fills_up_loses_nothing(
    tmp_path: Path, made: tuple[RunSpec, Path, Record], monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The nth write fails: spec, encoder, history, status and the three evaluations, in order."""
    spec, _, record = made
    store = Store(tmp_path / "store")
    fsync, calls = os.fsync, []

    def full(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            calls.append(fd)
            if len(calls) >= nth:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            work(spec, store)
    assert load_record(spec, store) is None
    assert len(calls) == nth
    assert not [p for p in (store.root / "runs").rglob(".*") if p.is_file()]
    assert work(spec, store)
    assert figures(load_record(spec, store)) == figures(record)


def test_a_run_that_another_holds_is_left_alone(tmp_path: Path, made: tuple[RunSpec, Path, Record]) -> None:
    spec, _, _ = made
    store = Store(tmp_path / "store")
    with store.run(spec.pretrain.key).locked() as mine:
        assert mine
        assert not work(spec, store)
        assert trained(store.root) == {}
    assert work(spec, store)
    assert load_record(spec, store) is not None


def test_what_is_printed_goes_to_the_run(
    tmp_path: Path, forget_methods: None, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    body = """import os, sys
    print("from print")
    print("from stderr", file=sys.stderr)
    os.write(1, b"from the first descriptor\\n")
    os.write(2, b"from the second descriptor\\n")
    return Match.identity(views)"""
    (folder / "plugin.py").write_text(PLUGIN.format(body=body))
    registry, store = Registry([folder]), Store(tmp_path / "store")
    spec = tiny(tmp_path).sweep(dense_row(**spec_of(registry.resolve("crooked")).model_dump()))[0]
    with capfd.disabled():  # print as a worker process does
        compute(spec, store, registry, CPU)
    said = (store.run(spec.pretrain.key).path / "output.txt").read_text()
    for line in ("from print", "from stderr", "from the first descriptor", "from the second descriptor"):
        assert line in said


class Full:
    """A standard output whose buffer cannot be written."""

    def __init__(self, fine: int) -> None:
        self.fine = fine

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        self.fine -= 1
        if self.fine < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_descriptors_come_back_though_the_output_cannot_be_written(
    kept: tuple[RunSpec, Store, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store, _ = kept
    before = [os.fstat(fd).st_ino for fd in (1, 2)], len(list(Path("/proc/self/fd").iterdir()))
    safe = os.dup(1), os.dup(2)
    monkeypatch.setattr(sys, "stdout", Full(fine=1))
    try:
        with pytest.raises(OSError, match="No space left"):
            work(spec, store)
        now = [os.fstat(fd).st_ino for fd in (1, 2)]
    finally:
        for fd, kept_fd in zip((1, 2), safe, strict=True):
            os.dup2(kept_fd, fd)
            os.close(kept_fd)
    assert now == before[0]
    assert len(list(Path("/proc/self/fd").iterdir())) == before[1]


@pytest.mark.parametrize("name", ["status", "measure", "linear", "detection"])
def test_a_whole_record_that_lacks_a_field_is_computed_again(
    kept: tuple[RunSpec, Store, Run], made: tuple[RunSpec, Path, Record], name: str
) -> None:
    """As written by another version: the hash is right, a field is missing."""
    spec, store, run = kept
    (path,) = run.path.glob("status.json" if name == "status" else f"evals/{name}-*.json")
    run.write(str(path.relative_to(run.path).with_suffix("")), {"seconds": 1.0})
    with pytest.warns(StoreWarning, match="set aside"):
        assert load_record(spec, store) is None
    assert work(spec, store)
    assert figures(load_record(spec, store)) == figures(made[2])


def test_a_planted_record_is_like_a_computed_one(tmp_path: Path, made: tuple[RunSpec, Path, Record]) -> None:
    """The helper of the other tests keeps in step with the runner."""
    spec, root, record = made
    store = Store(tmp_path / "store")
    plant(store, spec)
    planted = load_record(spec, store)
    assert planted is not None
    assert planted.status == "complete"
    for name in ("alignment", "uniformity", "performance", "extra", "probes", "similarities", "seconds"):
        assert set(getattr(planted, name)) == set(getattr(record, name))
    names = {str(p.relative_to(root)) for p in (root / "runs").rglob("*.json")}
    assert {str(p.relative_to(store.root)) for p in (store.root / "runs").rglob("*.json")} == names
    assert (store.run(spec.pretrain.key).path / "specs" / f"{spec.key[:16]}.json").exists()
