"""Search for the embedded recipe: chosen by how well encoders learn, on seeds that are not reported, never by tau.

The criterion was written before the first candidate ran. Over the grid of a profile, single- and multi-object data,
overlapping views, ``dense_index``:

a. gain: the median over encoders of (performance - mean of untrained encoders), in points, in both evaluations;
b. shortcuts: median position share and colour share below the untrained encoders';
c. reliability: between-configuration variance of performance over the total, at least .8, in both evaluations;
d. headroom: untrained detection at most half of the best encoder's.

Among candidates that hold b, the one whose summed gain is largest in the worse of the two rows, ties by reliability.
No tau is computed here.

Usage: ``python benchmarks/recipe_search.py [NAME ...] [--seeds 100:101] [--grid few|all] [--store DIR]``
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cl_bench.compute.local import LocalEngine
from cl_bench.data import load
from cl_bench.evaluate.alignment_uniformity import measure
from cl_bench.methods.registry import BUILT_IN, Registry, spec_of
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Profile, Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.spec.records import LEVELS, Level, Record
from cl_bench.store import Store
from cl_bench.train.training import untrained


def both(path: str) -> tuple[str, str]:
    """Return a setting for both kinds of data."""
    return f"single_object.{path}", f"multi_object.{path}"


SCENES = (
    *both("data"),
    *both("heldout"),
    *(f"{evaluation}.{part}" for evaluation in ("linear", "detection") for part in ("train", "test")),
)


def scenes(**design: object) -> tuple[str, ...]:
    """Return settings that draw every scene, of pre-training and of both evaluations, with this design."""
    return tuple(f"{part}.{name}={value}" for part in SCENES for name, value in design.items())


FIRST = (
    *("optimiser.lr=0.12", "optimiser.epochs=9"),
    *scenes(background=0.15),
    *both("augment.grayscale=0.2"),
    *("detection.train.size=48", "detection.test.size=48", "detection.anchors=[12.0, 16.0]"),
)
"""Settings that the search began with; every candidate changes some of them."""
LARGE = ("detection.train.size=64", "detection.test.size=64", "detection.anchors=[18.0, 24.0]")
"""Larger detection scenes, with digits of 18 to 27 pixels as in single-object views; 48-pixel scenes have 13 to 20."""
GREY = both("augment.grayscale=0.5")
SMALL = tuple(
    f"{part}.height=[0.42, 0.66]"
    for part in ("single_object.data", "single_object.heldout", "linear.train", "linear.test")
)
ADAM = ("optimiser.name=adam", "optimiser.weight_decay=0.01")
MULTI_64 = (
    *("multi_object.data.size=64", "multi_object.heldout.size=64"),
    "multi_object.augment.scale=[0.1, 0.6]",
)
VIEW_20 = (
    *("detection.train.size=56", "detection.test.size=56", "detection.anchors=[16.0, 20.0]"),
    *both("augment.size=20"),
)

TWICE = both("data.images=2048")
AT_18 = "detection 64 px, grey .5, lr .06, 18 epochs"
SMALLER_BATCHES = ("optimiser.batch=32", "optimiser.lr=0.03")

CHANGES: dict[str, tuple[str, ...]] = {
    "first": (),
    "lr .24": ("optimiser.lr=0.24",),
    "adam 3e-3": (*ADAM, "optimiser.lr=0.003"),
    "small digits": SMALL,
    "small digits, batch 32": (*SMALL, "optimiser.batch=32"),
    "small digits, adam 3e-3": (*SMALL, *ADAM, "optimiser.lr=0.003"),
    "small digits, adam 3e-3, batch 32": (*SMALL, *ADAM, "optimiser.lr=0.003", "optimiser.batch=32"),
    "detection 64 px": LARGE,
    "detection 64 px, 200 iterations": (*LARGE, "detection.iterations=200"),
    "detection 64 px, multi-object 64 px": (*LARGE, *MULTI_64),
    "detection 64 px, grey .5": (*LARGE, *GREY),
    "detection 64 px, lr .06": (*LARGE, "optimiser.lr=0.06"),
    "detection 64 px, grey .5, lr .06": (*LARGE, *GREY, "optimiser.lr=0.06"),
    "detection 64 px, grey .5, lr .03": (*LARGE, *GREY, "optimiser.lr=0.03"),
    "detection 64 px, grey .5, lr .06, 7 epochs": (*LARGE, *GREY, "optimiser.lr=0.06", "optimiser.epochs=7"),
    "detection 64 px, grey .5, lr .06, 14 epochs": (*LARGE, *GREY, "optimiser.lr=0.06", "optimiser.epochs=14"),
    "detection 64 px, grey .5, lr .06, 18 epochs": (*LARGE, *GREY, "optimiser.lr=0.06", "optimiser.epochs=18"),
    "detection 64 px, grey .5, lr .06, batch 32": (*LARGE, *GREY, "optimiser.lr=0.06", "optimiser.batch=32"),
    "detection 64 px, grey .5, lr by temperature": (
        *(*LARGE, *GREY),
        *("optimiser.per_temperature=true", "optimiser.lr=0.3"),
    ),
    "detection 64 px, grey .5, lr by temperature .12, 14 epochs": (
        *(*LARGE, *GREY, "optimiser.epochs=14"),
        *("optimiser.per_temperature=true", "optimiser.lr=0.12"),
    ),
    "detection 56 px, grey .5, lr .06, view 20": (*VIEW_20, *GREY, "optimiser.lr=0.06"),
    **{
        f"{AT_18}, {name}": (*LARGE, *GREY, "optimiser.lr=0.06", "optimiser.epochs=18", *change)
        for name, change in {
            "batch 32": ("optimiser.batch=32",),
            "batch 32, lr .03": SMALLER_BATCHES,
            "2,048 images, half the epochs": (*TWICE, "optimiser.epochs=9"),
            "2,048 images, half the epochs, batch 32": (*TWICE, "optimiser.epochs=9", "optimiser.batch=32"),
            "grey .8": both("augment.grayscale=0.8"),
            "single-object crops from .2": ("single_object.augment.scale=[0.2, 1.0]",),
            "weight decay 1e-3": ("optimiser.weight_decay=0.001",),
            "detection 50 iterations": ("detection.iterations=50",),
            "detection lr .05": ("detection.lr=0.05",),
            "background .05": scenes(background=0.05),
            "background .3": scenes(background=0.3),
            "background .4": scenes(background=0.4),
            "background .5": scenes(background=0.5),
            "background .7": scenes(background=0.7),
            "tints from .3": scenes(tint=[0.3, 1.0]),
            "tints from .8": scenes(tint=[0.8, 1.0]),
            "background .3, tints from .3": scenes(background=0.3, tint=[0.3, 1.0]),
            "background .5, tints from .3": scenes(background=0.5, tint=[0.3, 1.0]),
            "background .3, batch 32, lr .03": (*scenes(background=0.3), *SMALLER_BATCHES),
            "background .5, batch 32, lr .03": (*scenes(background=0.5), *SMALLER_BATCHES),
            "background .5, tints from .8": scenes(background=0.5, tint=[0.8, 1.0]),
        }.items()
    },
}
CANDIDATES = {"smoke": (), **{name: (*FIRST, *change) for name, change in CHANGES.items()}}
FEW = (
    "grid.temperatures=[0.1, 0.5, 2.0]",
    "grid.weightings=[[1, 0.2], [1, 1], [0.2, 1]]",
    "random_inits=3",
)


class Quiet:
    """A watcher that prints nothing."""

    def started(self, worker: int, spec: RunSpec) -> None:
        """Ignore that a worker started a spec."""

    def stepped(self, worker: int, stage: str, done: int, total: int) -> None:
        """Ignore a worker's progress."""

    def finished(self, worker: int, spec: RunSpec, outcome: Record | str) -> None:
        """Ignore that a worker finished a spec."""

    def waiting_for(self, spec: RunSpec, holder: str) -> None:
        """Ignore that another process is computing a spec."""


