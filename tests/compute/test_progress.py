"""Display of progress: every finished encoder once, escape codes only on a terminal."""

from __future__ import annotations

import io
import math
import re
import threading
from pathlib import Path

import pytest
from helpers import dense_row, plant, tiny
from rich.console import Console

from cl_bench.compute.progress import Display
from cl_bench.compute.record import load_record
from cl_bench.spec import PretrainSpec, RunSpec
from cl_bench.spec.profile import Profile
from cl_bench.spec.records import Record
from cl_bench.store import Store


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return tiny(tmp_path, seeds=8)


@pytest.fixture
def specs(profile: Profile) -> tuple[RunSpec, ...]:
    return profile.sweep(dense_row())


def record(spec: RunSpec, folder: Path, **planted: object) -> Record:
    store = Store(folder / "store")
    plant(store, spec, **planted)  # type: ignore[arg-type]
    found = load_record(spec, store)
    assert found is not None
    return found


def console(terminal: bool = False, width: int = 110) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None if terminal else "auto")


def said(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_each_finished_encoder_is_said_once_and_only_while_somebody_waits(
    specs: tuple[RunSpec, ...], tmp_path: Path, terminal: bool
) -> None:
    display, where = Display(), console(terminal)
    display.total = 3
    outcomes = [record(specs[0], tmp_path), record(specs[1], tmp_path, diverged="loss nan"), "it [bold]broke[/]"]
    display.started(0, specs[0])
    display.finished(0, specs[0], outcomes[0])
    assert said(where) == ""
    with display.waiting(where) as refresh:
        for spec, outcome in zip(specs[1:], outcomes[1:], strict=False):
            display.started(0, spec)
            display.stepped(0, "pre-training", 1, 2)
            refresh()
            display.finished(0, spec, outcome)
            refresh()
    display.finished(0, specs[3], "later")
    for text in ("[  1/3]", "[  2/3]", "[  3/3]", "linear  50.0 %", "diverged: loss nan", "FAILED it [bold]broke[/]"):
        assert said(where).count(text) == 1, text
    assert "later" not in said(where)
    assert terminal or "\x1b" not in said(where)
    if not terminal:  # a line says how long the rest will take; on a terminal the bars do
        assert [line.endswith(" left") for line in said(where).splitlines()] == [True, True, False]
    with display.waiting(where):
        pass
    assert said(where).count("FAILED later") == 1


def test_a_terminal_shows_what_each_worker_is_at(specs: tuple[RunSpec, ...], tmp_path: Path) -> None:
    display, where = Display(), console(terminal=True)
    display.total = 2
    with display.waiting(where) as refresh:
        for worker, spec in enumerate(specs[:2]):
            display.started(worker, spec)
            display.stepped(worker, "detection", 7 + worker, 30)
        refresh()
        where.file.flush()
        display.finished(0, specs[0], record(specs[0], tmp_path))
        refresh()
    text = said(where)
    for part in (specs[0].case, specs[1].case, "detection", "\x1b"):
        assert part in text


def test_counts_survive_more_than_was_announced(specs: tuple[RunSpec, ...], tmp_path: Path) -> None:
    display, where = Display(), console()
    for spec in specs[:2]:
        display.finished(0, spec, "x")
    with display.waiting(where):
        pass
    assert "[  1/1]" in said(where)
    assert "[  2/2]" in said(where)
    assert "left" not in said(where)


def test_time_left_is_unknown_until_something_is_done(specs: tuple[RunSpec, ...]) -> None:
    display = Display()
    display.total = 10
    assert math.isnan(display.seconds_left)
    display.started(0, specs[0])
    assert math.isnan(display.seconds_left)
    display.finished(0, specs[0], "x")
    assert display.seconds_left >= 0
    display.done = display.total
    assert display.seconds_left == 0


def test_many_workers_at_once_lose_no_line(specs: tuple[RunSpec, ...]) -> None:
    display, where = Display(), console()
    display.total = len(specs)

    def work(worker: int) -> None:
        for spec in specs[worker::4]:
            display.started(worker, spec)
            for step in range(50):
                display.stepped(worker, "pre-training", step + 1, 50)
            display.finished(worker, spec, "x")

    threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
    with display.waiting(where) as refresh:
        for thread in threads:
            thread.start()
        while any(t.is_alive() for t in threads):
            refresh()
    lines = said(where).splitlines()
    assert len(lines) == len(specs) == display.done
    assert [int(line[1:].split("/")[0]) for line in lines] == list(range(1, len(specs) + 1))


def test_a_line_is_not_folded_where_there_is_no_terminal(specs: tuple[RunSpec, ...]) -> None:
    display, where = Display(), console()
    display.finished(0, specs[0], "x" * 500)
    with display.waiting(where):
        pass
    assert len(said(where).splitlines()) == 1


def test_who_holds_an_encoder_that_is_waited_for_is_one_line(specs: tuple[RunSpec, ...]) -> None:
    display, where = Display(), console()
    display.waiting_for(specs[0], "process 42 on here since then")
    display.waiting_for(specs[1], "")
    with display.waiting(where):
        pass
    first, second = said(where).splitlines()
    assert f"{specs[0].case} is waited for: it is computed by process 42 on here since then; if that hangs" in first
    assert f"{specs[1].case} is waited for: it is computed by another process; if that hangs" in second


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_finished_encoder_is_one_line_that_fits(
    specs: tuple[RunSpec, ...], tmp_path: Path, terminal: bool, width: int
) -> None:
    """Figures stay whole at any width; what is cut is the name, which keeps its end: the configuration and the seed."""
    display, where = Display(), console(terminal, width)
    display.total = 200
    long = [spec.model_copy(update={"pretrain": renamed(spec)}) for spec in specs[:3]]
    for spec, planted in zip((*specs[:3], *long), specs[:3] * 2, strict=True):
        display.finished(0, spec, record(planted, tmp_path))
    with display.waiting(where):
        pass
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said(where))
    lines = [line for line in plain.splitlines() if "linear" in line]
    assert len(lines) == 6
    for line, spec in zip(lines, (*specs[:3], *long), strict=True):
        assert len(line) <= width
        assert "linear  50.0 %  AP  50.0" in line
        assert line.startswith("[") and spec.case[-8:] in line
    for line, spec in zip(lines, specs[:3], strict=False):
        assert (spec.case in line) == (width >= 80)
        assert (" s" in line.partition("AP")[2]) == (width >= 100)
    if width == 140 and not terminal:
        assert all(line.endswith(" left") for line in lines[:3])


