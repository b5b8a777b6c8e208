"""An interrupted training goes on and ends in the same bits; a checkpoint that is no good costs nothing else."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import dense_row, ragged, tiny

from cl_bench.compute.record import load_record
from cl_bench.compute.runner import compute
from cl_bench.data import Dataset, load
from cl_bench.errors import Diverged
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import PretrainSpec, RunSpec
from cl_bench.store import Run, Store, StoreWarning
from cl_bench.train import checkpoint, pretrain, training, view_batches
from cl_bench.train.checkpoint import Checkpoint

CPU = torch.device("cpu")
KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from cl_bench.train import checkpoint
from cl_bench.methods.registry import Registry
from cl_bench.compute.runner import compute
from cl_bench.spec import RunSpec
from cl_bench.store import Store
checkpoint.SECONDS_BETWEEN = 0.0
def kill(stage, done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
compute(RunSpec.model_validate_json(sys.argv[1]), Store(Path(sys.argv[2])), Registry(), torch.device("cpu"), kill)
"""


@pytest.fixture(autouse=True)
def _always_due(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)


def spec_in(folder: Path, method: str = "dense_index", which: int = 0, **changes) -> RunSpec:
    """Return the spec of an encoder with four steps: two epochs of two batches."""
    profile = tiny(folder, **{"optimiser__epochs": 2, **changes})
    return profile.sweep(dense_row(name=method, source=spec_of(Registry().resolve(method)).source))[which]


def kept_in(folder: Path) -> Checkpoint:
    run = Run(Store(folder), "0" * 64)
    run.path.mkdir(parents=True, exist_ok=True)
    return Checkpoint(run, CPU)


def train(spec: PretrainSpec, kept: Checkpoint | None = None, stop: int | None = None):
    """Return the outcome of a training, or None if it is stopped after so many steps."""

    def on_step(done, steps):
        if done == stop:
            raise KeyboardInterrupt

    try:
        return pretrain.pretrain(spec, Registry().resolve(spec.method.name), load(spec.data), CPU, on_step, kept)
    except KeyboardInterrupt:
        return None


def same(one, other):
    states = (done.encoder.state_dict() for done in (one, other))
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert one.history == other.history
    assert one.decomposition_error == other.decomposition_error
    assert one.matching_precision == other.matching_precision


@pytest.mark.parametrize("views_kept", [True, False])
@pytest.mark.parametrize(
    ("method", "stop"), [("dense_index", 1), ("dense_index", 2), ("dense_index", 4), ("dense_emd", 3)]
)
def test_a_training_goes_on_where_it_was(method, stop, views_kept, tmp_path, monkeypatch):
    spec = spec_in(tmp_path, method).pretrain
    view_batches._kept.clear()
    whole = train(spec)
    if not views_kept:
        view_batches._kept.clear()
        monkeypatch.setattr(view_batches, "KEPT_VIEWS", 0)
    assert train(spec, kept_in(tmp_path / "store"), stop) is None
    assert train(spec, kept_in(tmp_path / "store"), min(4, stop + 1)) is None or stop == 4
    steps = []
    again = pretrain.pretrain(
        spec,
        Registry().resolve(method),
        load(spec.data),
        CPU,
        lambda done, of: steps.append(done),
        kept_in(tmp_path / "store"),
    )
    same(again, whole)
    assert steps == list(range(min(4, stop + 1) + 1, 5))


def test_what_a_plugin_draws_goes_on_where_it_was(tmp_path, forget_methods):
    spec = spec_in(tmp_path).pretrain

    class Noisy(type(Registry().resolve("dense_index")), name="noisy"):
        def head(self, encoder, spec):
            return torch.nn.Sequential(torch.nn.Dropout(0.5), super().head(encoder, spec))

    def run(kept=None, stop=None):
        def on_step(done, steps):
            if done == stop:
                raise KeyboardInterrupt

        return pretrain.pretrain(spec, Noisy(), load(spec.data), CPU, on_step, kept)

    with pytest.raises(KeyboardInterrupt):
        run(kept_in(tmp_path / "store"), 2)
    same(run(kept_in(tmp_path / "store")), run())


