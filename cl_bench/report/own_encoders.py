"""Encoders that somebody brings, as people read them: tables, CSV and JSON, and tau over several of them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cl_bench.spec import DataKind
from cl_bench.spec.own import OwnResult, OwnRunSpec
from cl_bench.spec.profile import KINDS
from cl_bench.spec.records import EVALUATIONS, LEVELS, Better, Level, Record
from cl_bench.statistics.correlation import Correlation, correlate
from cl_bench.statistics.kendall import tau_b

FEWEST = 3
"""Encoders that a tau is told of at least."""
PREDICTORS_SHOWN = 8
NAMES: Mapping[DataKind, str] = {"single_object": "single", "multi_object": "multi"}
SHORT: Mapping[Level, str] = {"instance": "linear", "dense": "AP"}
ASSUMED = (
    "p is one-sided and assumes exchangeability: without an association, every order of the encoders would be equally "
    "likely. Nothing is known here about how they were trained. Encoders of one origin (seeds or epochs of one "
    "training, one family) are alike and tell less than their number suggests: their p is too small and their interval "
    "too narrow. A suite knows its grid and allows for that."
)
MARKS = (
    "L_a, L_u: alignment and uniformity of held-out images, lower is better; image, place, colour: shares of what "
    "dense features know."
)
ByTask = dict[tuple[DataKind, Level], float]


@dataclass(frozen=True)
class Tau:
    """Tau over encoders: of ``normalised_sum(L_a, L_u)`` on one kind of held-out images with a downstream task."""

    data: DataKind
    level: Level
    found: Correlation


def taus(results: Sequence[OwnResult]) -> list[Tau]:
    """Compute tau for each kind of held-out images and each task that was done; none of fewer than three encoders."""
    if len(results) < FEWEST:
        return []
    done = [level for level in LEVELS if any(level in _any(r).performance for r in results)]
    return [Tau(k, level, correlate(_of(results, k), level, exchangeable=True)) for k in KINDS for level in done]


def predictor_taus(results: Sequence[OwnResult], better: Mapping[str, Better]) -> dict[str, ByTask]:
    """Compute tau of each predictor with each task, turned so that 1 is a right order; nan where undefined.

    A predictor of one level is held against the task of that level; one of the encoder against both.
    """
    found: dict[str, ByTask] = {}
    for kind in KINDS if len(results) >= FEWEST else ():
        records = [r for r in _of(results, kind) if r.status == "complete"]
        for name in sorted({name for r in records for name in r.predictors}):
            base, _, where = name.partition("@")
            for level in LEVELS:
                both = [r for r in records if name in r.predictors and level in r.performance]
                if where in ("", level) and len(both) >= FEWEST:
                    values = np.array([r.predictors[name] for r in both])
                    tau = tau_b(values, np.array([r.performance[level] for r in both]))
                    found.setdefault(name, {})[kind, level] = (
                        -tau if better.get(base) == "low" else tau
                    ) + 0.0  # no -0
    return found


def tables(results: Sequence[OwnResult], spec: OwnRunSpec, better: Mapping[str, Better]) -> Iterator[RenderableType]:
    """Yield all that a terminal of 80 columns shows."""
    yield _rule(f"{len(results)} frozen encoder{'s' if len(results) > 1 else ''}")
    yield _downstream(results, spec)
    for result in results:
        record = _any(result)
        if record.detail:
            yield Text(f"{result.label}: {record.detail}", style="red")
        for name, why in record.failed_predictors.items():
            yield Text(f"{result.label}: {name}: {why}", style="red")
        if result.uncut and "dense" not in record.performance:
            yield Text(f"{result.label}: no detection: {result.uncut}", style="dim")
    if any(_any(r).alignment for r in results):
        yield Text()
        yield _measures(results)
        yield Text(MARKS, style="dim")
    yield from _correlations(taus(results))
    yield from _predictors(predictor_taus(results, better))


def _downstream(results: Sequence[OwnResult], spec: OwnRunSpec) -> Table:
    metric = spec.detection.metric
    scores = ("linear %", "AP" if metric == "coco_ap" else "VOC AP", "AP50")
    table = _table("encoder", "channels", "view", "cells", *scores, "time")
    for result in results:
        record, shape = _any(result), result.shape
        size = f"{shape['side']} px" if shape.get("side") else f"x{shape.get('enlarged', 1)}"
        grid = " x ".join(map(str, shape.get("grid", ())))
        found = [record.performance.get(level, math.nan) for level in LEVELS]
        found.append(record.extra.get(f"{metric}50", math.nan))
        seconds = sum(record.seconds.values()) + result.records[KINDS[1]].seconds.get("measure", 0.0)
        channels = str(shape.get("dense", ""))
        table.add_row(result.label, channels, size, grid, *(_number(v, 1) for v in found), f"{seconds:.0f} s")
    return table


def _measures(results: Sequence[OwnResult]) -> Table:
    table = _table("encoder", "images", "pooled L_a", "L_u", "dense L_a", "L_u", "image", "place", "colour")
    for result in results:
        for kind, r in result.records.items():
            figures = [c.get(level, math.nan) for level in LEVELS for c in (r.alignment, r.uniformity)]
            shares = [r.probes.get(f"{name}_share", math.nan) for name in ("image", "position", "colour")]
            cells = (*(_number(v, 3) for v in figures), *(_number(v, 2) for v in shares))
            table.add_row(result.label, NAMES[kind], *cells)
    return table


def _correlations(found: Sequence[Tau]) -> Iterator[RenderableType]:
    if not found:
        return
    yield _rule("Tau of minmax(L_a) + minmax(L_u) with performance")
    table = _table("images", "performance", "n", "tau [95 %]", "p (tau < 0)", "p (tau > 0)")
    for tau in found:
        c = tau.found
        ps = ("", "") if c.method == "none" else (f"{c.p_negative:.3f}", f"{c.p_positive:.3f}")
        table.add_row(NAMES[tau.data], EVALUATIONS[tau.level], str(c.n), str(c), *ps)
    yield table
    if left := dict.fromkeys(case for tau in found for case in tau.found.left_out):
        yield Text(f"left out where something is missing or not finite: {', '.join(left)}")
    yield Text(ASSUMED, style="dim")


def _predictors(found: Mapping[str, Mapping[tuple[DataKind, Level], float]]) -> Iterator[RenderableType]:
    if not found:
        return
    columns = [(kind, level) for kind in KINDS for level in LEVELS if any((kind, level) in v for v in found.values())]
    order = sorted(found, key=lambda name: -_mean(found[name]))
    yield _rule("Tau of predictors with performance (1: all in the right order)")
    table = _table("predictor", *(f"{NAMES[kind]} {SHORT[level]}" for kind, level in columns))
    for name in order[:PREDICTORS_SHOWN]:
        table.add_row(name, *(_number(found[name].get(column, math.nan), 2) for column in columns))
    yield table
    more = f"; {len(found) - PREDICTORS_SHOWN} more with --report DIR" if len(found) > PREDICTORS_SHOWN else ""
    yield Text(f"the best of {len(found)}, picked after the fact, so no p is given{more}", style="dim")


def _mean(values: Mapping[Any, float]) -> float:
    """Average those that are defined; less than any tau where none is."""
    known = [v for v in values.values() if not math.isnan(v)]
    return statistics.fmean(known) if known else -2.0


def encoders_csv(results: Sequence[OwnResult]) -> str:
    """Write a line for each encoder and kind of held-out images; a cell is empty where nothing was measured."""
    lines = [_flat(result, kind) for result in results for kind in result.records]
    names = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(result: OwnResult, kind: DataKind) -> dict[str, Any]:
    record = result.records[kind]
    shape = {name: "x".join(map(str, v)) if isinstance(v, (tuple, list)) else v for name, v in result.shape.items()}
    flat: dict[str, Any] = {"encoder": result.label, "images": kind, "architecture": result.architecture}
    flat |= {"weights": result.origin, "key": result.key, "status": record.status, "detail": record.detail, **shape}
    for name in ("alignment", "uniformity", "performance"):
        flat |= {f"{name}_{level}": getattr(record, name).get(level, "") for level in LEVELS}
    for name in ("extra", "probes", "predictors", "seconds"):
        flat |= {f"{name}.{key}": value for key, value in getattr(record, name).items()}
    return flat


def encoders_json(results: Sequence[OwnResult], spec: OwnRunSpec, better: Mapping[str, Better], profile: str) -> str:
    """Write encoders with what was measured on them, tau over them with what its test assumes, and the specs."""
    over = [{"images": t.data, "performance": EVALUATIONS[t.level], **asdict(t.found)} for t in taus(results)]
    predicted = [
        {"predictor": name, "images": kind, "performance": EVALUATIONS[level], "tau": value}
        for name, values in predictor_taus(results, better).items()
        for (kind, level), value in values.items()
    ]
    told = {
        "profile": profile,
        "encoders": [asdict(result) for result in results],
        "correlations": over,
        "assumes": ASSUMED if over else "",
        "predictors": predicted,
        "spec": spec.model_dump(mode="json"),
    }
    return json.dumps(_plain(told), indent=1) + "\n"


def _plain(value: Any) -> Any:
    """Convert to what JSON can hold: nan and infinity are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of(results: Sequence[OwnResult], kind: DataKind) -> list[Record]:
    return [result.records[kind] for result in results]


def _any(result: OwnResult) -> Record:
    return result.records[KINDS[0]]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _rule(text: str) -> Rule:
    return Rule(Text(text, style="bold"), align="left", style="dim")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name in ("images", "performance") else "right", no_wrap=True)
    return table
