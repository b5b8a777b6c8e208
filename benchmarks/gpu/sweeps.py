"""Parts about many models: how many an hour by ``--jobs``, and a sweep by pytest for the rest of the time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cl_bench
from cl_bench.claims.judgement import IncompleteSweep
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import RANDOM_INIT
from gpu.running import Setting

ROOT = Path(__file__).resolve().parents[2]
JOBS = (1, 2, 4, 8)
PROFILE, TINY = "gpu-scenes", "ci"
SHORT = (
    "optimiser.epochs=2",
    "single_object.data.images=4096",
    "single_object.heldout.images=256",
    "linear.epochs=5",
    "linear.train.images=1024",
    "linear.test.images=1024",
    "detection.iterations=20",
    "detection.train.images=256",
    "detection.test.images=32",
    "grid.temperatures=[0.05, 0.1, 0.2, 0.5]",
    "grid.weightings=[[1, 0.5], [1, 1], [0.5, 1], [0, 1]]",
)
"""Models of a few seconds, so that several runs of eight fit into the time."""
TINIEST = (
    "optimiser.epochs=1",
    "linear.epochs=1",
    "detection.iterations=1",
    "detection.test.images=16",
    "random_inits=2",
    "grid.temperatures=[0.2]",
    "grid.weightings=[[1, 1]]",
)
GRID = (
    "grid.temperatures=[0.05, 0.1, 0.2, 0.5, 1, 2, 5]",
    "grid.weightings=[[1, 0.1], [1, 0.2], [1, 0.5], [1, 1], [0.5, 1], [0.2, 1], [0.1, 1], [0, 1]]",
)
"""The 15 points of the profile gpu, where gpu-scenes has the paper's 100."""
ROW = "suites/test_single_object.py"
SPARE = 45.0  # seconds at the end, in which pytest stops its workers and the records are read
TAIL = 12  # lines of pytest's output that are kept


def jobs(setting: Setting) -> dict[str, Any]:
    """Compute the same few models by 1, 2, 4 and 8 workers on one device, each time into a new store.

    Returns:
        The number of models, and by number of workers: seconds in all, with the workers' start; the models' own seconds
        (pre-training and evaluations, while the others run beside); and models an hour, with that start and without.
    """
    changes, profile = (TINIEST, TINY) if setting.tiny else (SHORT, PROFILE)
    found: dict[str, Any] = {"profile": profile, "set": list(changes)}
    for count in JOBS[1:2] if setting.tiny else JOBS:
        begun = time.time()
        records = cl_bench.run(
            profile=profile,
            set=changes,
            untrained=False,
            store=setting.folder / f"jobs-{count}",
            device=setting.name,
            jobs=count,
            progress=False,
        )
        seconds = time.time() - begun
        if records.failures:
            raise RuntimeError(records.failures[0])
        found["models"] = len(records)
        busy = sum(sum(record.seconds.values()) for record in records)
        found[f"jobs {count}"] = {
            "seconds": seconds,
            "busy": busy,
            "models_per_hour_with_start": 3600 * len(records) / seconds,
            "models_per_hour": 3600 * len(records) * count / busy,
        }
    return found


def sweep(setting: Setting) -> dict[str, Any]:
    """Run a row of gpu-scenes by pytest until the time is up; the next run goes on with its records.

    Returns:
        The command, its exit code and its last lines; the records in the store, the mean seconds of each of their
        stages, and for both levels tau's verdict or what is missing for it.
    """
    profile, changes = (TINY, TINIEST) if setting.tiny else (PROFILE, GRID)
    command = [sys.executable, "-m", "pytest", ROW, "--method", "dense_index"]
    command += ["--profile", profile, "--device", setting.name, "--jobs", str(_best_jobs(setting))]
    command += ["--store", str(setting.store), "-q", *(word for c in changes for word in ("--set", c))]
    code, said = _until(command, setting.left - SPARE)
    records = cl_bench.load_records(setting.store, profile, set=changes)
    if not records:
        raise RuntimeError(f"no record in {setting.store} after exit code {code}: {said[-1] if said else 'no output'}")
    trained = [record for record in records if record.family != RANDOM_INIT]
    stages = {stage for record in trained for stage in record.seconds}
    return {
        "command": command[1:],
        "exit_code": code,
        "said": said[-TAIL:],
        "records": len(records),
        "trained": len(trained),
        "seconds": {stage: sum(r.seconds.get(stage, 0.0) for r in trained) / len(trained) for stage in sorted(stages)},
        "verdicts": {level: _verdict(records, Claim("tau_negative", level)) for level in ("instance", "dense")},
    }


def _best_jobs(setting: Setting) -> int:
    told = setting.result("jobs") or {}
    return max(JOBS, key=lambda count: told.get(f"jobs {count}", {}).get("models_per_hour", 0.0))


def _until(command: Sequence[str], seconds: float) -> tuple[int, list[str]]:
    """Run a command for so many seconds at most, then interrupt it as Ctrl-C does; return its code and its lines."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    return process.returncode, said.splitlines()


def _verdict(records: Any, claim: Claim) -> str:
    try:
        return cl_bench.judge(records, claim).sentence
    except IncompleteSweep as error:
        return str(error)
