"""Encoders that a worker pre-trains in lock-step: their records, what if one fails, and which ones go together."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, within
from helpers import plant
from one_encoder import CPU, figures

from cl_bench.compute.local import LockStepWarning
from cl_bench.compute.record import load_record, read_status
from cl_bench.compute.runner import compute
from cl_bench.compute.tasks import Task, Tasks
from cl_bench.methods.registry import Registry
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Store
from cl_bench.train import checkpoint, view_batches

PLUGINS = """
import os, time, weakref
from pathlib import Path
import torch
from cl_bench import Match, Method, matching

HERE = Path(__file__).parent

class FailsOnce(Method, name="sv_fails"):
    # Some objectives fail, always.
    def match(self, views):
        return Match.identity(views)

    def loss(self, views, objective):
        if objective.family == "align_uniform":
            raise RuntimeError("not this objective")
        return super().loss(views, objective)

@matching("sv_dies_once")
def dies_once(views):
    if not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), 9)
    return Match.identity(views)

class Narrow(Method, name="sv_narrow"):
    # There is room for one encoder at a time.
    heads = weakref.WeakSet()

    def head(self, encoder, spec):
        head = super().head(encoder, spec)
        self.heads.add(head)
        return head

    def match(self, views):
        if len(self.heads) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return Match.identity(views)

@matching("sv_slow")
def slow(views):
    time.sleep(0.3)
    return Match.identity(views)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, plugins=PLUGINS)


def go(bench: Bench, specs: tuple[RunSpec, ...], **how: Any) -> tuple[list[Record | str], list[str]]:
    """Return the outcome of each spec, and the warnings that encoders were parted."""
    engine = bench.engine(1, share_views=4, **how)
    found: list[Record | str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            engine.submit(specs)
            for spec in specs:
                outcome = within(120, lambda spec=spec: engine.record(spec))  # type: ignore[misc]
                found.append(outcome if isinstance(outcome, Record) else str(outcome))
        finally:
            engine.close()
    return found, [str(w.message) for w in caught if issubclass(w.category, LockStepWarning)]


@pytest.mark.slow
def test_the_records_are_those_of_encoders_trained_alone(bench: Bench, tmp_path: Path) -> None:
    specs, alone = bench.specs("dense_index"), Store(tmp_path / "alone")
    found, parted = go(bench, specs)
    assert len(specs) == 4 and not parted
    assert bench.notes.begun == {spec.case: 1 for spec in specs}
    for spec, record in zip(specs, found, strict=True):
        assert compute(spec, alone, Registry(), CPU)
        assert isinstance(record, Record) and figures(record) == figures(load_record(spec, alone))
        assert record.losses == load_record(spec, alone).losses  # type: ignore[union-attr]
        assert record.provenance["in_lock_step"] == 4
    first, *others = (record.seconds["pretrain"] for record in found if isinstance(record, Record))
    assert others == pytest.approx([first] * 3, abs=0.2)  # an equal share of the time for each


@pytest.mark.slow
def test_one_that_raises_is_named_and_the_others_are_complete(bench: Bench) -> None:
    specs = bench.specs("sv_fails")
    found, parted = go(bench, specs)
    families = [spec.pretrain.objective.family for spec in specs]
    assert set(families) == {"align_uniform", "info_nce"}
    for family, spec, outcome in zip(families, specs, found, strict=True):
        if family == "info_nce":
            assert isinstance(outcome, Record) and outcome.status == "complete"
        else:
            assert str(outcome).startswith(f"{spec.case}: ") and str(outcome).endswith("not this objective")
    assert len(parted) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "why"), [("sv_dies_once", "killed by signal 9"), ("sv_narrow", "out of memory in method 'sv_narrow'")]
)
def test_where_all_fail_together_each_is_trained_alone(bench: Bench, name: str, why: str) -> None:
    found, (said,) = go(bench, bench.specs(name))
    assert all(isinstance(record, Record) and record.status == "complete" for record in found)
    assert said.startswith("4 encoders are trained one by one, since in lock-step they failed: ") and why in said


@pytest.mark.slow
def test_the_time_for_an_encoder_is_counted_for_each(bench: Bench) -> None:
    specs = bench.specs("sv_slow")
    (first, *_), _ = go(bench, specs[:1])
    assert isinstance(first, Record)
    found, parted = go(bench, specs[1:], timeout=20)
    assert not parted and all(isinstance(record, Record) for record in found)