@pytest.mark.parametrize("plan", [{}, {"optimiser__chunk": 8}, {"optimiser__precision": "bfloat16"}], ids=str)
def test_so_does_one_in_chunks_and_of_images_of_different_sizes(plan, tmp_path, forget_methods):
    spec = spec_in(tmp_path, **plan).pretrain
    data = Dataset(ragged([(24 + i % 30, 24 + 7 * i % 41) for i in range(64)]), ())

    class Noisy(type(Registry().resolve("dense_index")), name="noisy"):
        def head(self, encoder, spec):
            return torch.nn.Sequential(torch.nn.Dropout(0.5), super().head(encoder, spec))

    def run(kept=None, stop=None):
        def on_step(done, steps):
            if done == stop:
                raise KeyboardInterrupt

        view_batches._kept.clear()
        return pretrain.pretrain(spec, Noisy(), data, CPU, on_step, kept)

    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(kept_in(tmp_path / "store"), stop)
    same(run(kept_in(tmp_path / "store")), run())


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.slow
def test_a_killed_run_ends_in_the_bytes_of_an_uninterrupted_one(step, tmp_path):
    spec = spec_in(tmp_path)
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    compute(spec, whole, Registry(), CPU)
    killed = subprocess.run([sys.executable, "-c", KILLED, spec.model_dump_json(), broken.root, str(step)])
    assert killed.returncode == -signal.SIGKILL
    run = broken.run(spec.pretrain.key)
    assert (run.path / "checkpoint.pt").exists() and not (run.path / "status.json").exists()
    seen = []
    compute(spec, broken, Registry(), CPU, lambda stage, done, total: seen.append((stage, done)))
    assert [done for stage, done in seen if stage == "pre-training"] == list(range(step + 1, 5))
    names = ("encoder.safetensors", "history.jsonl")
    one, other = ([(s.run(spec.pretrain.key).path / n).read_bytes() for n in names] for s in (whole, broken))
    assert one == other
    figures = [load_record(spec, store) for store in (whole, broken)]
    assert figures[0].performance == figures[1].performance and figures[0].extra == figures[1].extra
    assert not (run.path / "checkpoint.pt").exists()


def test_time_is_counted_over_the_processes(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    first = kept_in(tmp_path)
    first.save({"step": 1})
    spent = first.seconds
    second = kept_in(tmp_path)
    assert second.load({"step": 0}) == {"step": 1}
    assert 0 < second.seconds <= spent + 20


def test_it_is_due_when_the_last_one_is_old(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 300.0)
    kept = kept_in(tmp_path)
    dues = []
    for now[0] in (0, 299, 300, 301):
        dues.append(kept.due)
    kept.save({})
    dues.append(kept.due)
    now[0] = 601
    assert [*dues, kept.due] == [False, False, True, True, False, True]


@pytest.mark.parametrize("garbage", [b"", b"short", b"x" * 5000], ids=["empty", "short", "long"])
def test_garbage_is_set_aside_and_training_begins_anew(garbage, tmp_path):
    spec = spec_in(tmp_path).pretrain
    kept = kept_in(tmp_path / "store")
    assert train(spec, kept, 2) is None
    path = next((tmp_path / "store").rglob("checkpoint.pt"))
    path.write_bytes(garbage)
    with pytest.warns(StoreWarning, match="hash is off"):
        again = train(spec, kept_in(tmp_path / "store"))
    same(again, train(spec))
    assert list((tmp_path / "store" / "set_aside").iterdir())


def test_what_torch_cannot_load_safely_is_set_aside(tmp_path):
    kept = kept_in(tmp_path)
    kept.save({})
    path = next(tmp_path.rglob("checkpoint.pt"))
    harm = b"cos\nsystem\n(S'touch " + str(tmp_path / "harmed").encode() + b"'\ntR."
    path.write_bytes(hashlib.sha256(harm).digest() + harm)
    with pytest.warns(StoreWarning, match="cannot be loaded"):
        assert kept.load({}) is None
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("seconds", None),
        ("state", None),
        ("state.place", None),
        ("state.place.order", torch.arange(3)),
        ("state.random", torch.zeros(2)),
        ("state.history", "none"),
        ("state.optimiser.param_groups", None),
        ("state.encoder.{weight}", None),
        ("state.encoder.{weight}", torch.zeros(1)),
        ("state.head.more", torch.zeros(1)),
    ],
)
def test_a_whole_one_of_another_form_is_set_aside_and_training_begins_anew(part, value, tmp_path):
    """Checkpoints as another version of a library, or of this, may have kept them; None is a part that is not there."""
    spec, kept = spec_in(tmp_path).pretrain, kept_in(tmp_path / "store")
    assert train(spec, kept, 2) is None
    path = next((tmp_path / "store").rglob("checkpoint.pt"))
    whole = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
    part = part.format(weight=next(iter(whole["state"]["encoder"])))
    *way, last = part.split(".", 2)
    table = whole
    for key in way:
        table = table[key]
    table.pop(last, None)
    if value is not None:
        table[last] = value
    torch.save(whole, buffer := io.BytesIO())
    path.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    with pytest.warns(StoreWarning, match=rf"{part} is not this training's; set aside"):
        again = train(spec, kept_in(tmp_path / "store"))
    same(again, train(spec))


