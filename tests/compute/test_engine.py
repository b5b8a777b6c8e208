"""Worker processes that print, raise, exit and are killed; engines that share a store; what is left behind."""

from __future__ import annotations

import os
import re
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Bench, start, within
from helpers import alive, in_full, plant, trained, until, workers

from cl_bench.compute import local
from cl_bench.compute.local import ComputationError
from cl_bench.compute.process import descendants
from cl_bench.compute.record import load_record
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Store, StoreWarning

PLUGINS = """
import os, sys, time, warnings
from pathlib import Path
import torch
from cl_bench import Match, Method, matching

HERE = Path(__file__).parent
print("printed while it was imported")

@matching("engine_raises")
def raises(views):
    raise RuntimeError("boom\\nand more of it")

@matching("engine_exits")
def exits(views):
    os._exit(3)

@matching("engine_dies_once")
def dies_once(views):
    if not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), 9)
    return Match.identity(views)

@matching("engine_prints")
def prints(views):
    print('{"event": "done"}')
    sys.stdout.flush()
    os.write(1, b'{"event": "failed", "error": "a lie"}\\n' + bytes(range(256)) + b'\\n')
    os.system("echo from a child")
    warnings.warn("a plugin's own affair")
    return Match.identity(views)

@matching("engine_asks")
def asks(views):
    try:
        input("your name? ")
    except EOFError:
        pass
    return Match.identity(views)

@matching("engine_counts")
def counts(views):
    with open(HERE / "calls", "a") as file:
        file.write(f"{views.z1.double().sum().item():.17g}\\n")
    return Match.identity(views)

def no_room(*of_whom):
    (HERE / "tried").touch()
    if not (HERE / "room").exists():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nSee the documentation")

class Full(Method, name="engine_full"):
    # The encoder finds no room.
    def head(self, encoder, spec):
        encoder.register_forward_pre_hook(no_room)
        return super().head(encoder, spec)

    def match(self, views):
        return Match.identity(views)

@matching("engine_greedy")
def greedy(views):
    no_room()
    return Match.identity(views)

@matching("engine_slow")
def slow(views):
    (HERE / f"slow-{os.getpid()}").touch()
    time.sleep(0.1)
    return Match.identity(views)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, plugins=PLUGINS)


# ---- one engine, two workers, a quarrelsome lot of plugins; then another engine on what is left


class Havoc:
    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder, plugins=PLUGINS)
        names = ["raises", "dies_once", "prints", "dense_index", "asks", "exits"]
        self.spec = {n: self.bench.specs(n if n == "dense_index" else f"engine_{n}")[0] for n in names}
        self.first, self.warnings = self.go(jobs=2)
        self.notes = self.bench.notes
        self.stored = trained(self.bench.store.root)
        self.second, _ = self.go(jobs=1, only=["dies_once", "dense_index", "prints", "raises"])

    def go(self, jobs: int, only: list[str] | None = None) -> tuple[dict[str, Record | str], list[str]]:
        engine = self.bench.engine(jobs)
        outcomes: dict[str, Record | str] = {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                engine.submit([self.spec[name] for name in only or self.spec])
                for name in only or self.spec:
                    found = within(60, lambda: engine.record(self.spec[name]))  # noqa: B023
                    outcomes[name] = found if isinstance(found, Record) else str(found)
            finally:
                self.pids = [p.pid for p in engine._processes]
                engine.close()
                self.left = [p for p in descendants(os.getpid()) if p in self.pids]
        return outcomes, [str(w.message) for w in caught if issubclass(w.category, StoreWarning)]


@pytest.fixture(scope="module")
def havoc(tmp_path_factory: pytest.TempPathFactory) -> Havoc:
    return Havoc(tmp_path_factory.mktemp("havoc"))


@pytest.mark.parametrize("name", ["dense_index", "prints"])
@pytest.mark.slow
def test_the_others_go_on(havoc: Havoc, name: str) -> None:
    record = havoc.first[name]
    assert isinstance(record, Record)
    assert (record.status, record.case) == ("complete", havoc.spec[name].case)
    assert havoc.notes.ended[record.case] == record
    assert havoc.second[name] == record


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", r"plugins\.py:\d+\): RuntimeError: boom$"),
        ("dies_once", r"worker process ended \(killed by signal 9\)"),
        ("exits", r"worker process ended \(exit status 3\)"),
    ],
)
@pytest.mark.slow
def test_what_fails_is_named_in_one_line(havoc: Havoc, name: str, message: str) -> None:
    said = havoc.first[name]
    assert isinstance(said, str)
    assert said.startswith(f"{havoc.spec[name].case}: ")
    assert re.search(message, said)
    assert "\n" not in said
    assert havoc.notes.ended[havoc.spec[name].case] == said


@pytest.mark.slow
def test_a_dead_worker_does_not_speak_with_anothers_voice(havoc: Havoc) -> None:
    assert not [said for said in havoc.first.values() if "printed while it was imported" in str(said)]


@pytest.mark.slow
def test_what_was_killed_is_computed_by_the_next(havoc: Havoc) -> None:
    record = havoc.second["dies_once"]
    assert isinstance(record, Record)
    assert record.status == "complete"
    assert isinstance(havoc.second["raises"], str)
    after = trained(havoc.bench.store.root)
    assert {k: after[k] for k in havoc.stored if "spec.json" not in k} == {
        k: v for k, v in havoc.stored.items() if "spec.json" not in k
    }


@pytest.mark.slow
def test_what_a_plugin_prints_is_kept_beside_its_run(havoc: Havoc) -> None:
    path = havoc.bench.store.run(havoc.spec["prints"].pretrain.key).path / "output.txt"
    said = path.read_bytes()
    for part in (b'{"event": "done"}\n', b'"a lie"', b"from a child", b"a plugin's own affair"):
        assert part in said


@pytest.mark.slow
def test_a_plugin_that_asks_on_standard_input_does_not_hang(havoc: Havoc) -> None:
    assert "hangs" not in str(havoc.first["asks"])


@pytest.mark.slow
def test_a_plugins_warning_is_not_a_warning_about_the_store(havoc: Havoc) -> None:
    assert havoc.warnings == []


@pytest.mark.slow
def test_closing_leaves_no_process_not_even_a_zombie(havoc: Havoc) -> None:
    assert havoc.pids
    assert havoc.left == []


# ---- out of memory


@pytest.mark.slow
def test_out_of_memory_in_a_plugin_names_it(bench: Bench) -> None:
    greedy = bench.specs("engine_greedy")[0]
    engine = bench.engine(jobs=1)
    try:
        engine.submit([greedy])
        said = str(within(60, lambda: engine.record(greedy)))
    finally:
        engine.close()
    assert said.startswith(f"{greedy.case}: pre-training: out of memory in method 'engine_greedy' ({bench.methods}")
    assert said.endswith(
        "with a batch of 32 images; try --set single_object.optimiser.batch=16 "
        "(for the whole row: fewer negatives are another objective)"
    )


@pytest.mark.slow
def test_out_of_memory_is_one_line_that_says_what_to_try_and_the_others_go_on(bench: Bench) -> None:
    full, other = bench.specs("engine_full")[0], bench.specs("engine_counts")[0]
    engine = bench.engine(jobs=1)
    try:
        engine.submit([full, other])
        said = str(within(60, lambda: engine.record(full)))
        assert isinstance(within(60, lambda: engine.record(other)), Record)
        assert len(engine._processes) == 1
    finally:
        engine.close()
    assert said == (
        f"{full.case}: pre-training: out of memory with 32 images of a batch of 32; "
        "try --set single_object.optimiser.chunk=16 "
        "(the loss and its gradients stay those of the whole batch; batch norm's statistics become those of a chunk)"
    )
    run = bench.store.run(full.pretrain.key)
    assert (bench.methods / "tried").exists() and not (run.path / "status.json").exists()
    assert load_record(full, bench.store) is None
    (bench.methods / "room").touch()
    engine = bench.engine(jobs=1)
    try:
        assert engine.submit([full]) == 1
        assert isinstance(within(60, lambda: engine.record(full)), Record)
    finally:
        engine.close()


# ---- rivals


@pytest.mark.slow
def test_runs_that_another_process_holds_are_waited_for_without_spinning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = bench.specs("dense_index")[:3]
    looked: Counter[str] = Counter()

    def look(spec: RunSpec, store: Store) -> Record | None:
        looked[spec.case] += 1
        return load_record(spec, store)

    monkeypatch.setattr(local, "load_record", look)
    engine = bench.engine(jobs=1)
    try:
        with (
            bench.store.run(first.pretrain.key).locked() as one,
            bench.store.run(second.pretrain.key).locked() as two,
        ):
            assert one and two
            engine.submit([first, second, third])
            assert isinstance(within(60, lambda: engine.record(third)), Record)
            before = looked.total()
            time.sleep(1.5)
            looks = looked.total() - before
            assert set(bench.notes.begun) == {third.case}
            plant(bench.store, first)  # as the other process would
        assert in_full(within(30, lambda: engine.record(first))) == in_full(load_record(first, bench.store))
        assert isinstance(within(30, lambda: engine.record(second)), Record)
        assert not engine.has(bench.specs("dense_index")[3])
    finally:
        engine.close()
    assert 1 <= looks <= 12, f"looked {looks} times in 1.5 s"


@pytest.mark.slow
def test_two_processes_share_the_work_and_train_nothing_twice(bench: Bench) -> None:
    specs = bench.specs("engine_counts", optimiser__epochs=2, optimiser__log_every=3)
    both = [start(bench, specs, 1), start(bench, tuple(reversed(specs)), 1)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.split() == ["ready", *["complete"] * len(specs)]
    # Of four steps the first and last are logged, and matched once more to check the loss; the first is all specs'.
    n, seen = len(specs), Counter((bench.methods / "calls").read_text().split())
    assert Counter(seen.values()) == {1: 4 * n, 2: 2 * n, 2 * n: 2}


@pytest.mark.slow
def test_workers_end_when_the_process_that_started_them_is_killed(bench: Bench) -> None:
    specs = bench.specs("engine_slow", optimiser__epochs=200)
    process = start(bench, specs, jobs=1)
    try:
        until(lambda: list(bench.methods.glob("slow-*")), 60, "training begins")
        started = descendants(process.pid)
        assert started
        process.kill()
        process.wait(10)
        until(lambda: not any(map(alive, started)), 5, f"workers {started} end")
    finally:
        process.kill()
        process.communicate()

    def let_go() -> bool:  # the lock goes with a process's last thread, a moment after its first
        with bench.store.run(specs[0].pretrain.key).locked() as mine:
            return mine

    until(let_go, 5, "nobody holds the run")
    assert load_record(specs[0], bench.store) is None


# ---- nothing may hang


@pytest.mark.parametrize("where", ["load_record", "watcher", "Popen", "TemporaryFile"])
def test_an_error_in_the_thread_that_feeds_a_worker_is_reported(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    spec = bench.specs("dense_index")[0]
    engine = bench.engine(jobs=1)
    engine.submit([spec])

    def fail(*_: object, **__: object) -> None:
        raise OSError("no room")

    place = {
        "load_record": (local, "load_record"),
        "watcher": (engine.watcher, "started"),
        "Popen": (subprocess, "Popen"),
        "TemporaryFile": (local.tempfile, "TemporaryFile"),
    }[where]
    monkeypatch.setattr(*place, fail)
    try:
        outcome = within(3, lambda: engine.record(spec))
    finally:
        monkeypatch.undo()
        engine.close()
    assert isinstance(outcome, ComputationError)
    assert str(outcome).startswith(spec.case)
    assert "no room" in str(outcome)


def test_closing_an_engine_that_never_worked(bench: Bench) -> None:
    engine = bench.engine(jobs=2)
    engine.submit(bench.specs("dense_index"))
    engine.close()
    engine.close()
    assert engine._processes == []


def test_what_is_in_the_store_starts_no_worker(bench: Bench) -> None:
    specs = bench.specs("dense_index")
    for spec in specs:
        plant(bench.store, spec)
    engine = bench.engine(jobs=2)
    assert engine.submit([*specs, *specs]) == 0
    assert [engine.record(spec).case for spec in specs] == [spec.case for spec in specs]
    assert engine._processes == []
    engine.close()


def test_a_garbled_record_is_queued_and_told_of_once(bench: Bench) -> None:
    specs = bench.specs("dense_index")
    for spec in specs:
        plant(bench.store, spec)
    (bench.store.run(specs[0].pretrain.key).path / "status.json").write_bytes(b"\0\1")
    engine = bench.engine(jobs=1)
    with pytest.warns(StoreWarning) as caught:
        assert engine.submit(specs) == 1
    assert len(caught) == 1
    engine.close()


@pytest.fixture(autouse=True, scope="module")
def no_stray_workers() -> Iterator[None]:
    yield
    assert not workers(descendants(os.getpid()))
