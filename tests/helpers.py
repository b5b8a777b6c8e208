"""Small sweeps for tests: a profile that trains an encoder in a second, and records without training."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
from hypothesis import settings
from rich.console import Console, RenderableType

from cl_bench.claims.judgement import Sweep
from cl_bench.compute.record import AVERAGE_PRECISIONS, STAGES, evaluation_name
from cl_bench.compute.runner import note
from cl_bench.data.dataset import Dataset, Ragged
from cl_bench.data.scenes import draw_scenes
from cl_bench.evaluate.similarities import BINS
from cl_bench.spec import MethodSpec, RunSpec, ScenesSpec
from cl_bench.spec.profile import Profile, Row
from cl_bench.spec.profile_files import PROFILES, load_profile
from cl_bench.spec.records import LEVELS, RANDOM_INIT, Record
from cl_bench.store import Store

ROOT = Path(__file__).resolve().parent.parent
TINY: dict[str, Any] = {
    "about": "for tests: a second an encoder",
    "seeds": 1,
    "random_inits": 2,
    "known": [],
    "encoder.hidden": 16,
    "encoder.projection": 8,
    "optimiser.batch": 32,
    "optimiser.epochs": 1,
    "optimiser.warmup": 0,
    "optimiser.log_every": 1,
    "grid.temperatures": [0.2, 1.0],
    "grid.weightings": [[1, 1], [0, 1]],
    "linear.epochs": 2,
    "detection.iterations": 2,
    "detection.batch": 2,
    **{f"{kind}.{part}.images": 64 for kind in ("single_object", "multi_object") for part in ("data", "heldout")},
    **{f"linear.{part}.images": 64 for part in ("train", "test")},
    **{f"detection.{part}.images": 8 for part in ("train", "test")},
}
"""Changes to the smoke profile, by dotted key; other values stay."""
PROBES = ("position_share", "image_share", "colour_share", "position_accuracy", "position_chance")
KINDS = ("positive", "same_image", "other_images")


def drawn_scenes(kind: str, split: str, images: int, size: int, seed: int = 0, **more: Any) -> Dataset:
    """Draw scenes without the cache of ``cl_bench.data.load``."""
    return draw_scenes(ScenesSpec(kind=kind, split=split, images=images, size=size, seed=seed, **more))


def some(examples: int) -> settings:
    """Return settings for that number of examples of a property, however long each takes."""
    return settings(max_examples=examples, deadline=None)


def rng(seed: int = 0) -> torch.Generator:
    """Return a new generator."""
    return torch.Generator().manual_seed(seed)


def ragged(sizes: list[tuple[int, int]], seed: int = 0) -> Ragged:
    """Make images of noise with those heights and widths."""
    pixels = torch.randint(256, (sum(3 * h * w for h, w in sizes),), generator=rng(seed), dtype=torch.uint8)
    return Ragged(pixels, torch.tensor(sizes))


def tiny_profile(path: Path, **changes: Any) -> Path:
    """Write the tiniest valid sweep (four configurations, two untrained encoders) as TOML; ``a__b=1`` sets ``a.b``."""
    values = _flat(tomllib.loads((PROFILES / "smoke.toml").read_text()))
    values |= TINY | {key.replace("__", "."): value for key, value in changes.items()}
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in values.items()))
    return path


def tiny(path: Path, **changes: Any) -> Profile:
    """Write that profile and load it."""
    return load_profile(str(tiny_profile(path / "tiny.toml", **changes)))


def dense_row(data: str = "single_object", views: str = "overlapping", **method: Any) -> Row:
    """Return a row of the built-in dense method, or of the one described."""
    return Row(MethodSpec(**{"name": "dense_index", **method}), data, views)  # type: ignore[arg-type]


def record(config: str, family: str = "info_nce", method: str = "dense_index", seed: int = 0, **more: Any) -> Record:
    """Make the record of a trained encoder without training; figures are 0 unless they are given."""
    zero = dict.fromkeys(LEVELS, 0.0)
    known = {"case": f"{method}-{config}-s{seed}", "alignment": zero, "uniformity": zero, "performance": zero, **more}
    return Record(
        **{"data": "single_object", "views": "overlapping", "status": "complete", **known},
        key=f"{method}-{config}-{seed}",
        method=method,
        family=family,
        config=config,
        seed=seed,
    )


def point(k: int, x: float, score: float, seed: int = 0, family: str = "info_nce", **changes: object) -> Record:
    """Make the record of an encoder whose normalised sum is a rising function of x, the same at both levels."""
    both = {"alignment": x, "uniformity": -1.0, "performance": score}
    figures = {name: dict.fromkeys(LEVELS, value) for name, value in both.items()}
    base = record(f"{family}-k{k:03d}", family, seed=seed, **figures)
    return replace(base, **changes)  # type: ignore[arg-type]


def sweep(x: Sequence[float], y: Sequence[float]) -> list[Record]:
    """Make configurations with those normalised sums, up to scale, and performances."""
    return [point(k, float(a), float(b)) for k, (a, b) in enumerate(zip(x, y, strict=True))]


def untrained(*performance: float) -> list[Record]:
    """Make records of randomly initialised encoders with those performances at both levels."""
    return [
        record(RANDOM_INIT, RANDOM_INIT, RANDOM_INIT, s, performance=dict.fromkeys(LEVELS, p))
        for s, p in enumerate(performance)
    ]


def asked(records: Sequence[Record], row: str = "row", expected: Sequence[Record] | None = None) -> Sweep:
    """Make a row whose grid asks for these records, or for others."""
    return Sweep(row, records, [r.case for r in (records if expected is None else expected)])


def disordered(n: int, inversions: int) -> list[int]:
    """Return 0 to n - 1 with so many inversions: tau with the right order is ``1 - 4 inversions / (n (n - 1))``."""
    rest, order = list(range(n)), []
    for k in range(n):
        order.append(rest.pop(min(inversions, n - 1 - k)))
        inversions -= min(inversions, n - 1 - k)
    return order


def shown(renderable: RenderableType, width: int) -> str:
    """Return the text that a terminal without colours prints."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, name: str, nth: int = 0) -> str:
    """Return the nth line that begins with ``name``."""
    return [line for line in text.splitlines() if line.startswith(name)][nth]