def test_a_full_disk_costs_the_checkpoint_alone(tmp_path, monkeypatch):
    spec = spec_in(tmp_path).pretrain
    whole = train(spec)

    def full(self, name, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Run, "write_bytes", full)
    with pytest.warns(StoreWarning, match=r"checkpoint\.pt: not written \(No space left on device\)"):
        same(train(spec, kept_in(tmp_path / "store")), whole)


def test_one_that_diverged_leaves_none(tmp_path, monkeypatch):
    spec, store = spec_in(tmp_path), Store(tmp_path / "store")
    real = training.forward

    def explode(*args, **more):
        views = real(*args, **more)
        if (store.run(spec.pretrain.key).path / "checkpoint.pt").exists():
            raise Diverged("features not finite")
        return views

    monkeypatch.setattr(training, "forward", explode)
    compute(spec, store, Registry(), CPU)
    path = store.run(spec.pretrain.key).path
    assert json.loads((path / "status.json").read_text())["payload"]["status"] == "diverged"
    assert not (path / "checkpoint.pt").exists()


@pytest.mark.parametrize("how", ["another run", "another file", "another encoder", "an older version"])
def test_a_checkpoint_of_another_training_is_set_aside(how, tmp_path):
    store = Store(tmp_path)
    runs = [Run(store, digit * 64) for digit in "01"]
    for run in runs:
        run.path.mkdir(parents=True)
    kept, of = Checkpoint(runs[0], CPU, "detection", "a" * 64), (runs[0], "detection", "a" * 64)
    kept.save({"step": 1})
    source = target = runs[0].path / "detection.pt"
    if how == "another run":
        of, target = (runs[1], *of[1:]), runs[1].path / "detection.pt"
    elif how == "another file":
        of, target = (runs[0], "other", of[2]), runs[0].path / "other.pt"
    elif how == "another encoder":
        of = (*of[:2], "b" * 64)
    else:
        torch.save({"seconds": 1.0, "state": {"step": 1}}, buffer := io.BytesIO())
        source.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    if target != source:
        source.rename(target)
    with pytest.warns(StoreWarning, match="of another training; set aside"):
        assert Checkpoint(of[0], CPU, *of[1:]).load({"step": 0}) is None
    assert not target.exists()


def test_one_of_its_own_encoder_is_taken(tmp_path):
    run = kept_in(tmp_path)._run
    Checkpoint(run, CPU, "detection", "a" * 64).save({"step": 1})
    assert Checkpoint(run, CPU, "detection", "a" * 64).load({"step": 0}) == {"step": 1}


def test_a_detectors_checkpoint_is_not_gone_on_from_on_another_encoder(tmp_path, monkeypatch):
    """Interrupted, then pre-trained anew to other weights: detection begins at its first step."""
    spec, store = spec_in(tmp_path, detection__iterations=4), Store(tmp_path / "store")

    def stop(stage, done, total):
        if (stage, done) == ("detection", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(spec, store, Registry(), CPU, stop)
    (store.run(spec.pretrain.key).path / "status.json").unlink()
    real = pretrain.pretrain

    def reweighed(*arguments):
        done = real(*arguments)
        with torch.no_grad():
            next(iter(done.encoder.parameters())).mul_(1.5)
        return done

    monkeypatch.setattr(pretrain, "pretrain", reweighed)
    seen = []
    with pytest.warns(StoreWarning, match=r"detection-[\w-]+\.pt: of another training"):
        compute(spec, store, Registry(), CPU, lambda stage, done, total: seen.append((stage, done)))
    assert [done for stage, done in seen if stage == "detection"] == [1, 2, 3, 4]
