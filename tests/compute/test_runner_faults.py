"""Faults while an encoder is computed, which are stored as it should be, or not: NaN, memory, disk, plugins."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from helpers import dense_row, plant, tiny, trained
from one_encoder import CPU, figures, specs, work

from cl_bench.compute.record import load_record
from cl_bench.compute.runner import compute
from cl_bench.errors import Diverged, MethodError, OutOfMemory
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Run, Store, StoreWarning

PLUGIN = """
from cl_bench import Match, matching

@matching("crooked")
def crooked(views):
    {body}
"""


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
    """A record of another version: the hash is right, a field is missing."""
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
