"""A row with many records, and the summary as text, for tests of the report."""

from __future__ import annotations

import numpy as np
from helpers import asked, record, shown

from cl_bench.claims.judge import judge
from cl_bench.report import RowResult, summary_table
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import LEVELS, Record


def encoder(
    config: str, family: str, seed: int, place: np.ndarray, performance: float, method: str = "dense_index"
) -> Record:
    return record(
        config,
        family,
        method,
        seed,
        alignment={level: float(-0.95 + 0.4 * place[0]) for level in LEVELS},
        uniformity={level: float(-3 + 2 * place[1]) for level in LEVELS},
        performance={"instance": performance, "dense": performance / 4},
        extra={"coco_ap50": performance / 2},
        seconds={"pretrain": 9.5},
    )


def make_row(name: str = "single_object-dense_index", models: tuple[int, int] = (8, 12)) -> RowResult:
    rng = np.random.default_rng(3)
    names = [("info_nce", f"t{k / 10:g}") for k in range(1, models[0] + 1)]
    names += [("align_uniform", f"a{k % 4}-u{k // 4}") for k in range(models[1])]
    records = []
    for family, knobs in names:
        place = rng.uniform(size=2)
        records.append(encoder(f"{family}-{knobs}", family, 0, place, float(60 - 15 * place.sum() + rng.normal(0, 3))))
    random = [encoder("random_init", "random_init", s, np.array([0, 1.4]), 28.0 + s, "random_init") for s in range(3)]
    judgements = [
        judge(Claim(kind, level), asked(records, name), random)
        for kind in ("tau_negative", "at_random_level")
        for level in LEVELS
    ]
    return RowResult(
        name=name,
        title="Single object: dense_index",
        method="dense_index",
        scheme="dense",
        data="single_object",
        views="overlapping",
        records=tuple(records),
        random_init=tuple(random),
        judgements=tuple(judgements),
        expected=len(records),
        profile="smoke",
        detection_protocol="Faster R-CNN R18-C4, 300 iterations, COCO's 101 points",
        linear_protocol="frozen encoder, Adam, last epoch",
    )


def render(*rows: RowResult, width: int) -> str:
    return shown(summary_table(rows), width)