def test_a_stopped_lock_step_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(view_batches, "KEPT_VIEWS", 0)
    bench = Bench(tmp_path)
    first, *others = specs = bench.specs("dense_index")
    store, alone = bench.store, Store(tmp_path / "alone")

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(first, store, Registry(), CPU, stop, beside=others)
    runs = [store.run(spec.pretrain.key) for spec in specs]
    assert all((run.path / "checkpoint.pt").exists() and read_status(run) is None for run in runs)
    steps: list[int] = []
    assert compute(
        first,
        store,
        Registry(),
        CPU,
        lambda stage, done, total: steps.append(done) if stage == "pre-training" else None,
        beside=others,
    )
    assert steps == [2]
    for spec, run in zip(specs, runs, strict=True):
        status = read_status(run)
        assert status is not None and not (run.path / "checkpoint.pt").exists()
        assert compute(spec, store, Registry(), CPU) and compute(spec, alone, Registry(), CPU)
        assert figures(load_record(spec, store)) == figures(load_record(spec, alone))


def test_what_is_stored_or_held_is_left_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first, stored, held, free = bench.specs("dense_index")
    plant(bench.store, stored)
    kept = read_status(bench.store.run(stored.pretrain.key))
    with bench.store.run(held.pretrain.key).locked() as mine:
        assert mine
        assert compute(first, bench.store, Registry(), CPU, beside=(stored, held, free))
    assert read_status(bench.store.run(held.pretrain.key)) is None
    assert read_status(bench.store.run(stored.pretrain.key)) == kept
    for spec in (first, free):
        status = read_status(bench.store.run(spec.pretrain.key))
        assert status is not None and status["provenance"]["in_lock_step"] == 2


# ---- which ones go together


def queue(specs: tuple[RunSpec, ...], store: Store, share_views: int, jobs: int = 1, plugin: str = "p") -> Tasks:
    tasks = Tasks(store, share_views, jobs)
    for spec in specs:
        tasks.add(Task(spec, plugin))
    return tasks


@pytest.mark.parametrize(
    ("share", "jobs", "sizes"), [(1, 1, [1, 1, 1, 1]), (2, 1, [2, 2]), (8, 1, [4]), (8, 2, [2, 1, 1]), (3, 1, [3, 1])]
)
def test_a_worker_takes_no_more_than_its_share(tmp_path: Path, share: int, jobs: int, sizes: list[int]) -> None:
    specs = Bench(tmp_path).specs("dense_index")
    tasks = queue(specs, Store(tmp_path / "store"), share, jobs)
    taken = []
    while task := tasks.take("p"):
        taken.append((task.spec, *task.beside))
    assert [len(one) for one in taken] == sizes
    assert sorted(spec.key for one in taken for spec in one) == sorted(spec.key for spec in specs)


def test_only_those_of_the_same_views_and_plugin_go_together(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    specs, others = bench.specs("dense_index"), bench.specs("dense_index", seeds=2)
    later = tuple(spec for spec in others if spec.pretrain.seed == 1)
    tasks = queue((specs[0], *later[:1], specs[1]), bench.store, 4)
    tasks.add(Task(specs[2], "another plugin"))
    task = tasks.take("p")
    assert task is not None and (task.spec, *task.beside) == (specs[0], specs[1])
    assert len(tasks) == 2


def test_what_goes_back_is_next_and_what_failed_stays_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    specs = bench.specs("dense_index")
    tasks = queue(specs, bench.store, 3)
    first = tasks.take("p")
    assert first is not None and first.beside == specs[1:3]
    tasks.release(first, busy=True)
    assert len(tasks) == 3
    plant(bench.store, specs[1])  # trained meanwhile: what is left of it needs no company
    second = tasks.take("p")
    assert second is not None and (second.spec, second.beside) == (specs[1], ())
    third = tasks.take("p")
    assert third is not None and (third.spec, third.beside) == (specs[2], (specs[3],))
    tasks.part(third)
    alone = [tasks.take("p"), tasks.take("p")]
    assert [(task.spec, task.beside) for task in alone if task] == [(specs[2], ()), (specs[3], ())]
    assert tasks.take("p") is None
    tasks.retry()
    (again,) = [tasks.take("p")]
    assert again is not None and (again.spec, again.beside) == (specs[0], ())


def test_a_long_wait_is_told_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (spec, *_) = bench.specs("dense_index")
    tasks = queue((spec,), bench.store, 1)
    task = tasks.take("p")
    assert task is not None
    tasks.release(task, busy=True)
    assert not tasks.waits_long(spec, 0.0)  # nothing was tried again yet
    tasks.retry()
    time.sleep(0.01)
    assert [tasks.waits_long(spec, 0.005) for _ in range(2)] == [True, False]
