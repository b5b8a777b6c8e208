"""The printed numbers, spot-checked against the tables and against one another."""

from __future__ import annotations

import pytest

from cl_bench import paper
from cl_bench.paper import Score, lookup
from cl_bench.records import LEVELS


def test_every_printed_row_is_there_once() -> None:
    keys = [(r.data, r.views, r.scheme, r.loss) for r in paper.ROWS]
    assert len(set(keys)) == len(keys) == 14
    assert [sum(r.table == t for r in paper.ROWS) for t in (1, 2, 3)] == [6, 6, 2]


def test_totals_count_their_families_and_have_the_best_of_them() -> None:
    for total in (r for r in paper.ROWS if r.loss == "total" and r.table != 3):
        parts = [lookup(total.data, total.views, total.scheme, loss) for loss in ("align_uniform", "info_nce")]
        for level in LEVELS:
            scores = [part.score(level) for part in parts if part is not None]
            assert len(scores) == 2
            assert total.score(level).models == sum(s.models for s in scores)
            assert total.score(level).max == max(s.max for s in scores)
            assert total.score(level).top10 >= max(s.top10 for s in scores)


@pytest.mark.parametrize(
    ("row", "linear", "detection"),
    [
        (("stl10", "overlapping", "instance", "total"), Score(100, 76.16, 66.51, 75.61, -0.45), -0.41),
        (("coco", "overlapping", "dense", "info_nce"), Score(20, 59.29, 46.36, 57.30, -0.10), -0.54),
        (("stl10", "disjoint", "dense", "total"), Score(46, 69.94, 57.60, 68.74, -0.35), -0.65),
    ],
)
def test_spot_checks(row: tuple[str, str, str, str], linear: Score, detection: float) -> None:
    found = lookup(*row)
    assert found is not None
    assert found.linear == linear and found.detection.tau == detection
    assert "As printed" in found.note


def test_embedded_data_stand_for_the_papers() -> None:
    assert lookup("single_object", "overlapping", "dense", "total") == lookup("stl10", "overlapping", "dense", "total")
    confusing = lookup("multi_object", "disjoint", "dense", "total")
    assert confusing is not None and confusing.detection == Score(12, 32.49, 32.03, 32.12, 0.03)


def test_what_was_not_printed_is_not_there() -> None:
    assert lookup("stl10", "disjoint", "instance", "total") is None
    assert lookup("coco", "disjoint", "dense", "info_nce") is None
    assert lookup("imagenet", "overlapping", "dense", "total") is None


def test_random_initialisation_is_below_every_mean_of_linear_evaluation() -> None:
    assert paper.RANDOM_INIT == {"instance": 28.04, "dense": 31.93}
    assert all(r.linear.avg > paper.RANDOM_INIT["instance"] for r in paper.ROWS)
