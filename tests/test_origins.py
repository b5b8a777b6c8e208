"""Where values come from: each of the profiles that follow the paper says it of every value, and the plan shows it."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cl_bench.errors import SpecError
from cl_bench.origins import MARKS, Origin, origins
from cl_bench.profile import PROFILES, Row, load_profile
from cl_bench.report import origins_table
from cl_bench.spec import MethodSpec

FOLLOWING = ("paper", "gpu", "gpu-scenes")


def written(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    """The values of a file by the keys under which its lines write them: an inline table is one value."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        whole = f"{path}{key}"
        out |= {whole: value} if not isinstance(value, dict) else {whole: value, **written(value, f"{whole}.")}
    return out


@pytest.mark.parametrize("name", FOLLOWING)
def test_every_value_is_marked(name: str) -> None:
    values = written(tomllib.loads((PROFILES / f"{name}.toml").read_text()))
    marked = {origin.key: origin for origin in origins(name)}
    assert all(origin.mark in MARKS for origin in marked.values())
    for key, value in values.items():
        inside = any(key.startswith(f"{other}.") for other in marked)
        assert inside or key in marked or isinstance(value, dict) or key == "base", key


def test_what_the_paper_printed_is_so_marked_and_what_departs_from_it_is_ours() -> None:
    found = {origin.key: origin for origin in origins("paper")}
    printed = {"optimiser.epochs": "200", "linear.epochs": "100", "detection.iterations": "24000"}
    for key, value in printed.items():
        assert found[key][1:3] == (value, "printed")
    assert found["optimiser.lr"].mark == "inherited" and "Wang & Isola" in found["optimiser.lr"].why
    gpu = {origin.key: origin for origin in origins("gpu")}
    assert gpu["optimiser.epochs"][1:3] == ("10", "ours")
    assert gpu["optimiser.lr"] == found["optimiser.lr"]  # of the base
    assert all(origin.mark == "ours" for key, origin in gpu.items() if origin not in found.values())


def test_settings_come_first_and_a_hash_in_quotes_begins_no_comment(tmp_path: Path) -> None:
    text = 'base = "smoke"\nabout = "a # b" # inherited: c\n[optimiser] # x\nlr = 1 # oursish\nepochs = 2\n'
    (tmp_path / "mine.toml").write_text(text)
    found = origins(str(tmp_path / "mine.toml"), ["optimiser.epochs=3"])
    assert found[:3] == [
        Origin("optimiser.epochs", "3", "set", "on the command line"),
        Origin("about", '"a # b"', "inherited", "c"),
        Origin("optimiser.lr", "1", "", "oursish"),
    ]
    assert "optimiser.batch" in {origin.key for origin in found}
    with pytest.raises(SpecError, match="no profile 'papr'; did you mean 'paper'"):
        origins("papr")


@pytest.mark.parametrize("width", [80, 110])
def test_the_table_shows_key_value_mark_and_reason(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(origins_table(origins("paper")))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    (line,) = [line for line in text.splitlines() if line.startswith("optimiser.batch")]
    assert line.split()[:3] == ["optimiser.batch", "768", "inherited"] and "Wang & Isola" in line
    assert all(len(line) <= width for line in text.splitlines())


def test_the_paper_s_counts() -> None:
    profile = load_profile("paper")
    dense, instance = MethodSpec(name="dense_index"), MethodSpec(name="instance", level="instance")

    def count(method: MethodSpec, data: Any, views: Any) -> dict[str, int]:
        families = [spec.pretrain.objective.family for spec in profile.sweep(Row(method, data, views))]
        return {family: families.count(family) for family in ("align_uniform", "info_nce")}

    for method in (dense, instance):
        assert count(method, "single_object", "overlapping") == {"align_uniform": 70, "info_nce": 30}
        assert count(method, "multi_object", "overlapping") == {"align_uniform": 40, "info_nce": 20}
    assert sum(count(dense, "single_object", "disjoint").values()) == 46
    assert sum(count(dense, "multi_object", "disjoint").values()) == 12


def test_the_paper_s_recipes() -> None:
    profile = load_profile("paper")
    stl, coco = profile.optimiser_of("single_object"), profile.optimiser_of("multi_object")
    assert (stl.batch, stl.lr, stl.schedule, stl.epochs) == (768, pytest.approx(0.12 * 768 / 256), "steps", 200)
    assert [round(m * 200) for m in stl.milestones] == [155, 170, 185]
    assert (coco.batch, coco.lr, coco.schedule, coco.epochs, coco.warmup) == (256, 0.3, "cosine", 200, 0)
    assert profile.single_object.data.count == 105_000 and profile.multi_object.data.count == 118_287
    assert (profile.single_object.augment.size, profile.multi_object.augment.size) == (64, 224)
    linear, detection = profile.linear, profile.detection
    assert (linear.protocol, linear.standardise, linear.size, linear.resize) == ("augmented", False, 64, 70)
    assert (detection.metric, detection.protocol, detection.batch, detection.lr) == ("voc07_ap", "finetune", 16, 0.02)
    assert detection.train.count == 16_551 and detection.test.count == 4_952
    assert detection.short_sides == tuple(range(480, 801, 32))
