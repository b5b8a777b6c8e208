"""Plan of a run: counts, power and time, from what the store holds."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from helpers import dense_row, plant, shown, tiny
from rich.console import Console

from cl_bench.compute.record import load_record
from cl_bench.report.plan import TAUS, plan_table, wall_time
from cl_bench.spec import RunSpec
from cl_bench.spec.records import RANDOM_INIT
from cl_bench.statistics.power import power
from cl_bench.store import Store


def plan(rows: dict[str, tuple[RunSpec, ...]], store: Store, jobs: int = 2, width: int = 110) -> str:
    state = {
        name: [(s, s.pretrain.objective.config, load_record(s, store)) for s in specs] for name, specs in rows.items()
    }
    console = Console(file=io.StringIO(), width=width)
    console.print(plan_table(state, 0.05, jobs))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, tuple[RunSpec, ...]]:
    profile = tiny(tmp_path, seeds=3)
    return {"some-row": profile.sweep(dense_row()), RANDOM_INIT: profile.random_init()}


def counts(text: str, row: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{row} ")]
    return line.split()[1:]


@pytest.mark.parametrize("stored", [0, 1, 5, 12])
def test_counts_and_power(rows: dict[str, tuple[RunSpec, ...]], tmp_path: Path, stored: int) -> None:
    store = Store(tmp_path / "store")
    for spec in rows["some-row"][:stored]:
        plant(store, spec)
    text = plan(rows, store)
    powers = [f"{power(4, tau, 0.05):.2f}" for tau in TAUS]
    assert counts(text, "some-row") == ["12", str(stored), str(12 - stored), "4", *powers]
    assert counts(text, RANDOM_INIT) == ["2", "0", "2", "1", "-", "-", "-"]
    for n, spec in enumerate(rows["some-row"]):
        assert (f"would compute some-row: {spec.case}\n" in text.replace(" \n", "\n")) == (n >= stored)
    assert f"{14 - stored} encoders to compute, 2 at a time" in text


@pytest.mark.parametrize(("jobs", "seconds"), [(1, 44.0), (2, 24.0), (4, 12.0), (11, 4.0), (50, 4.0)])
def test_time_from_what_is_stored(
    rows: dict[str, tuple[RunSpec, ...]], tmp_path: Path, jobs: int, seconds: float
) -> None:
    store = Store(tmp_path / "store")
    plant(store, rows["some-row"][0])
    text = re.sub(r"\s+", " ", plan({"some-row": rows["some-row"][:1], "more": rows["some-row"][1:]}, store, jobs))
    assert f"11 encoders to compute, {jobs} at a time: about {seconds} s" in text
    assert "median of 4.0 s" in text
    assert (
        "each on its own core or GPU: 1 in 44.0 s, 4 in 12.0 s, 11 in 4.0 s; the longest encoder takes 4.0 s." in text
    )


@pytest.mark.parametrize(
    ("seconds", "workers", "wall"),
    [
        ([3, 1, 1, 1], 1, 6),
        ([3, 1, 1, 1], 2, 3),
        ([1, 1, 1, 3], 2, 4),
        ([3, 1, 1, 1], 4, 3),
        ([1, 2], 9, 2),
        ([], 2, 0),
    ],
)
def test_each_encoder_goes_to_the_first_free_worker(seconds: list[float], workers: int, wall: float) -> None:
    assert wall_time(seconds, workers) == wall


def test_encoders_that_share_a_gpu_take_the_time_of_one_after_the_other(
    rows: dict[str, tuple[RunSpec, ...]], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    plant(store, rows["some-row"][0])
    state = {"some-row": [(s, s.pretrain.objective.config, load_record(s, store)) for s in rows["some-row"]]}
    text = re.sub(r"\s+", " ", shown(plan_table(state, 0.05, 4, gpus=2), 110))
    assert "11 encoders to compute, 4 at a time: about 24.0 s" in text
    assert "4 workers share 2 GPUs; the time is that of one encoder after the other." in text


def test_all_is_there(rows: dict[str, tuple[RunSpec, ...]], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for spec in (*rows["some-row"], *rows[RANDOM_INIT]):
        plant(store, spec)
    text = plan(rows, store)
    assert "nothing would be trained" in text
    assert "would compute " not in text


def test_what_diverged_is_not_computed_again(rows: dict[str, tuple[RunSpec, ...]], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for spec in rows["some-row"]:
        plant(store, spec, diverged="loss nan")
    assert counts(plan({"some-row": rows["some-row"]}, store), "some-row")[:3] == ["12", "12", "0"]


@pytest.mark.parametrize("width", [40, 80, 300])
def test_any_width(rows: dict[str, tuple[RunSpec, ...]], tmp_path: Path, width: int) -> None:
    text = plan(rows, Store(tmp_path / "store"), width=width)
    assert "\x1b" not in text
    assert all(len(line) <= width for line in text.splitlines())


def test_nothing_to_plan(tmp_path: Path) -> None:
    assert "nothing would be trained" in plan({}, Store(tmp_path / "store"))


def test_a_row_of_which_nothing_is_stored_is_told_by_stage(
    rows: dict[str, tuple[RunSpec, ...]], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    state = {
        name: [(s, s.pretrain.objective.config, load_record(s, store)) for s in specs] for name, specs in rows.items()
    }
    stages = {"pretrain": 7200.0, "measure": 90.0, "linear": 1.5, "detection": 400_000.0}
    console = Console(file=io.StringIO(), width=110)
    console.print(plan_table(state, 0.05, 2, {"some-row": stages}))
    text = re.sub(r"\s+", " ", console.file.getvalue())  # type: ignore[attr-defined]
    assert "some-row 2.0 h 90.0 s 1.5 s 4.6 days 4.7 days 56.6 days" in text
    assert "14 encoders to compute, 2 at a time; none is stored yet" in text  # random_init was not timed
    console = Console(file=io.StringIO(), width=110)
    console.print(plan_table({"some-row": state["some-row"]}, 0.05, 2, {"some-row": stages}))
    text = re.sub(r"\s+", " ", console.file.getvalue())  # type: ignore[attr-defined]
    assert "12 encoders to compute, 2 at a time: about 28.3 days, 1,357.6 device-hours, as timed here." in text


def test_many_missing_cases_are_counted(tmp_path: Path) -> None:
    profile = tiny(tmp_path, seeds=6)
    text = plan({"some-row": profile.sweep(dense_row())}, Store(tmp_path / "store"))
    assert text.count("would compute some-row: dense_index") == 20
    assert "would compute some-row: and 4 more" in text
