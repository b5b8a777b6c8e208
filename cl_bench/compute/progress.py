"""Progress while encoders are trained: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record


class Display:
    """Display of finished encoders, of those being trained, and of the remaining time.

    Lines are written only while a test waits for a record, so that they never get into a test's captured output.
    """

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self._begun: float | None = None
        self._lines: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._at_work: dict[int, tuple[RunSpec, str, int, int]] = {}

    def started(self, worker: int, spec: RunSpec) -> None:
        """Note that a worker started a spec."""
        with self._lock:
            self._begun = self._begun or time.monotonic()
            self._at_work[worker] = (spec, "starting", 0, 1)

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        """Note that a worker has done so many steps of a stage."""
        with self._lock:
            self._at_work[worker] = (self._at_work[worker][0], stage, done, total)

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        """Note that a worker finished a spec."""
        with self._lock:
            self.done += 1
            self._at_work.pop(worker, None)
            line = f"[{self.done:>3}/{max(self.total, self.done)}] {_describe(spec, outcome)}"
            self._lines.append((line, f"  about {_clock(self.seconds_left)} left" if self.done < self.total else ""))

    @property
    def pending(self) -> bool:
        """True while a finished encoder has not been shown yet."""
        return bool(self._lines)

    @property
    def seconds_left(self) -> float:
        """Seconds left, estimated from the mean pace so far."""
        if self._begun is None or not self.done:
            return float("nan")
        return (time.monotonic() - self._begun) / self.done * max(0, self.total - self.done)

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
        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True) as bars:
            tasks: dict[int | str, TaskID] = {"all": bars.add_task("encoders", note="")}

            def refresh() -> None:
                self._write(console)
                self._move(bars, tasks)

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
                    tasks[name] = bars.add_task(name)
                bars.update(tasks[name], completed=done, total=total)
                if done == total and not console.is_terminal:
                    console.print(f"{name}: {total:,} images", highlight=False, markup=False, soft_wrap=True)

            yield on_step

    def _write(self, console: Console) -> None:
        """Print the records that finished since the last call."""
        with self._lock:
            lines, self._lines = self._lines, []
        for line, left in lines:  # on a terminal the bars say what is left
            console.print(line if console.is_terminal else line + left, highlight=False, markup=False, soft_wrap=True)

    def _move(self, bars: Progress, tasks: dict[int | str, TaskID]) -> None:
        """Update the bar for the whole and one for each worker."""
        with self._lock:
            work = dict(self._at_work)
        note = f"about {_clock(self.seconds_left)} left" if self.done else ""
        bars.update(tasks["all"], completed=self.done, total=max(self.total, self.done), note=note)
        for idle in set(tasks) - set(work) - {"all"}:
            bars.remove_task(tasks.pop(idle))
        for worker, (spec, stage, done, total) in sorted(work.items()):
            if worker not in tasks:
                tasks[worker] = bars.add_task("", note="")
            bars.update(
                tasks[worker], description=f"  {_where(spec)} {spec.case}", completed=done, total=total, note=stage
            )


def _where(spec: RunSpec) -> str:
    """Return data and views in short form."""
    return spec.pretrain.data.label + ("" if spec.pretrain.views == "overlapping" else ", disjoint")


def _describe(spec: RunSpec, outcome: Record | str) -> str:
    """Describe a finished spec in one line."""
    if isinstance(outcome, str):
        return f"{_where(spec)} FAILED {outcome}"
    name = f"{_where(spec):<24} {spec.case:<36}"
    if outcome.status != "complete":
        return f"{name} {outcome.status}: {outcome.detail}"
    seconds = sum(outcome.seconds.values())
    accuracy, ap = outcome.performance["instance"], outcome.performance["dense"]
    return f"{name} linear {accuracy:5.1f} %  AP {ap:5.1f}  {seconds:5.1f} s"


def _clock(seconds: float) -> str:
    return "?" if seconds != seconds else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