def renamed(spec: RunSpec) -> PretrainSpec:
    method = spec.pretrain.method.model_copy(update={"name": "a_method_of_quite_a_long_name_as_plugins_have_them"})
    return spec.pretrain.model_copy(update={"method": method})


def test_bars_fit_80_columns(specs: tuple[RunSpec, ...]) -> None:
    display, where = Display(), console(terminal=True, width=80)
    display.total = 2
    with display.waiting(where) as refresh:
        display.started(0, specs[0])
        display.stepped(0, "pre-training", 1000, 1000)
        refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said(where))
    (line, *_) = [line for line in re.split(r"[\r\n]+", plain) if "pre-training" in line]
    assert len(line) <= 80 and "1000/1000 pre-training" in line and specs[0].case in line


def test_a_quiet_console_says_nothing(specs: tuple[RunSpec, ...], capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    display.finished(0, specs[0], "x")
    with display.waiting(Console(quiet=True)) as refresh:
        refresh()
    assert capsys.readouterr() == ("", "")


# ---- silence


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_worker_that_falls_silent_is_said_once_until_it_speaks_again(specs: tuple[RunSpec, ...]) -> None:
    clock, where = Clock(), console()
    display = Display(clock)
    for worker, spec in enumerate(specs[:2]):
        display.started(worker, spec)
    with display.waiting(where) as refresh:
        for seconds in (0, 299):
            clock.now = 1000 + seconds
            refresh()
        assert said(where) == ""
        display.stepped(1, "pre-training", 1, 2)  # the other one speaks
        for seconds in (300, 301, 420):
            clock.now = 1000 + seconds
            refresh()
        (line,) = said(where).splitlines()
        assert line.endswith(f"{specs[0].case} starting, silent for 5 minutes")
        display.stepped(0, "detection", 1, 2)
        clock.now += 720
        refresh()
    first, *lines = said(where).splitlines()
    assert first == line
    ends = f"{specs[0].case} detection, silent for 12 minutes", f"{specs[1].case} pre-training, silent for 14 minutes"
    assert [text.endswith(end) for text, end in zip(lines, ends, strict=True)] == [True, True]


@pytest.mark.parametrize("width", [80, 140])
def test_on_a_terminal_its_bar_says_so(specs: tuple[RunSpec, ...], width: int) -> None:
    clock, where = Clock(), console(terminal=True, width=width)
    display = Display(clock)
    display.total = 2
    with display.waiting(where) as refresh:
        for worker, spec in enumerate(specs[:2]):
            display.started(worker, spec)
            display.stepped(worker, "pre-training", 1000, 1000)
        clock.now += 310
        display.stepped(1, "pre-training", 1000, 1000)
        refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said(where))
    lines = [line for line in re.split(r"[\r\n]+", plain) if "silent for 5 minutes" in line]
    assert lines and all(len(line) <= width and "1000/1000" in line for line in lines)
    assert all(specs[0].case[-12:] in line for line in lines)


def test_the_rest_of_the_time_follows_the_clock(specs: tuple[RunSpec, ...]) -> None:
    clock = Clock()
    display = Display(clock)
    display.total = 3
    display.started(0, specs[0])
    clock.now += 10
    display.finished(0, specs[0], "x")
    assert display.seconds_left == pytest.approx(20)
