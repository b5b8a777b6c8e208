"""The benchmarks run, on sizes that say nothing about speed; the peers agree with us on values."""

from __future__ import annotations

import importlib
import subprocess
import sys

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
