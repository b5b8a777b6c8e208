"""Origins of values: each of the profiles that follow the paper says it of every value, and the plan shows it."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from rich.console import Console

from cl_bench.errors import SpecError
from cl_bench.report import origins_table
from cl_bench.spec import MethodSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import PROFILES, load_profile
from cl_bench.spec.provenance import MARKS, Origin, provenance

FOLLOWING = ("paper", "gpu", "gpu-scenes")
GRIDS = ("grid", "single_object.disjoint", "multi_object.grid", "multi_object.disjoint")
COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "grayscale": 0.2, "flip": 0.5}
STL10 = {"mean": [0.4409, 0.4279, 0.3868], "std": [0.2683, 0.2610, 0.2687]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def written(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return the values of a file by their dotted keys; an inline table is one value too."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        whole = f"{path}{key}"
        out |= {whole: value} if not isinstance(value, dict) else {whole: value, **written(value, f"{whole}.")}
    return out


@pytest.mark.parametrize("name", FOLLOWING)
def test_every_value_is_marked(name: str) -> None:
    values = written(tomllib.loads((PROFILES / f"{name}.toml").read_text()))
    marked = {origin.key: origin for origin in provenance(name)}
    assert all(origin.mark in MARKS for origin in marked.values())
    for key, value in values.items():
        inside = any(key.startswith(f"{other}.") for other in marked)
        assert inside or key in marked or isinstance(value, dict) or key == "base", key


ORIGINS: dict[str, dict[str, dict[str, Any]]] = {
    "printed": {
        "": {"seeds": 1, "measure_t": 1, "measure_scope": "same_index"},
        "encoder": {"name": "resnet18"},
        "optimiser": {"epochs": 200},
        "grid": {"negatives": "both_views", "t": 1, "scope": "same_index"},
        "single_object": {"heldout": {"name": "stl10", "split": "test"}},
        "multi_object": {"data": {"name": "coco", "split": "train2017"}},
        "linear": {"train": {"name": "stl10", "split": "train"}, "test": {"name": "stl10", "split": "test"}}
        | {"epochs": 100},
        "detection": {"train": {"name": "voc", "split": "trainval2007+2012"}, "iterations": 24_000}
        | {"test": {"name": "voc", "split": "test2007"}, "lr": 0.02, "milestones": [18 / 24, 22 / 24]},
    },
    "inherited": {
        "encoder": {"padding": "zeros", "projection": 128},
        "optimiser": {"batch": 768, "lr": 0.12 * 768 / 256, "momentum": 0.9, "weight_decay": 1e-4, "warmup": 0}
        | {"schedule": "steps", "milestones": [155 / 200, 170 / 200, 185 / 200]},
        "single_object": {"data": {"name": "stl10", "split": "train+unlabeled"}},
        "single_object.augment": {"size": 64, "scale": [0.08, 1], "jitter": 1, "hue": 0.4, **COLOURS, **STL10},
        "multi_object.optimiser": {"batch": 256, "lr": 0.3, "schedule": "cosine"},
        "multi_object.augment": {"size": 224, "scale": [0.2, 1], "jitter": 0.8, "hue": 0.1, **COLOURS, **IMAGENET}
        | {"blur": 0.5, "blur_sigma": [0.1, 2]},
        "linear": {"protocol": "augmented", "standardise": False, "size": 64, "resize": 70, "scale": [0.08, 1]}
        | {"batch": 128, "lr": 1e-3, "betas": [0.5, 0.999], "milestones": [60, 80], "gamma": 0.2, **STL10},
        "detection": {"metric": "voc07_ap", "protocol": "finetune", "batch": 16, "momentum": 0.9, "flip": 0.5}
        | {"weight_decay": 1e-4, "weight_decay_norm": 0, "warmup": 100, "warmup_start": 0.001, "precise_norm": 200}
        | {"precision": "float32", "short_sides": [*range(480, 801, 32)], "test_short_side": 800, "long_side": 1333}
        | {"anchors": [32, 64, 128, 256, 512], "aspect_ratios": [0.5, 1, 2], "roi_size": 14, "roi_aligned": True}
        | {"roi_sampling": 0, "rpn_samples": 256, "roi_samples": 512, "proposals_train": 2000}
        | {"proposals_test": 1000, **IMAGENET},
    },
    "ours": {
        "": {"random_inits": 3},
        "encoder": {"hidden": 512},
        "optimiser": {"precision": "float32", "log_every": 100},
        "grid": {"positive_in_denominator": True},
        "multi_object": {"heldout": {"name": "coco", "split": "val2017"}},
        "detection": {"detector": "torchvision"},
        "claims": {"alpha": 0.05, "margin": 1},
    },
}
"""Values that are printed, values of Wang & Isola, DenseCL, MoCo and the published data sets, and ours."""
CHOSEN = ("about", *(f"{grid}.{part}" for grid in GRIDS for part in ("temperatures", "weightings")))
"""Values of ours that are not said above: the points of the grids, of which their number is printed, and words."""


def test_each_of_several_tables_of_one_name_keeps_its_values(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'base = "smoke"  # ours\n'
        + "".join(f'[[known]]\nclaim = "{c}"  # printed: as read\nlevels = [  # ours: two\n  "a",\n]\n' for c in "xyz")
    )
    found = {origin.key: origin for origin in provenance(str(file))}
    assert [found[f"known.{place}.claim"].value for place in range(3)] == ['"x"', '"y"', '"z"']
    assert found["known.2.claim"][2:] == ("printed", "as read")
    assert found["known.1.levels"][1:] == ("[", "ours", "two")


def test_each_value_of_the_paper_s_profile_is_what_it_is_marked_as() -> None:
    expected = {
        f"{table}.{key}".lstrip("."): (value, mark)
        for mark, tables in ORIGINS.items()
        for table, values in tables.items()
        for key, value in values.items()
    }
    found = {origin.key: (tomllib.loads(f"x = {origin.value}")["x"], origin.mark) for origin in provenance("paper")}
    assert {found.pop(key)[1] for key in CHOSEN} == {"ours"}
    assert found.keys() == expected.keys()
    for key, (value, mark) in expected.items():
        assert found[key] == (close(value), mark), key


def close(value: Any) -> Any:
    """Return an object that equals a value, numbers to five digits."""
    numbers = value if isinstance(value, list | tuple) else [value]
    return pytest.approx(value, rel=1e-5) if all(isinstance(v, int | float) for v in numbers) else value


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("single_object.data", ("105k", "~103k")),
        ("multi_object.heldout", ("COCO testset",)),
        ("detection.metric", ("average precision (AP)", "MoCo")),
        ("detection.milestones", ("18k", "22k")),
        ("grid.negatives", ("cross_view", "about 12.5k")),
        ("grid.t", ("section 3", "Wang & Isola")),
        ("single_object.augment.size", ("2 x 2",)),
        ("about", ("2 x 2", "7 x 7")),
    ],
)
def test_a_value_says_what_is_printed_beside_it(key: str, words: tuple[str, ...]) -> None:
    (origin,) = [origin for origin in provenance("paper") if origin.key == key]
    assert all(word in f"{origin.value} {origin.why}" for word in words)


@pytest.mark.parametrize("name", ["gpu", "gpu-scenes"])
def test_what_departs_from_the_paper_s_profile_is_ours(name: str) -> None:
    found, paper = provenance(name), provenance("paper")
    departs = [origin for origin in found if origin not in paper]
    assert departs and {origin.mark for origin in departs} == {"ours"}
    assert {origin.key for origin in found} >= {origin.key for origin in paper}


def test_settings_come_first_and_a_hash_in_quotes_begins_no_comment(tmp_path: Path) -> None:
    text = 'base = "smoke"\nabout = "a # b" # inherited: c\n[optimiser] # x\nlr = 1 # oursish\nepochs = 2\n'
    (tmp_path / "mine.toml").write_text(text)
    found = provenance(str(tmp_path / "mine.toml"), ["optimiser.epochs=3"])
    assert found[:3] == [
        Origin("optimiser.epochs", "3", "set", "on the command line"),
        Origin("about", '"a # b"', "inherited", "c"),
        Origin("optimiser.lr", "1", "", "oursish"),
    ]
    assert "optimiser.batch" in {origin.key for origin in found}
    with pytest.raises(SpecError, match="no profile 'papr'; did you mean 'paper'"):
        provenance("papr")


@pytest.mark.parametrize("width", [80, 110])
def test_the_table_shows_key_value_mark_and_reason(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(origins_table(provenance("paper")))
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


@pytest.mark.parametrize("table", sorted({table for tables in ORIGINS.values() for table in tables if table}))
def test_what_is_written_is_what_encoders_are_trained_and_evaluated_by(table: str) -> None:
    whole = load_profile("paper")
    found = getattr(whole, table.partition(".")[0])
    if "." in table:
        found = getattr(found, table.partition(".")[2])
    written = {key: value for mark in ORIGINS.values() for key, value in mark.get(table, {}).items()}
    for key, value in written.items():
        value = tuple(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            assert {k: getattr(getattr(found, key), k) for k in value} == value
        else:
            assert getattr(found, key) == close(value), key
    coco = whole.optimiser_of("multi_object")
    assert (coco.momentum, coco.weight_decay, coco.epochs, coco.warmup) == (0.9, 1e-4, 200, 0)
    assert whole.grid_of("multi_object", "disjoint").t == 1
    assert whole.single_object.augment.blur == 0
    assert {sources.augment.ratio for sources in (whole.single_object, whole.multi_object)} == {(3 / 4, 4 / 3)}


def test_the_paper_s_data() -> None:
    profile = load_profile("paper")
    assert (profile.single_object.data.count, profile.multi_object.data.count) == (105_000, 118_287)
    assert (profile.single_object.heldout.count, profile.linear.train.count) == (8_000, 5_000)
    assert (profile.detection.train.count, profile.detection.test.count) == (16_551, 4_952)


@pytest.mark.parametrize("kind", ["single_object", "multi_object"])
def test_what_a_card_too_small_is_advised_to_set_can_be_set(kind: Any) -> None:
    from cl_bench.compute.memory import _smaller

    for name in ("paper", "gpu", "gpu-scenes"):
        profile = load_profile(name)
        spec = profile.sweep(Row(MethodSpec(name="dense_index"), kind, "overlapping"))[0]
        for stage in ("pre-training", "linear", "detection"):
            words = _smaller(stage, spec).split()
            settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            changed = load_profile(name, settings)
            assert settings and changed != profile
            other = "multi_object" if kind == "single_object" else "single_object"
            if stage == "pre-training":
                assert changed.optimiser_of(other) == profile.optimiser_of(other)  # type: ignore[arg-type]


def test_the_examples_of_the_guide_are_what_it_says(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "reproducing-the-paper.md").read_text()
    (tmp_path / "mine.toml").write_text(guide.split("```toml\n")[1].split("```")[0])
    mine, paper = load_profile(str(tmp_path / "mine.toml")), load_profile("paper")
    for kind in ("single_object", "multi_object"):
        assert mine.optimiser_of(kind).epochs == 200  # type: ignore[arg-type]
        assert getattr(mine, kind).augment == getattr(paper, kind).augment
        assert getattr(mine, kind).data == getattr(paper, kind).data
        for views in ("overlapping", "disjoint"):
            assert len(mine.grid_of(kind, views).objectives()) == 15  # type: ignore[arg-type]
    tenth = load_profile("paper", ["optimiser.epochs=20", "detection.iterations=2400"])
    assert tenth.optimiser_of("single_object").epochs == tenth.optimiser_of("multi_object").epochs == 20
