"""Engines on a folder of plugins: in this process, or in another process that can be killed."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from helpers import dense_row, environment, tiny

from cl_bench.compute.local import LocalEngine
from cl_bench.methods.registry import BUILT_IN
from cl_bench.spec import RunSpec
from cl_bench.spec.records import Record
from cl_bench.store import Store

SCRIPT = """
import json, sys
from pathlib import Path
from cl_bench.compute.local import LocalEngine
from cl_bench.compute.progress import Display
from cl_bench.spec import RunSpec
from cl_bench.store import Store

task = json.loads(sys.stdin.readline())
store, many = Store(Path(task["store"])), task["per_model"]
engine = LocalEngine(store, task["plugins"], ["cpu"], task["jobs"], Display(), per_model=many)
specs = [RunSpec.model_validate(s) for s in task["specs"]]
engine.submit(specs)
print("ready", flush=True)
for spec in specs:
    print(engine.record(spec).status, flush=True)
engine.close()
"""


class Notes:
    """A watcher that keeps its events."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.ended: dict[str, Record | str] = {}
        self.steps: set[str] = set()
        self.waited: list[tuple[str, str]] = []

    def started(self, worker: int, spec: RunSpec) -> None:
        self.begun[spec.case] += 1

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        assert 0 < done <= total
        self.steps.add(stage)

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        assert spec.case not in self.ended
        self.ended[spec.case] = outcome

    def waiting_for(self, spec: RunSpec, holder: str) -> None:
        self.waited.append((spec.case, holder))


class Bench:
    """A folder with plugins and a store, and engines on them.

    Args:
        folder: Folder of both.
        files: Source of each plugin, by its file's name without the suffix.
    """

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        self.methods = folder / "methods"
        self.methods.mkdir()
        self.plugins = {"dense_index": str(BUILT_IN / "dense_index.py")}  # like a registry's, but not imported
        for name, text in files.items():
            file = self.methods / f"{name}.py"
            file.write_text(text)
            self.plugins |= dict.fromkeys(re.findall(r'(?:matching\(|name=)"(\w+)"', text), str(file))
        self.store = Store(folder / "store")
        self.notes = Notes()

    def specs(self, name: str, **changes: object) -> tuple[RunSpec, ...]:
        """Return the sweep of a method, whose source is the current content of its file."""
        digest = hashlib.sha256(Path(self.plugins[name]).read_bytes()).hexdigest()
        return tiny(self.folder, **changes).sweep(dense_row(name=name, source=digest))

    def engine(self, jobs: int, per_model: int = 1, timeout: float = math.inf, share_views: int = 1) -> LocalEngine:
        self.notes = Notes()
        how = None, per_model, timeout, share_views
        return LocalEngine(self.store, self.plugins, ["cpu"], jobs, self.notes, *how)


def within(seconds: float, call: Callable[[], object]) -> object:
    """Return the result or the error of a call; an AssertionError if it hangs."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else AssertionError(f"hangs: no answer within {seconds} s")


def start(bench: Bench, specs: tuple[RunSpec, ...], jobs: int, per_model: int = 1) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment()
    )
    assert process.stdin is not None
    task = {"store": str(bench.store.root), "plugins": bench.plugins, "jobs": jobs, "per_model": per_model}
    process.stdin.write(json.dumps({**task, "specs": [s.model_dump(mode="json") for s in specs]}) + "\n")
    process.stdin.flush()
    return process
