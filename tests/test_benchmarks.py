"""The benchmarks run, on sizes that say nothing about speed; the peers agree with us on values."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, environment
from torchvision.transforms.functional import pil_to_tensor


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    loaded = []

    def load(name):
        loaded.append(name)
        return importlib.import_module(name)

    yield load
    for name in (*loaded, "timing"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_losses_against_peers(benchmark_module, capsys):
    pytest.importorskip("lightly", reason="lightly comes with the bench extra")
    losses = benchmark_module("losses")
    seconds = losses.compare(392, ["streaming", "lightly", "full_matrix"], 1)
    losses.compare(256, ["streaming_uniformity", "pdist"], 1)
    assert {"streaming", "lightly", "three products, whole"} <= set(seconds)
    assert capsys.readouterr().out.count("| 392 |") == 5


def test_a_peer_that_disagrees_is_noticed(benchmark_module, monkeypatch):
    pytest.importorskip("lightly", reason="lightly comes with the bench extra")
    losses = benchmark_module("losses")
    monkeypatch.setitem(losses.LOSSES, "lightly", lambda z1, z2: losses.full_matrix(z1, z2) * 1.001)
    with pytest.raises(AssertionError):
        losses.compare(98, ["streaming", "lightly"], 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_extra_memory_sees_what_is_allocated():
    """In a process of its own: what this one has freed could be used again without being counted."""
    code = "import timing, torch; print(timing.extra_memory(lambda: torch.ones(10), lambda: torch.ones(2**24).sum()))"
    surroundings = environment(PYTHONPATH=f"{ROOT}:{ROOT / 'benchmarks'}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=surroundings)
    assert 60 * 2**20 < int(done.stdout) < 90 * 2**20


@pytest.mark.parametrize(("setting", "ways"), [("COCO", 5), ("STL-10", 4)])
@pytest.mark.slow
def test_the_feeder_against_a_data_loader(setting, ways, benchmark_module, monkeypatch, tmp_path, capsys):
    feeder = benchmark_module("feeder")
    rates = feeder.compare(setting, 5, (60, 80) if setting == "COCO" else (96, 96), 2, 1, tmp_path)
    assert len(rates) == ways and min(rates.values()) > 0
    assert capsys.readouterr().out.count(f"| {setting}: 5 images") == ways


def test_what_is_fed_is_what_the_files_hold(benchmark_module, tmp_path):
    feeder = benchmark_module("feeder")
    pictures = [*feeder.pictures(2, 40, 30), *feeder.pictures(1, 20, 50)]
    ragged = feeder.as_ragged(pictures, tmp_path / "rgb")
    assert [image.shape for image in ragged] == [(3, 40, 30), (3, 40, 30), (3, 20, 50)]
    for image, picture in zip(ragged, pictures, strict=True):
        assert torch.equal(image, pil_to_tensor(picture))


def test_the_parts_of_a_training_step(benchmark_module, monkeypatch, tmp_path):
    from helpers import dense_row, tiny

    training_step = benchmark_module("training_step")
    monkeypatch.setattr(training_step, "STEPS", 2)
    spec = tiny(tmp_path).sweep(dense_row())[0].pretrain
    parts = training_step.shares(spec)
    assert set(parts) == {"views", "encoder", "head", "loss", "optimiser"} and min(parts.values()) > 0


# ---- the paper's encoders on a cluster, simulated


@pytest.fixture
def simulated(benchmark_module, tmp_path):
    from helpers import dense_row, tiny

    cluster = benchmark_module("cluster")
    specs = tiny(tmp_path).sweep(dense_row())

    def of(hours, gpus, seed=0, **what):
        queue = cluster.Queue(specs[: len(hours)], hours)
        return cluster.simulate(queue, gpus, cluster.Cluster(**what), np.random.default_rng(seed))

    return of


def test_one_gpu_takes_the_sum_and_as_many_as_encoders_the_longest(simulated):
    hours = [3.0, 10.5, 1.0, 2.5]
    assert simulated(hours, 1) == (17.0, 1.0, 0.0, 0)
    assert simulated(hours, 4) == (10.5, 17 / 42, 0.0, 0)
    assert simulated(hours, 9) == (10.5, pytest.approx(17 / 94.5), 0.0, 0)


@pytest.mark.parametrize("gpus", [1, 2, 3, 4])
@pytest.mark.parametrize("hours", [[3.0, 1, 1, 1], [1.0, 1, 1, 3], [2.0, 2, 3, 1]])
def test_what_plan_says_is_what_is_simulated_where_nothing_happens(simulated, hours, gpus):
    from cl_bench.report.plan import wall_time

    assert simulated(hours, gpus).makespan == wall_time(hours, gpus)


def test_stragglers_alone_take_as_many_times_as_long(simulated):
    assert simulated([3.0, 1.0], 1, stragglers=1.0, slowdown=2.5) == (10.0, 0.4, 0.0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_one_gpu_that_fails_takes_the_sum_and_what_was_lost(simulated, seed):
    hours = [3.0, 10.5, 1.0, 2.5]
    found = simulated(hours, 1, seed, between_failures=2.0, checkpoint=0.25, away=0.5, start=0.125)
    assert found.failures > 0 and found.makespan == pytest.approx(17 + found.lost)
    assert 0.625 * found.failures <= found.lost <= 0.875 * found.failures, (
        "each costs at most one checkpoint's interval"
    )
    assert found == simulated(hours, 1, seed, between_failures=2.0, checkpoint=0.25, away=0.5, start=0.125)
    without = simulated([1.5] * 4, 1, seed, between_failures=2.0, checkpoint=float("inf"), away=0.0, start=0.0)
    assert without.makespan == pytest.approx(6 + without.lost)


@pytest.mark.slow
def test_the_paper_s_encoders_on_a_cluster(benchmark_module):
    """The picture and the table in the docs are what the script writes."""
    cluster = benchmark_module("cluster")
    told, found, longest = cluster.run(20)
    assert told.startswith("381 encoders, 5,131 GPU-hours, the longest 19.1 h")
    assert found[cluster.IDEAL][0].makespan == pytest.approx(5131, abs=0.5)
    assert cluster.picture(found, longest) == (ROOT / "docs/pictures/cluster.svg").read_text()
    assert cluster.table(found) in (ROOT / "benchmarks/README.md").read_text()


@pytest.mark.slow
def test_ray_against_the_local_engine(benchmark_module):
    pytest.importorskip("ray", reason="ray is not installed")
    found = benchmark_module("ray_overhead").compare(2, 1, 1)
    for (seconds,) in (found["local"], found["ray"]):
        assert min(seconds) > 0 and seconds.cpu < 10 * seconds.rest