def plant(
    store: Store,
    spec: RunSpec,
    *,
    L_a: float = -0.5,
    L_u: float = -1.0,
    performance: float = 50.0,
    diverged: str = "",
    decomposition_error: float = 0.0,
    matching_precision: float = 0.5,
) -> None:
    """Store a record without training."""
    run = store.run(spec.pretrain.key)
    precision = None if spec.pretrain.objective.family == RANDOM_INIT else matching_precision
    encoder = {"encoder_sha256": "0" * 64}
    trained = {"matching_precision": precision, "position_only_loss": None, "history_sha256": "0" * 64}
    status = {"status": "complete", "detail": "", **trained, **encoder}
    if diverged:
        status = {"status": "diverged", "detail": diverged}
    run.write("status", {**status, "decomposition_error": decomposition_error, "seconds": 1.0, "provenance": {}})
    levels = ("instance", "dense")
    evals = {
        "measure": {
            "alignment": dict.fromkeys(levels, L_a),
            "uniformity": dict.fromkeys(levels, L_u),
            "probes": dict.fromkeys(PROBES, 0.5),
            "similarities": dict.fromkeys(KINDS, (1 / BINS,) * BINS),
            "similarity_overlap": 1.0,
        },
        "linear": {"accuracy": performance, "halves": [performance, performance]},
        "detection": {
            **dict.fromkeys(AVERAGE_PRECISIONS, performance),
            "halves": {name: [performance, performance] for name in AVERAGE_PRECISIONS},
        },
    }
    run.write("spec", spec.pretrain.model_dump(mode="json"))
    note(spec, run)
    for stage in () if diverged else STAGES:
        run.write(evaluation_name(spec, stage), {**evals[stage], **encoder, "seconds": 1.0, "provenance": {}})


def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Return True if a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def workers(pids: Iterable[int]) -> set[int]:
    """Return those of some processes that are workers of cl-bench."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            if "cl_bench.compute.worker" in Path(f"/proc/{pid}/cmdline").read_text() and alive(pid):
                found.add(pid)
    return found


def trained(store: Path) -> dict[str, int]:
    """Return the time (ns) at which each encoder and evaluation in a store was written."""
    return {str(p.relative_to(store)): p.stat().st_mtime_ns for p in sorted((store / "runs").rglob("*.json"))} | {
        str(p.relative_to(store)): p.stat().st_mtime_ns for p in sorted((store / "runs").rglob("*.safetensors"))
    }


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a subprocess, without the variables that a test runner adds."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | changes


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def in_full(value: object) -> str:
    """Write out a value with all that it holds, to compare two in which nan stands for what is not known.

    Dataclasses compare tuples of their fields before Python 3.13, where one nan equals itself, and then field by field.
    """
    return pformat(value)
