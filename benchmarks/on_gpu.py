"""Checks and timings that one GPU is to settle, in 25 minutes: are the numbers right, and how fast is what.

python benchmarks/on_gpu.py --minutes 25                     # on a card
python benchmarks/on_gpu.py --minutes 5 --device cpu --tiny  # the same way, on sizes that say nothing

Each part runs in a process of its own and is written to ``--out`` once it is done. One that fails or takes too long is
recorded with its reason, and the others go on. ``--parts`` runs some of them again, and keeps what the file holds of
the others; the sweep goes on with the records of its store.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from gpu.kernel_choices import kernel_choices, kernel_values, tiles
from gpu.numbers import contract, install, values
from gpu.running import FAILED, Part, Setting, run_parts
from gpu.sweeps import jobs, sweep
from gpu.teams import teams
from gpu.training import detection, resume, steps
from timing import machine

from cl_bench.compute.devices import torch_device
from cl_bench.errors import SpecError, nearest

PARTS = {
    "install": Part(install, 20),
    "contract": Part(contract, 60),
    "values": Part(values, 30),
    "kernel values": Part(kernel_values, 150),
    "tiles": Part(tiles, 90),
    "kernels STL-10": Part(partial(kernel_choices, data="STL-10"), 120),
    "kernels COCO": Part(partial(kernel_choices, data="COCO"), 150),
    "steps STL-10": Part(partial(steps, data="STL-10"), 30),
    "steps COCO": Part(partial(steps, data="COCO"), 45),
    "resume": Part(resume, 60),
    "teams": Part(teams, 60),
    "detection": Part(detection, 90),
    "jobs": Part(jobs, 240),
    "sweep": Part(sweep, 300, takes_the_rest=True),
}
"""Parts in the order in which they run: what the others rest on first.

The seconds are about what they took on an H200; those of ``resume``, ``teams`` and ``sweep``, and of
steps in lock-step, are reckoned.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that the arguments choose; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="time for all parts together (default 25)")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:i or cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU, whose figures say nothing")
    parser.add_argument("--out", type=Path, default=Path("on_gpu.json"), help="results (default on_gpu.json)")
    parser.add_argument("--store", type=Path, help="records of the sweep (default: beside --out, NAME.store)")
    parser.add_argument("--parts", nargs="+", metavar="PART", default=[*PARTS], help=", ".join(PARTS))
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {options.minutes:g}")
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"--parts: no part {name!r}{nearest(name, [*PARTS])}; parts: {', '.join(PARTS)}")
    try:
        device = torch_device(options.device)
    except SpecError as error:
        parser.error(str(error))
    name = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"  # one card, where there are several
    if name == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # of the parts' processes; read when triton is first imported
    ends = time.time() + 60 * options.minutes
    out = options.out.resolve()
    store = (options.store or out.with_suffix(".store")).resolve()
    about = {"machine": machine(), "begun": datetime.now(UTC).isoformat(timespec="seconds")}
    about |= {"device": name, "minutes": options.minutes, "tiny": options.tiny}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(name, options.tiny, out, Path(folder), store, ends)
        entries = run_parts({name: PARTS[name] for name in PARTS if name in options.parts}, setting, about)
    return int(any(entry["status"] == FAILED for entry in entries.values()))


if __name__ == "__main__":
    sys.exit(main())
