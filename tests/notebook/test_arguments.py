"""Arguments of the functions for a notebook that are of another type, and claims that do not exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import cl_bench
from cl_bench import Claim
from cl_bench.errors import SpecError

DOWN = Claim("tau_negative", "instance")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cl_bench.judge([], "tau_negative"), r"^claim takes a Claim, as Claim\('tau_negative', 'dense'\), got"),
        (lambda: cl_bench.judge(None, DOWN), r"^records takes records, as of cl_bench.run\(\) .*, got None"),
        (lambda: cl_bench.judge(["x"], DOWN), r"^records takes records, .*, got 'x'"),
        (lambda: cl_bench.judge([], DOWN, alpha="5 %"), r"^alpha takes a number, got '5 %'"),
        (lambda: cl_bench.judge([], DOWN, alpha=True), r"^alpha takes a number, got True"),
        (lambda: cl_bench.judge([], DOWN, alpha=5), r"^alpha must be above 0 and below 0.5, got 5"),
        (lambda: cl_bench.judge([], DOWN, twin=[3]), r"^twin takes records, .*, got 3"),
        (lambda: cl_bench.run("smoke"), r"^spec takes one encoder .*: profile='smoke', got 'smoke'"),
        (lambda: cl_bench.run(profile=None), r"^profile takes the name of a profile or a TOML file, got None"),
        (lambda: cl_bench.run(seeds=3.5), r"^seeds takes a number, or text as '3:8', got 3.5"),
        (lambda: cl_bench.run(jobs="two"), r"^jobs takes a number of processes, got 'two'"),
        (lambda: cl_bench.run(views=None), r"^views takes a name, got None"),
        (lambda: cl_bench.load_records(None), r"^store takes a folder, got None"),
        (lambda: cl_bench.load_records("results", 3), r"^profile takes the name .*, got 3"),
        (lambda: cl_bench.load_encoder("results", 3), r"^case takes a case id, a key or a record, got 3"),
    ],
)
def test_an_argument_of_another_type_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value) and not [*tmp_path.iterdir()]


def test_a_claim_that_is_none_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no kind of claim 'tau_negativ'; did you mean 'tau_negative'\?; kinds: "):
        cl_bench.Claim("tau_negativ", "dense")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no level of claim 'dens'; did you mean 'dense'\?; levels: instance, dense"):
        cl_bench.Claim("tau_negative", "dens")  # type: ignore[arg-type]
