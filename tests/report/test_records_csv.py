"""Records as CSV and back, and the stamp of where they come from."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import PROBES, in_full, record

from cl_bench.report.environment import ORIGIN, environment, origin
from cl_bench.report.records_csv import read_records, records_csv
from cl_bench.report.row import RowResult
from cl_bench.spec.records import LEVELS, RANDOM_INIT, Record
from cl_bench.statistics.correlation import correlate


def encoder(k: int, **changes: object) -> Record:
    figures = {name: {level: 0.1 * k + i for i, level in enumerate(LEVELS)} for name in ("alignment", "performance")}
    made = record(f"info_nce-t{k}", seed=k % 2, **figures, uniformity=dict.fromkeys(LEVELS, -k / 7))
    probes = dict.fromkeys(PROBES, k / 9)
    made = replace(made, halves={"instance": (k / 7, k / 3)} if k else {})
    made = replace(made, predictors={"rankme@dense": k / 7, "knob": 0.5} if k else {})
    return replace(made, key=f"key{k}", probes=probes, extra={"coco_ap50": k / 3}, seconds={"pretrain": 1.5}, **changes)


def row(name: str, records: list[Record], untrained: list[Record]) -> RowResult:
    plain = {"title": name, "method": "dense_index", "scheme": "dense", "data": "single_object", "views": "overlapping"}
    told = {"judgements": (), "expected": 4, "profile": "tiny", "detection_protocol": "", "linear_protocol": ""}
    return RowResult(name=name, records=tuple(records), random_init=tuple(untrained), **plain, **told)  # type: ignore[arg-type]


def test_what_is_written_is_read_back_and_judged_the_same(tmp_path: Path) -> None:
    records = [encoder(k) for k in range(5)]
    records[0] = replace(records[0], losses=((0, 5.0), (9, 4.25)), position_only_loss=4.5)
    gone = replace(encoder(6), status="diverged", detail='loss nan, "at" step 7', performance={}, probes={})
    untrained = [record(RANDOM_INIT, RANDOM_INIT, RANDOM_INIT, 3)]
    (tmp_path / "records.csv").write_text(
        records_csv([row("one", [*records, gone], untrained), row("b", [], untrained)])
    )
    found = read_records(tmp_path / "records.csv")
    assert list(found) == ["one", "b"] and len(found["b"]) == 1
    assert found["one"][0].losses == ((-1, 4.25),) and found["one"][0].position_only_loss == 4.5
    assert math.isnan(found["one"][1].position_only_loss)
    for one, wanted in zip(found["one"], [*records, gone, *untrained], strict=True):
        same = {"losses": (), "position_only_loss": 0.0}
        assert in_full(replace(one, **same)) == in_full(replace(wanted, **same))  # type: ignore[arg-type]
    assert in_full(correlate(found["one"], "dense")) == in_full(correlate([*records, gone], "dense"))


VERSIONS = {"cl_bench": "0.1.0", "python": "3.11.7", "torch": "2.14.1+cu130", "torchvision": "0.29.1", "device": "cpu"}


def test_a_record_has_its_profile_and_where_it_comes_from(tmp_path: Path) -> None:
    records = [encoder(0, provenance={**VERSIONS, "begun": "2026-01-02", "threads": 1}), encoder(1)]
    text = records_csv([row("one", records, [])], "0123456789ab-dirty")
    first, second = csv.DictReader(io.StringIO(text))
    assert {name: first[name] for name in VERSIONS} == VERSIONS
    assert (first["profile"], first["commit"], first["gpu"]) == ("tiny", "0123456789ab-dirty", "")
    assert (second["profile"], second["torch"], second["device"]) == ("tiny", "", "")
    (tmp_path / "records.csv").write_text(text)
    assert [r.provenance for r in read_records(tmp_path / "records.csv")["one"]] == [VERSIONS, {}]


def test_tables_of_earlier_versions_are_read_too(tmp_path: Path) -> None:
    new = [*csv.DictReader(io.StringIO(records_csv([row("one", [encoder(k) for k in range(3)], [])], "abc")))]
    kept = [name for name in new[0] if name not in ("profile", *ORIGIN)]
    assert len(new[0]) - len(kept) == 1 + len(ORIGIN)
    with (tmp_path / "records.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(new)
    found = read_records(tmp_path / "records.csv")["one"]
    assert [(r.case, r.performance, r.provenance) for r in found] == [
        (r.case, r.performance, {}) for r in map(encoder, range(3))
    ]


def test_several_origins_stand_in_one_cell() -> None:
    records = [encoder(0, provenance=VERSIONS), encoder(1, provenance={**VERSIONS, "torch": "2.11.0", "gpu": "H100"})]
    told = origin([*records, encoder(2)], "")
    assert tuple(told) == ORIGIN
    assert told == {**dict.fromkeys(ORIGIN, ""), **VERSIONS, "torch": "2.11.0; 2.14.1+cu130", "gpu": "H100"}


@pytest.mark.parametrize("text", ["row,case\na,b\n", "nothing\nat all\n"])
def test_what_is_no_table_of_records_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text(text)
    with pytest.raises(ValueError, match=r"records\.csv: not a table of records: KeyError"):
        read_records(tmp_path / "records.csv")


def test_the_stamp_tells_every_value_that_occurs_once() -> None:
    provenance = {"begun": "2026-01-02", "torch": "2.14", "threads": 1}
    records = [
        encoder(0, provenance=provenance),
        encoder(1, provenance={**provenance, "begun": "2026-01-01", "threads": 2}),
    ]
    stamp = environment([row("one", records, []), row("two", records[:1], [])], "pytest suites/ --seeds 2", "abc")
    assert stamp == {
        "command": "pytest suites/ --seeds 2",
        "commit": "abc",
        "profile": "tiny",
        "seeds": [0, 1],
        "encoders": 2,
        "begun": ["2026-01-01", "2026-01-02"],
        "threads": [1, 2],
        "torch": "2.14",
    }
