"""One model on several processes, from the engine to the record: the figures of one, and what if one dies."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import Bench, start, within
from helpers import alive, dense_row, tiny, until, workers

from cl_bench.compute.devices import check_division, check_per_model, default_jobs
from cl_bench.compute.local import ComputationError
from cl_bench.compute.process import descendants
from cl_bench.compute.record import load_record
from cl_bench.compute.runner import compute
from cl_bench.errors import SpecError
from cl_bench.methods.registry import BUILT_IN, Registry
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Store

PLUGINS = """
import os, time
from pathlib import Path
import torch.distributed as dist
from cl_bench import Match, matching
from cl_bench.train import checkpoint

HERE = Path(__file__).parent
checkpoint.SECONDS_BETWEEN = 0.0

def rank():
    return dist.get_rank() if dist.is_initialized() else 0

def note(name):
    with open(HERE / f"{name}-{rank()}", "a") as file:
        file.write(f"{os.getpid()}\\n")

@matching("team_dies_once")
def dies_once(views):
    note("dies_once")
    if rank() == 1 and len((HERE / "dies_once-1").read_text().split()) == 5:  # twice a step and twice its entry
        os.kill(os.getpid(), 9)
    return Match.identity(views)

@matching("team_raises")
def raises(views):
    note("raises")
    if rank() == 1:
        raise RuntimeError("boom\\nand more of it")
    return Match.identity(views)

@matching("team_quits")
def quits(views):
    note("quits")
    if rank() == 0:
        os._exit(3)
    return Match.identity(views)

@matching("team_slow")
def slow(views):
    note("slow")
    time.sleep(0.5)
    return Match.identity(views)
"""
NAMES = "team_dies_once", "team_raises", "dense_index", "team_quits"


def go(bench: Bench, specs: dict[str, RunSpec]) -> dict[str, Any]:
    """Return the record of each spec from two processes a model, or the error."""
    engine = bench.engine(1, per_model=2)
    found = {}
    for name, spec in specs.items():
        found[name] = within(120, lambda spec=spec: engine.record(spec))
        if isinstance(found[name], ComputationError):
            until(lambda: not workers(descendants(os.getpid())), 10, "all of the team have ended")
    engine.close()
    until(lambda: not workers(descendants(os.getpid())), 10, "no worker is left")
    return found


class Worked:
    """Records of two processes a model that quarrel, in one engine and then in another."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench(folder, plugins=PLUGINS)
        self.spec = {name: self.bench.specs(name)[0] for name in NAMES}
        self.first = go(self.bench, self.spec)
        self.again = go(self.bench, {"dies_once": self.spec["team_dies_once"]})["dies_once"]
        self.calls = {
            file.name: Counter(map(int, file.read_text().split())) for file in self.bench.methods.glob("*-[01]")
        }
        """Calls of a plugin by its name and the rank, for each process."""


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Worked:
    return Worked(tmp_path_factory.mktemp("team"))


def same_figures(found: object, expected: Record | None) -> None:
    """Compare records after two steps: every further one magnifies rounding about ten times, as between threads."""
    assert isinstance(found, Record) and isinstance(expected, Record)
    assert found.status == expected.status == "complete" and found.key == expected.key
    assert found.alignment == pytest.approx(expected.alignment, abs=5e-4)
    assert found.uniformity == pytest.approx(expected.uniformity, abs=5e-4)
    assert [step for step, _ in found.losses] == [step for step, _ in expected.losses] == [0, 1]
    assert [loss for _, loss in found.losses] == pytest.approx([loss for _, loss in expected.losses], rel=1e-6)
    assert found.performance == pytest.approx(expected.performance, abs=1.6)  # an image of 64
    assert found.extra["matching_precision"] == pytest.approx(expected.extra["matching_precision"], rel=1e-6)
    assert found.decomposition_error < 1e-5


def in_one(spec: RunSpec, folder: Path, *plugins: Path) -> Record | None:
    """Compute a record in this process alone."""
    store = Store(folder)
    assert compute(spec, store, Registry([BUILT_IN, *plugins]), torch.device("cpu"))
    return load_record(spec, store)


def test_two_processes_give_the_record_of_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (spec, *_) = bench.specs("dense_index")
    found, expected = go(bench, {"it": spec})["it"], in_one(spec, tmp_path / "alone")
    same_figures(found, expected)
    assert (found.provenance["processes"], expected.provenance["processes"]) == (2, 1)
    assert bench.notes.steps >= {"pre-training", "linear"}