def untrained_probes(spec: RunSpec, row: RunSpec) -> dict[str, float]:
    """Compute the probes of an untrained encoder on the held-out images and views of a row."""
    encoder, pretrain = untrained(spec.pretrain).eval(), row.pretrain
    held_out = load(row.measure.data)
    return measure(encoder, held_out, row.measure, pretrain.augment, pretrain.views, torch.device("cpu"))["probes"]


def reliability(records: Iterable[Record], level: Level) -> float:
    """Compute the share of the variance of performance that is between configurations; nan with one seed."""
    by_config: dict[str, list[float]] = {}
    for r in records:
        by_config.setdefault(r.config, []).append(r.performance[level])
    seeds = min(map(len, by_config.values()))
    if seeds < 2:
        return float("nan")
    within = statistics.fmean(statistics.variance(v) for v in by_config.values())
    between = max(0.0, statistics.variance([statistics.fmean(v) for v in by_config.values()]) - within / seeds)
    return between / (between + within)


def figures(profile: Profile, row: Row, store: Store, engine: LocalEngine) -> dict[str, Any]:
    """Compute the figures of one row that the criterion uses."""
    specs, references = profile.sweep(row), profile.random_init()
    records, untrained_records = [engine.record(s) for s in specs], [engine.record(s) for s in references]
    done = [r for r in records if r.status == "complete"]
    out: dict[str, Any] = {"complete": len(done), "of": len(records)}
    for level, short in zip(LEVELS, ("linear", "detection"), strict=True):
        reference = statistics.fmean(r.performance[level] for r in untrained_records)
        values = [r.performance[level] for r in done]
        out[short] = {
            "untrained": reference,
            "median": statistics.median(values),
            "best": max(values),
            "above": sum(v > reference for v in values),
            "reliability": reliability(done, level),
        }
    plain = [untrained_probes(s, specs[0]) for s in references]
    for name in ("position", "colour"):
        share = f"{name}_share"
        out[name] = {
            "median": statistics.median(r.probes[share] for r in done),
            "untrained": statistics.median(probes[share] for probes in plain),
        }
    return out


