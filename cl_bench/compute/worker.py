"""A worker process: specs in on standard input, events out on standard output, one JSON object a line.

It ends when its standard input does, so it never outlives the process that started it, however that one ended, and
takes along whatever was started here. It imports one plugin at most: what is imported may change others' numbers.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import IO, Any

from cl_bench.errors import OutOfMemory, PluginError
from cl_bench.forks import own

STEP_EVERY = 0.2  # seconds between two progress events


def main() -> None:
    """Compute specs until standard input ends."""
    requests, events = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a plugin prints must not mix with the events
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nor may it read the requests
    with own(requests.fileno(), events.fileno()):
        _serve(requests, events)


def _serve(requests: IO[str], events: IO[str]) -> None:
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    me, tag = os.getpid(), ""

    def read() -> None:
        for line in requests:
            tasks.put(json.loads(line))
        _leave()

    def end_in_a_child() -> None:
        """A plugin that forks and returns in both brings its child here: it neither computes nor answers."""
        if os.getpid() != me:
            os._exit(0)

    def send(**event: Any) -> None:
        end_in_a_child()
        try:
            events.write(f"\n{json.dumps({**event, 'tag': tag})}\n")  # on a line of its own, whatever else was said
        except OSError:  # nobody listens any more
            _leave()

    settings = json.loads(requests.readline())
    threading.Thread(target=read, daemon=True).start()

    import torch

    import cl_bench.compute.numerics  # noqa: F401 - it notes how many threads torch takes, before a plugin says otherwise
    from cl_bench.compute.devices import torch_device
    from cl_bench.compute.memory import keep_freed_memory
    from cl_bench.compute.runner import compute
    from cl_bench.data import DataPaths
    from cl_bench.methods.registry import Registry
    from cl_bench.predictors.registry import Predictors
    from cl_bench.spec import RunSpec
    from cl_bench.store import Store, StoreWarning

    keep_freed_memory()
    device = torch_device(settings["device"])
    sys.path += [entry for entry in settings["path"] if entry not in sys.path]  # installed plugins may live there
    store, plugin, registry, predictors = Store(Path(settings["store"])), "", Registry((), ()), Predictors((), ())
    places = DataPaths.of(store.root, settings["data_root"])
    show = warnings.showwarning

    def pass_on(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, StoreWarning):
            send(event="warning", text=str(message))
        else:  # a plugin's own, or torch's: to the run's output
            show(message, category, *where, **more)

    warnings.showwarning = pass_on
    last = 0.0

    def on_step(stage: str, done: int, total: int) -> None:
        nonlocal last
        end_in_a_child()
        if time.monotonic() - last > STEP_EVERY:
            last = time.monotonic()
            send(event="step", stage=stage, done=done, total=total)

    while True:
        task = tasks.get()
        tag, spec = task["tag"], RunSpec.model_validate(task["spec"])
        if task["plugin"] != plugin:
            assert not plugin, f"{plugin} is imported here: {task['plugin']} needs a process of its own"
            plugin = task["plugin"]
            registry, predictors = Registry.only(plugin), Predictors.only(plugin)
        send(event="ready")
        try:
            mine = compute(spec, store, registry, device, on_step, places, predictors)
            send(event="done" if mine else "busy")
        except Exception as error:  # whatever a plugin or the machine does, the other records must go on
            full = isinstance(error, OutOfMemory)
            send(event="failed", error=_one_line(error, store.run(spec.pretrain.key).path / "output.txt"))
            del error  # and with it every tensor of the frames that it passed
            if full and device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()


def _leave() -> None:
    """End, and with this process all of its group: nobody else would end what a plugin started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _one_line(error: Exception, log: Path) -> str:
    """What went wrong; for what nobody foresaw, the traceback is kept beside what the run printed."""
    text = str(error).strip().splitlines()
    line = text[0] if text else "no message"
    if isinstance(error, PluginError | OutOfMemory):
        return line
    try:
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:  # a full disk is likely what went wrong
        return f"{type(error).__name__}: {line}"
    return f"{type(error).__name__}: {line} (traceback in {log})"


if __name__ == "__main__":
    main()