@pytest.mark.slow
@pytest.mark.usefixtures("forget_methods")
def test_a_team_of_which_one_died_goes_on_to_the_record_of_one_process(worked: Worked, tmp_path: Path) -> None:
    same_figures(worked.again, in_one(worked.spec["team_dies_once"], tmp_path, worked.bench.methods))


@pytest.mark.slow
def test_a_new_team_works_after_one_that_ended(worked: Worked) -> None:
    assert list(worked.first) == [*NAMES] and isinstance(worked.first["dense_index"], Record)


@pytest.mark.slow
def test_a_process_that_dies_ends_its_fellows_and_is_told_in_one_line(worked: Worked) -> None:
    case = re.escape(worked.spec["team_dies_once"].case)
    line = f"{case}: process 2 of 2 on cpu ended \\(killed by signal 9\\)"
    assert re.fullmatch(line, str(worked.first["team_dies_once"]))


@pytest.mark.slow
def test_the_first_process_is_told_of_in_the_same_way(worked: Worked) -> None:
    case = re.escape(worked.spec["team_quits"].case)
    assert re.fullmatch(f"{case}: process 1 of 2 on cpu ended \\(exit status 3\\)", str(worked.first["team_quits"]))


@pytest.mark.slow
def test_a_plugin_that_fails_in_one_process_is_told_with_its_place(worked: Worked) -> None:
    told = str(worked.first["team_raises"])
    assert re.fullmatch(r".*method 'team_raises' \(.*plugins\.py:\d+\): RuntimeError: boom", told)
    assert len(worked.calls["raises-1"]) == 1 and not any(alive(pid) for pid in worked.calls["raises-1"])


@pytest.mark.slow
def test_a_training_goes_on_from_the_checkpoint_in_both_processes(worked: Worked) -> None:
    first, second = (list(worked.calls[f"dies_once-{rank}"].values()) for rank in (0, 1))
    assert second == [5, 4]  # a step and a part of the next, then that one alone
    assert first[1:] == [4]


@pytest.mark.slow
def test_a_team_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, plugins=PLUGINS)
    process = start(bench, bench.specs("team_slow")[:1], jobs=1, per_model=2)
    both = [bench.methods / f"slow-{rank}" for rank in (0, 1)]
    until(lambda: all(file.exists() for file in both), 120, "both train")
    pids = [int(file.read_text().split()[0]) for file in both]
    process.kill()
    process.communicate()
    until(lambda: not any(alive(pid) for pid in pids), 10, "both have ended")


# ---- what is refused


@pytest.mark.parametrize(
    ("size", "devices", "line"),
    [
        (0, ["cpu"], "--gpus-per-model must be at least 1, got 0"),
        (3, ["cuda:0", "cuda:1"], "--gpus-per-model 3: --device names 2 GPUs (cuda:0, cuda:1); give 2 at most"),
        (2, ["cuda:1"], "--gpus-per-model 2: --device names 1 GPU (cuda:1); give 1 at most"),
    ],
)
def test_more_gpus_than_there_are_is_one_line(size: int, devices: list[str], line: str) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(line)}$"):
        check_per_model(size, devices)


def test_as_many_gpus_as_there_are_and_any_processes_on_a_cpu_are_taken() -> None:
    check_per_model(2, ["cuda:0", "cuda:1"])
    check_per_model(16, ["cpu"])


@pytest.mark.parametrize(
    ("size", "plan", "line"),
    [
        (3, {}, "--gpus-per-model 3 does not divide the batch of 32 images; 2 does"),
        (5, {}, "--gpus-per-model 5 does not divide the batch of 32 images; 4 does"),
        (8, {"optimiser__chunk": 4}, "--gpus-per-model 8 does not divide chunks of 4 images; 4 does"),
    ],
)
def test_parts_that_are_not_equal_are_one_line(size: int, plan: dict[str, Any], line: str, tmp_path: Path) -> None:
    specs = tiny(tmp_path, **plan).sweep(dense_row())
    with pytest.raises(SpecError, match=f"^{re.escape(line)}$"):
        check_division(size, specs)
    check_division(4, specs)


def test_gpus_are_shared_out_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    eight = [f"cuda:{i}" for i in range(8)]
    assert [default_jobs(eight, n) for n in (1, 2, 3, 8)] == [8, 4, 2, 1]
    assert default_jobs(["cpu"], 10**6) == 1
