"""Changes of torch by one plugin, which reach neither another's numbers nor untrained encoders' nor its evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench import Bench, within
from helpers import tiny

from cl_bench.compute.record import STAGES
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record

QUIET = """
import os, sys
from pathlib import Path
from cl_bench import Match, matching

@matching("quiet")
def quiet(views):
    plugins = [module for name, module in sys.modules.items() if name.startswith("cl_bench_plugin")]
    imported = [plugin for plugin in plugins if "built_in" not in plugin.__file__]
    with (Path(__file__).parent / "quiet.txt").open("a") as file:
        file.write(f"{os.getpid()} {len(imported)}\\n")
    return Match.identity(views)
"""
LOUD = """
import torch
from cl_bench import Match, matching

torch.set_float32_matmul_precision("medium")
torch.set_default_dtype(torch.float64)
own_step = torch.optim.SGD.step

def step(self, *more):
    for group in self.param_groups:
        group["lr"] *= 3
    return own_step(self, *more)

torch.optim.SGD.step = step

@matching("loud")
def loud(views):
    torch.backends.mkldnn.enabled = False
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(False)
    return Match.identity(views)
"""


def untrained(bench: Bench) -> RunSpec:
    return tiny(bench.folder).random_init()[0]


def computed(bench: Bench, *specs: RunSpec, at_once: bool = False) -> tuple[list[Record], int]:
    """Return the records of one worker, requested one by one or all at once, and the number of its processes."""
    engine = bench.engine(jobs=1)
    try:
        engine.submit(specs if at_once else ())
        records = []
        for spec in specs:
            record = within(90, lambda: engine.record(spec))  # noqa: B023
            assert isinstance(record, Record), record
            records.append(record)
        return records, len(engine._processes)
    finally:
        engine.close()


def bits(bench: Bench, spec: RunSpec) -> bytes:
    return (bench.store.run(spec.pretrain.key).path / "encoder.safetensors").read_bytes()


def figures(record: Record) -> tuple[object, ...]:
    return record.alignment, record.uniformity, record.performance, record.extra


class Both:
    """A loud plugin before a quiet one and an untrained encoder, and these two where there is no loud one."""

    def __init__(self, folder: Path) -> None:
        self.shared, self.alone = Bench(folder / "shared", quiet=QUIET, loud=LOUD), Bench(folder / "alone", quiet=QUIET)
        self.loud = self.shared.specs("loud")[0]
        self.others = self.shared.specs("quiet")[0], untrained(self.shared)
        assert self.others == (self.alone.specs("quiet")[0], untrained(self.alone))
        (self.loud_record, *self.found), self.processes = computed(self.shared, self.loud, *self.others)
        self.expected, _ = computed(self.alone, *self.others)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("both")
    for name in ("shared", "alone"):
        (folder / name).mkdir()
    return Both(folder)


@pytest.mark.parametrize("which", [0, 1], ids=["another method", "untrained"])
@pytest.mark.slow
def test_a_plugin_that_changes_torch_changes_no_other_record(both: Both, which: int) -> None:
    assert bits(both.shared, both.others[which]) == bits(both.alone, both.others[which])
    assert figures(both.found[which]) == figures(both.expected[which])
    assert both.processes == 3


@pytest.mark.slow
def test_the_loud_plugin_does_change_its_own_numbers(both: Both) -> None:
    """Or the test above would show nothing."""
    assert figures(both.loud_record)[2] != figures(both.expected[0])[2]


@pytest.mark.slow
def test_a_records_provenance_says_under_which_switches_it_was_computed(both: Both) -> None:
    def provenance(spec: RunSpec, name: str) -> dict[str, object]:
        (path,) = both.shared.store.run(spec.pretrain.key).path.glob(name)
        told = json.loads(path.read_text())["payload"]["provenance"]
        assert (told["device"], told["cpu_capability"]) == ("cpu", torch.backends.cpu.get_cpu_capability())
        return {
            key: told[key] for key in ("threads", "mkldnn.enabled", "deterministic", "mkldnn.matmul.fp32_precision")
        }

    settled = {
        "threads": 1,
        "mkldnn.enabled": True,
        "deterministic": True,
        "mkldnn.matmul.fp32_precision": "ieee",
    }
    left = {"threads": 1, "mkldnn.enabled": False, "deterministic": False, "mkldnn.matmul.fp32_precision": "bf16"}
    assert provenance(both.loud, "status.json") == left
    assert provenance(both.others[0], "status.json") == settled
    for stage in STAGES:
        for spec in (both.loud, *both.others):
            assert provenance(spec, f"evals/{stage}-*.json") == settled


@pytest.mark.slow
def test_a_process_imports_one_plugin_and_serves_all_of_its_specs_before_the_next(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quiet=QUIET, loud=LOUD)
    (one, other, *_), (loud, *_) = bench.specs("quiet"), bench.specs("loud")
    _, processes = computed(bench, one, loud, other, untrained(bench), at_once=True)
    assert list(bench.notes.begun) == [untrained(bench).case, one.case, other.case, loud.case]
    assert processes == 2, "the untrained one takes a process before its first plugin"
    calls = set((bench.methods / "quiet.txt").read_text().splitlines())
    assert len(calls) == 1 and calls.pop().endswith(" 1"), "one process, one plugin"


@pytest.mark.slow
def test_a_process_with_a_plugin_computes_no_untrained_encoder(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quiet=QUIET)
    _, processes = computed(bench, bench.specs("quiet")[0], untrained(bench))
    assert processes == 2


@pytest.mark.slow
def test_a_method_that_nobody_knows_is_told_of(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quiet=QUIET)
    spec = bench.specs("quiet")[0]
    bench.plugins.clear()
    engine = bench.engine(jobs=1)
    try:
        said = str(within(60, lambda: engine.record(spec)))
    finally:
        engine.close()
    assert said.startswith(f"{spec.case}: no method 'quiet'")
