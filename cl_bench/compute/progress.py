"""Progress while encoders are trained: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record

WHERE, NAME = 16, 53
"""Columns that data and views, and the whole name of an encoder, are padded to where there is room."""
SILENT = 300.0
"""Seconds without a word of a worker after which that is said."""
_BESIDE_BAR, _NOTE = 18, 12  # columns for the indent and the count; and, at least, for the stage


class Display:
    """Display of finished encoders, of those being trained, and of the remaining time.

    Lines are written only while a test waits for a record, so that they never get into a test's captured output.

    Args:
        clock: Gives seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.total = 0
        self.done = 0
        self._begun: float | None = None
        self._lines: list[_Line | str] = []
        self._lock = threading.Lock()
        self._at_work: dict[int, _AtWork] = {}

    def started(self, worker: int, spec: RunSpec) -> None:
        """Note that a worker started a spec."""
        with self._lock:
            self._begun = self._begun or self._clock()
            self._at_work[worker] = _AtWork(spec, "starting", 0, 1, self._clock())

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        """Note that a worker has done so many steps of a stage."""
        with self._lock:
            self._at_work[worker] = _AtWork(self._at_work[worker].spec, stage, done, total, self._clock())

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        """Note that a worker finished a spec."""
        with self._lock:
            self.done += 1
            self._at_work.pop(worker, None)
            count = f"[{self.done:>3}/{max(self.total, self.done)}]"
            left = f"{_clock(self.seconds_left)} left" if self.done < self.total else ""
            self._lines.append(_Line(count, spec, outcome, left))

    def waiting_for(self, spec: RunSpec, holder: str) -> None:
        """Note that a spec has long been waited for, and which process is computing it."""
        with self._lock:
            self._lines.append(
                f"{_name(spec)} is waited for: it is computed by {holder or 'another process'}; "
                "if that hangs, end it, and the encoder is computed here; or give another --store"
            )

    @property
    def pending(self) -> bool:
        """True while there is something new to show."""
        return bool(self._lines)

    @property
    def seconds_left(self) -> float:
        """Seconds left, estimated from the mean pace so far."""
        if self._begun is None or not self.done:
            return float("nan")
        return (self._clock() - self._begun) / self.done * max(0, self.total - self.done)

    @contextmanager
    def waiting(self, console: Console) -> Iterator[Callable[[], None]]:
        """Print finished records within the context and, on a terminal, bars of those in progress.

        Yields:
            Function to call a few times a second, which refreshes the display.
        """
        if not console.is_terminal:
            yield lambda: self._write(console)
            self._write(console)
            return
        columns = _text("{task.description}"), BarColumn(bar_width=_bar(console.width)), MofNCompleteColumn()
        with Progress(*columns, _text("{task.fields[note]}"), console=console, transient=True) as bars:
            tasks: dict[int | str, TaskID] = {"all": bars.add_task("encoders", total=None, note="")}

            def refresh() -> None:
                self._write(console)
                self._move(bars, tasks, console.width)

            yield refresh
            self._write(console)

    @contextmanager
    def bar(self, console: Console) -> Iterator[Callable[[str, int, int], None]]:
        """Show a bar for each data set that is prepared; without a terminal, print a line when it is ready.

        Yields:
            Function to call with (name, images done, images in all).
        """
        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()
        with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
            tasks: dict[str, TaskID] = {}

            def on_step(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=total)
                bars.update(tasks[name], completed=done, total=total)
                if done == total and not console.is_terminal:
                    console.print(f"{name}: {total:,} images", highlight=False, markup=False, soft_wrap=True)

            yield on_step

    def _write(self, console: Console) -> None:
        """Print what came up since the last call and, without a terminal, which workers fell silent."""
        plain = not console.is_terminal
        with self._lock:
            lines, self._lines = self._lines, []
            silent = (
                [one for one in self._at_work.values() if one.silence(self._clock()) and not one.told] if plain else []
            )
            for one in silent:
                one.told = True
        said = [line if isinstance(line, str) else line.text(console.width, left=plain) for line in lines]
        for text in [*said, *(f"{_name(one.spec)} {one.stage}, {one.silence(self._clock())}" for one in silent)]:
            console.print(text, highlight=False, markup=False, soft_wrap=plain)

    def _move(self, bars: Progress, tasks: dict[int | str, TaskID], width: int) -> None:
        """Update the bar for the whole and one for each worker."""
        with self._lock:
            work = dict(self._at_work)
        note = f"about {_clock(self.seconds_left)} left" if self.done else ""
        bars.update(tasks["all"], completed=self.done, total=max(self.total, self.done), note=note)
        for idle in set(tasks) - set(work) - {"all"}:
            bars.remove_task(tasks.pop(idle))
        notes = {worker: one.silence(self._clock()) or one.stage for worker, one in work.items()}
        room = width - _bar(width) - _BESIDE_BAR - max(map(len, [*notes.values(), " " * _NOTE]))
        for worker, one in sorted(work.items()):
            if worker not in tasks:
                tasks[worker] = bars.add_task("", total=one.total, note="")
            what = f"  {_name(one.spec, room)}"
            bars.update(tasks[worker], description=what, completed=one.done, total=one.total, note=notes[worker])


