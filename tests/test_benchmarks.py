"""The benchmarks run, on sizes that say nothing about speed; the peers agree with us on values."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time

import numpy as np
import parts
import pytest
import torch
from helpers import ROOT, dense_row, environment, tiny
from pretended_gpu import GPU, pretended_gpu
from torchvision.transforms.functional import pil_to_tensor

from cl_bench.data import load


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


@pytest.mark.parametrize(("setting", "ways"), [("COCO", 6), ("STL-10", 5)])
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
    training_step = benchmark_module("training_step")
    monkeypatch.setattr(training_step, "STEPS", 2)
    spec = tiny(tmp_path).sweep(dense_row())[0].pretrain
    parts = training_step.shares(spec, load(spec.data))
    assert set(parts) == {"views", "encoder", "head", "loss", "optimiser"} and min(parts.values()) > 0


def test_a_part_that_fails_leaves_the_others(benchmark_module, monkeypatch, tmp_path, capsys):
    running = benchmark_module("gpu.running")
    monkeypatch.setattr(running, "PRELOADED", ())
    out = tmp_path / "results.json"
    setting = running.Setting("cpu", False, out, tmp_path, tmp_path / "store", time.time() + 300)
    all_parts = {
        "raises": running.Part(parts.raises, 1),
        "dies": running.Part(parts.dies, 1),
        "hangs": running.Part(parts.hangs, 0.5),
        "long": running.Part(parts.good, 10_000),
        "good": running.Part(parts.good, 1, takes_the_rest=True),
    }
    entries = running.run_parts(all_parts, setting, {"machine": "here"})
    told = json.loads(out.read_text())
    assert told == {"machine": "here", "parts": entries}
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "raises": "failed",
        "dies": "failed",
        "hangs": "failed",
        "long": "skipped",
        "good": "done",
    }
    reasons = {name: entry.get("reason") for name, entry in entries.items()}
    assert reasons["raises"] == "ValueError: no such thing"
    assert reasons["dies"] == "its process ended with exit code 3"
    assert reasons["hangs"] == "stopped after 1 s, expected to take 0 s"
    assert reasons["long"].startswith("it takes about 10000 s, and ")
    assert entries["good"]["result"] == {"left": True, "nothing": "nan", "before": None}
    assert capsys.readouterr().out.count("... (") == 5

    again = running.run_parts({"good": all_parts["good"]}, setting, {})
    assert again["good"]["result"]["before"] == entries["good"]["result"]
    assert running.results(out) == {**entries, **again}


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("kernel", ["blocks", "full", "flex"])
@pytest.mark.parametrize(("shape", "group"), [((61, 32), 0), ((61, 32), 1), ((61, 32), 7), ((3, 20, 16), 1)])
def test_kernels_against_the_whole_matrix(kernel, shape, group, benchmark_module):
    choices = benchmark_module("gpu.kernel_choices")
    exact = choices.errors(kernel, "float32", shape, group, 20.0, torch.device("cpu"))
    rounded = choices.errors(kernel, "float16", shape, group, 20.0, torch.device("cpu"))
    assert exact["value"] < 1e-5 and exact.get("gradient", 0.0) < 1e-5
    assert 1e-5 < rounded["value"] < 5e-2 and (kernel == "flex" or 1e-5 < rounded["gradient"] < 5e-3)
    assert ("gradient" in exact) == (kernel != "flex")  # torch gives it none on a CPU


def test_a_wrong_kernel_is_told_and_not_timed(benchmark_module, monkeypatch, tmp_path):
    choices, running = benchmark_module("gpu.kernel_choices"), benchmark_module("gpu.running")
    blocks = choices.KERNELS["blocks"]
    broken = {"blocks": blocks, "wrong": lambda x, scale, group, *more: blocks(x, scale, 0, *more), "none": None}
    for module in (choices, benchmark_module("kernels")):
        monkeypatch.setattr(module, "KERNELS", broken)
    monkeypatch.setattr(choices, "PRECISIONS", ("float32",))
    monkeypatch.setattr(choices, "LOSSES", {"L_u": choices.LOSSES["L_u"]})
    out = tmp_path / "results.json"
    setting = running.Setting("cpu", True, out, tmp_path, tmp_path, time.time() + 300)
    told = choices.kernel_values(setting)
    assert {name for name, entry in told.items() if entry["ok"]} == {"blocks, float32"}
    assert told["wrong, float32"]["reason"].startswith("errors beyond 0.0001 of a value")
    assert told["none, float32"]["reason"] == "TypeError: 'NoneType' object is not callable"

    out.write_text(json.dumps({"parts": {"kernel values": {"status": "done", "result": told}}}))
    found = choices.kernel_choices(setting, "STL-10")
    assert found["L_u"]["ratios"] == {"blocks, float32": 1}
    assert {"wrong, float32", "none, float32"} <= set(found["left_out"])


def test_a_kernel_in_the_place_of_the_losses_own(benchmark_module):
    kernels, losses = benchmark_module("kernels"), benchmark_module("losses")
    z = losses.features(98)
    own = losses.step("streaming", z)
    with kernels.used("full", "float16"):
        other = losses.step("streaming", z)
    assert 0 < abs(float(other[0] - own[0])) < 1e-3
    assert other[1].dtype == torch.float32 and torch.allclose(other[1], own[1], atol=1e-5)
    assert torch.equal(losses.step("streaming", z)[0], own[0])


def test_parts_keep_their_tensors_on_one_device(benchmark_module, monkeypatch, tmp_path):
    running, numbers, choices = (benchmark_module(f"gpu.{name}") for name in ("running", "numbers", "kernel_choices"))
    training_step = benchmark_module("training_step")
    monkeypatch.setattr(training_step, "STEPS", 2)
    spec = tiny(tmp_path).sweep(dense_row())[0].pretrain
    data = load(spec.data)
    setting = running.Setting("cuda:0", True, tmp_path / "none.json", tmp_path, tmp_path, time.time() + 300)
    monkeypatch.setattr(choices, "find_spec", lambda name: None)
    with pretended_gpu():
        assert min(training_step.shares(spec, data, GPU).values()) > 0
        assert {name.rpartition(" ")[2] for name in numbers.values(setting)["errors"]} == {"cpu", "cuda"}
        assert choices.errors("blocks", "float32", (61, 32), 7, 20.0, GPU)["gradient"] < 1e-5
        assert choices.kernel_choices(setting, "STL-10")["NT-Xent"]["left_out"] == {}


@pytest.mark.slow
def test_on_gpu_runs_every_part_on_a_cpu(benchmark_module, tmp_path):
    on_gpu = benchmark_module("on_gpu")
    out = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "on_gpu.py"), "--device", "cpu", "--tiny", "--minutes", "9"]
    surroundings = environment(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, env=surroundings)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert (told["device"], told["tiny"], set(told["parts"])) == ("cpu", True, set(on_gpu.PARTS))
    assert {entry["status"] for entry in told["parts"].values()} == {"done"}
    found = {name: entry["result"] for name, entry in told["parts"].items()}
    assert found["install"]["provenance"]["device"] == "cpu" and found["install"]["products_tflops"]["float32"] > 0
    assert set(found["contract"]) >= {"dense_index", "dense_emd", "instance"}
    assert all(m["passed"] and not m["failed"] and not m["loss_difference"] for m in found["contract"].values())
    assert len(found["values"]["errors"]) == 3 * 2 * 4
    assert all(e["gradient"] < 5e-2 for e in found["values"]["errors"].values())
    assert all(entry["ok"] for name, entry in found["kernel values"].items() if not name.startswith("triton"))
    for data in ("STL-10", "COCO"):
        assert {"blocks, float32", "full, float16", "full_matrix"} <= set(found[f"kernels {data}"]["NT-Xent"]["ratios"])
        steps = found[f"steps {data}"]
        ways = [steps[f"{way}, {p}"] for way in ("fed", "unfed", "lock-step of 2") for p in ("float32", "bfloat16")]
        assert min(way["images_per_s"] for way in ways) > 0 and min(steps["parts_ms"].values()) > 0
    assert all(said["resumed"]["same_bits"] for said in found["resume"].values())
    assert all(found["detection"][p]["coco_ap"] >= 0 for p in ("float32", "bfloat16"))
    assert found["jobs"]["models"] == 2 and found["jobs"]["jobs 2"]["models_per_hour"] > 0
    sweep = found["sweep"]
    assert (sweep["exit_code"], sweep["records"], sweep["trained"]) == (0, 4, 2)
    assert all("INCONCLUSIVE" in verdict for verdict in sweep["verdicts"].values())


def test_on_gpu_refuses_what_makes_no_sense(benchmark_module, capsys):
    on_gpu = benchmark_module("on_gpu")
    for arguments, said in (
        (["--parts", "instal"], "no part 'instal'; did you mean 'install'?"),
        (["--minutes", "0"], "--minutes must be above 0, got 0"),
        (["--device", "cudo"], "--device takes auto, cpu, cuda or cuda:0, cuda:1, ..., got 'cudo'; did you mean"),
    ):
        with pytest.raises(SystemExit):
            on_gpu.main(arguments)
        assert said in capsys.readouterr().err


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
    found = benchmark_module("ray_overhead").compare("ci", 2, 1, 1)
    for (seconds,) in (found["local"], found["ray"]):
        assert min(seconds) > 0 and seconds.cpu < 10 * seconds.rest
