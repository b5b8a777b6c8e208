"""Parts that run one after the other, each in a process of its own and within the time that is left."""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.errors import first_line
from cl_bench.store import write_atomically

if TYPE_CHECKING:
    import torch

DONE, FAILED, SKIPPED = "done", "failed", "skipped"
PRELOADED = ("torch", "torchvision", "numpy", "cl_bench.compute.estimate", "cl_bench.notebook.computing")
"""Imported once; a part's process is forked from the one that has. None of them starts work on a card."""
JOINING = 20.0  # seconds for a process to end once it has told its result


@dataclass(frozen=True)
class Setting:
    """Setting of a run, which every part is told.

    Attributes:
        name: Name of the device, such as ``cuda``.
        tiny: Whether sizes are to be so small that the figures say nothing.
        out: Results so far, as JSON.
        folder: Empty folder for what is needed on the way.
        store: Folder of the sweep's records, which stays.
        ends: When the time is up, by ``time.time``.
    """

    name: str
    tiny: bool
    out: Path
    folder: Path
    store: Path
    ends: float

    @property
    def device(self) -> torch.device:
        """Device to run on."""
        import torch

        return torch.device(self.name)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.time()

    def result(self, part: str) -> Any:
        """Return what an earlier part found, or None."""
        return results(self.out).get(part, {}).get("result")


@dataclass(frozen=True)
class Part:
    """A part: what it runs, and the seconds that it is expected to take on a card.

    ``run`` returns plain values. What it raises is its failure, and no other part's. It is not begun with less time
    left than it is expected to take, and stopped after twice as much, except the last, which has the rest.
    """

    run: Callable[[Setting], dict[str, Any]]
    seconds: float
    takes_the_rest: bool = False


def results(out: Path) -> dict[str, Any]:
    """Return the entries of the parts in a file of results; empty where there is none."""
    return dict(json.loads(out.read_text())["parts"]) if out.exists() else {}


def run_parts(parts: Mapping[str, Part], setting: Setting, about: Mapping[str, Any]) -> dict[str, Any]:
    """Run parts in order, write all entries after each, and print a line for each.

    Args:
        parts: Parts by name.
        setting: What they are told; entries of other parts in its file of results are kept.
        about: What stands in the file beside the parts.

    Returns:
        The entry of each of these parts: its ``status``, its ``seconds``, and its ``result`` or the ``reason``.
    """
    entries = results(setting.out)
    for name, part in parts.items():
        print(f"{name} ... ({max(0.0, setting.left):.0f} s left)", flush=True)
        entries[name] = _finite(_outcome(part, setting))
        told = {**about, "parts": entries}
        write_atomically(setting.out, json.dumps(told, indent=1, allow_nan=False).encode() + b"\n")
        entry = entries[name]
        why = f": {entry['reason']}" if "reason" in entry else ""
        print(f"{name}: {entry['status']} in {entry['seconds']:.1f} s{why}", flush=True)
    return {name: entries[name] for name in parts}


def _outcome(part: Part, setting: Setting) -> dict[str, Any]:
    left = setting.left
    needed = 0.0 if setting.tiny else part.seconds
    if left <= needed:
        reason = f"it takes about {needed:.0f} s, and {max(0.0, left):.0f} s are left"
        return {"status": SKIPPED, "seconds": 0.0, "reason": reason}
    limit = left if setting.tiny or part.takes_the_rest else min(left, 2 * part.seconds)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_told, args=(part.run, setting, sending))
    begun = time.time()
    process.start()
    sending.close()
    try:
        if not receiving.poll(limit):
            why = f"expected to take {part.seconds:.0f} s" if limit < left else "when the time was up"
            told = {"status": FAILED, "reason": f"stopped after {limit:.0f} s, {why}"}
        else:
            try:
                told = receiving.recv()
                process.join(JOINING)
            except EOFError:
                process.join(JOINING)
                told = {"status": FAILED, "reason": f"its process ended with exit code {process.exitcode}"}
    finally:
        _end(process)
    return {"status": told.pop("status"), "seconds": round(time.time() - begun, 1), **told}


def _told(run: Callable[[Setting], dict[str, Any]], setting: Setting, sending: Connection) -> None:
    """Run a part in this process, which leads a session of its own, and send its entry."""
    os.setsid()
    gc.freeze()  # what is imported need not be looked through again in each measurement
    try:
        sending.send({"status": DONE, "result": run(setting)})
    except Exception as error:  # the other parts must still run
        traceback.print_exc()
        sending.send({"status": FAILED, "reason": first_line(error)})


def _end(process: BaseProcess) -> None:
    """Stop a part's process and those that it started."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _finite(value: Any) -> Any:
    """Return plain values with text in place of a nan or an infinity, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(held) for held in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