@dataclass
class _AtWork:
    """Work of one worker: its spec and stage, when it last said so, and whether a person was told that it is silent."""

    spec: RunSpec
    stage: str
    done: int
    total: int
    heard: float
    told: bool = False

    def silence(self, now: float) -> str:
        """Return for how long it has been silent, in words; empty for less than ``SILENT``."""
        silent = now - self.heard
        return f"silent for {int(silent) // 60} minutes" if silent >= SILENT else ""


@dataclass(frozen=True)
class _Line:
    """A finished encoder: ``count`` of how many, its outcome, and the time ``left`` for the others."""

    count: str
    spec: RunSpec
    outcome: Record | str
    left: str

    def text(self, width: int, *, left: bool) -> str:
        """Return the line; on a terminal the bars say what is left.

        If it would be wider than ``width``, it loses first the time left, then the time taken, and then the beginning
        of the encoder's name. Figures are always whole. A line about a failure is never shortened.
        """
        outcome = self.outcome
        ends = [self.left] if left and self.left else []
        if isinstance(outcome, str):
            return "  ".join([f"{self.count} {_where(self.spec)} FAILED {outcome}", *ends])
        if outcome.status != "complete":
            return "  ".join([f"{self.count} {_name(self.spec)} {outcome.status}: {outcome.detail}", *ends])
        figures = f"linear {outcome.performance['instance']:5.1f} %  AP {outcome.performance['dense']:5.1f}"
        times = [f"{sum(outcome.seconds.values()):5.1f} s", *ends]
        room = width - len(self.count) - len(figures) - 2
        name = f"{_name(self.spec):<{NAME}}"
        while times and len(name) + sum(2 + len(time) for time in times) > room:
            times.pop()
        if len(name) > room:
            name = f"{_name(self.spec, room):<{room}}"
        return "  ".join([f"{self.count} {name} {figures}", *times])


def _text(format: str) -> TextColumn:
    return TextColumn(format, table_column=Column(no_wrap=True))


def _bar(width: int) -> int:
    return 24 if width >= 110 else 10


def _where(spec: RunSpec) -> str:
    """Return data and views in short form."""
    label = spec.pretrain.data.label.replace("_object", "")
    return label + ("" if spec.pretrain.views == "overlapping" else ", disjoint")


def _name(spec: RunSpec, width: int | None = None) -> str:
    """Return data, views and case of a spec; if that is wider than ``width``, the case without its beginning."""
    where, case = _where(spec), spec.case
    whole = f"{where:<{WHERE}} {case}"
    if width is None or len(whole) <= width:
        return whole
    close = f"{where} {case}"
    if len(close) <= width:
        return close
    return f"{where} \u2026{case[len(close) - width + 1 :]}"[: max(width, 0)]


def _clock(seconds: float) -> str:
    return "?" if seconds != seconds else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