def line(name: str, row: str, f: dict[str, Any]) -> str:
    """Format one line of the table."""
    evaluations = " | ".join(
        f"{e['untrained']:.1f} / {e['median']:.1f} / {e['best']:.1f} | {e['above']} | {e['reliability']:.2f}"
        for e in (f["linear"], f["detection"])
    )
    probes = " | ".join(f"{p['median']:.2f} ({p['untrained']:.2f})" for p in (f["position"], f["colour"]))
    return f"| {name} | {row.split('-')[0]} | {f['complete']}/{f['of']} | {evaluations} | {probes} |"


def main() -> None:
    """Run the named candidates, all by default."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--seeds", default="100:101")
    parser.add_argument("--grid", choices=("few", "all"), default="few")
    parser.add_argument("--store", type=Path, default=Path(".cl_bench/recipe_search"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data", nargs="*", default=["single_object", "multi_object"])
    given = parser.parse_args()
    first, end = map(int, given.seeds.split(":"))
    store = Store(given.store)
    registry = Registry([BUILT_IN])
    method = spec_of(registry.resolve("dense_index"))
    print(
        "| recipe | data | complete | linear: untrained / median / best | above | reliability "
        "| detection: untrained / median / best | above | reliability | position (untrained) | colour (untrained) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.names or CANDIDATES:
        settings = [
            *CANDIDATES[name],
            *(FEW if given.grid == "few" else ()),
            f"seeds={end - first}",
            f"first_seed={first}",
        ]
        profile = load_profile("smoke", settings)
        engine = LocalEngine(store, registry.plugins, ["cpu"], given.jobs, Quiet())
        begun = time.monotonic()
        try:
            rows = [Row(method, data, "overlapping") for data in given.data]
            engine.submit([*profile.random_init(), *(s for row in rows for s in profile.sweep(row))])
            for row in rows:
                found = figures(profile, row, store, engine)
                print(line(name, row.name, found), flush=True)
                with (given.store / "log.jsonl").open("a") as log:
                    log.write(json.dumps({"recipe": name, "settings": settings, "row": row.name, **found}) + "\n")
        finally:
            engine.close()
        print(f"<!-- {name}: {time.monotonic() - begun:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
