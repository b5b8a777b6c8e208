"""A worker process: it reads specs from standard input and writes events to standard output, one JSON object a line.

It ends with its standard input, so it never outlives the process that started it, however that one ended, and it ends
every process that was started here. It imports one plugin at most, because an import may change others' numbers.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import IO, Any

from cl_bench.compute.output import trim
from cl_bench.compute.process import end_group
from cl_bench.errors import OutOfMemory, PluginError, SpecError, first_line, first_line_of
from cl_bench.forks import own

STEP_EVERY = 0.2  # seconds between two progress events


def main() -> None:
    """Compute specs until standard input ends."""
    requests, events = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a plugin's output must not mix with the events
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # and it must not read the requests
    with own(requests.fileno(), events.fileno()):
        _serve(requests, events)


def _serve(requests: IO[str], events: IO[str]) -> None:
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    me, tag = os.getpid(), ""

    def read() -> None:
        try:
            for line in requests:
                tasks.put(json.loads(line))
        finally:  # also after a message that breaks off, whose sender was killed
            _leave()

    def end_in_a_child() -> None:
        """Exit in the child of a plugin that forks and returns in both processes, before it computes or answers."""
        if os.getpid() != me:
            os._exit(0)

    def send(**event: Any) -> None:
        end_in_a_child()
        try:
            events.write(f"\n{json.dumps({**event, 'tag': tag})}\n")  # on a line of its own, whatever else was printed
        except OSError:  # the parent no longer reads
            _leave()

    settings = json.loads(requests.readline())
    threading.Thread(target=read, daemon=True).start()

    import torch

    import cl_bench.compute.numerics  # noqa: F401 - it reads torch's default number of threads before a plugin can change it
    from cl_bench.compute.assist import assist
    from cl_bench.compute.devices import torch_device
    from cl_bench.compute.memory import keep_freed_memory
    from cl_bench.compute.runner import compute
    from cl_bench.data import DataPaths
    from cl_bench.losses.distributed import ALONE, Alone
    from cl_bench.methods.registry import Registry
    from cl_bench.predictors.registry import Predictors
    from cl_bench.spec import RunSpec
    from cl_bench.store import Store, StoreWarning

    keep_freed_memory()
    device = torch_device(settings["device"])
    sys.path += [entry for entry in settings["path"] if entry not in sys.path]  # installed plugins may be there
    store, plugin, registry, predictors = Store(Path(settings["store"])), "", Registry((), ()), Predictors((), ())
    places = DataPaths.of(store.root, settings["data_root"])
    show = warnings.showwarning

    def pass_on(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, StoreWarning):
            send(event="warning", text=str(message))
        else:  # of a plugin or of torch: to the run's output
            show(message, category, *where, **more)

    warnings.showwarning = pass_on
    last = 0.0

    def on_step(stage: str, done: int, total: int) -> None:
        nonlocal last
        end_in_a_child()
        if time.monotonic() - last > STEP_EVERY:
            last = time.monotonic()
            send(event="step", stage=stage, done=done, total=total)

    place, over = settings.get("together", {"rank": 0, "size": 1}), ALONE

    def meet() -> Alone:
        """Meet the other processes that train the model, if any, each of which takes the same spec."""
        nonlocal over
        if place["size"] > 1:
            from cl_bench.train.distributed import join

            send(event="training")
            over = join(place["rank"], place["size"], Path(place["meeting"]), device) if over is ALONE else over
        return over

    while True:
        task = tasks.get()
        tag, spec = task["tag"], RunSpec.model_validate(task["spec"])
        if task["plugin"] != plugin:
            assert not plugin, f"{plugin} is imported here: {task['plugin']} needs a process of its own"
            plugin = task["plugin"]
            registry, predictors = Registry.only(plugin), Predictors.only(plugin)
        beside = [RunSpec.model_validate(other) for other in task.get("beside", ())]
        send(event="ready")
        try:
            if place["rank"]:
                assist(spec, store, registry, device, places, meet())
                mine = True
            else:
                mine = compute(spec, store, registry, device, on_step, places, predictors, meet, beside)
            send(event="done" if mine else "busy")
        except Exception as error:  # whatever a plugin or the machine does, other records must still be computed
            full = isinstance(error, OutOfMemory)
            send(event="failed", full=full, error=_one_line(error, store.run(spec.pretrain.key).path / "output.txt"))
            del error  # and with it every tensor in its frames
            gc.collect()
            if full and device.type == "cuda":
                torch.cuda.empty_cache()


def _leave() -> None:
    """End this process and its whole group, because nothing else would end the processes that a plugin started."""
    if os.getpgrp() == os.getpid():
        end_group(os.getpid())
    os._exit(0)


def _one_line(error: Exception, log: Path) -> str:
    """Describe an error in one line; the traceback of an unexpected one is appended to the run's output."""
    if isinstance(error, PluginError | OutOfMemory | SpecError):
        return first_line_of(str(error)) or type(error).__name__
    try:
        with log.open("a", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
        with log.open("r+b") as whole:
            trim(whole.fileno())
    except OSError:  # a full disk is the likely reason
        return first_line(error)
    return f"{first_line(error)} (traceback in {log})"


if __name__ == "__main__":
    main()
