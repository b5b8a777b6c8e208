"""Keys of stages: what tells two runs apart, and what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from specs import DENSE, STAGES, first, keys, smoke

from cl_bench.spec import MethodSpec, PretrainSpec, RunSpec
from cl_bench.spec.pretraining import BFLOAT16_RECIPE, RECIPE

SETTINGS = [
    (("optimiser.lr=0.517",), {"pretrain"}),
    (("encoder.hidden=67",), {"pretrain"}),
    (("grid.negatives=ntxent",), {"pretrain"}),
    (("single_object.augment.flip=0.53",), {"pretrain"}),
    (("single_object.data.images=517",), {"pretrain"}),
    (("single_object.heldout.seed=57",), {"measure"}),
    (("measure_t=2.7",), {"measure"}),
    (("measure_scope=all_pairs",), {"measure"}),
    (("linear.epochs=37",), {"linear"}),
    (("linear.standardise=false",), {"linear"}),
    (("detection.anchors=[8, 17]",), {"detection"}),
    (("about=other words",), set()),
    (("claims.alpha=0.017",), set()),
    (("seeds=4", "random_inits=9"), set()),
    (("multi_object.data.images=512", "multi_object.heldout.images=64"), set()),
    (("grid.scope=all_pairs", "grid.t=3"), set()),  # of the other family
]


@pytest.mark.parametrize(("settings", "changed"), SETTINGS, ids=lambda x: ",".join(sorted(x)) or "nothing")
def test_a_stage_s_key_changes_when_a_setting_of_its_own_does(settings, changed):
    before, after = keys(first()), keys(first(*settings))
    assert {stage for stage in STAGES if before[stage] != after[stage]} == changed


def test_a_number_is_the_same_however_it_is_written():
    assert (
        first("optimiser.lr=0.5", "grid.temperatures=[1]").key
        == first("optimiser.lr=5e-1", "grid.temperatures=[1.0]").key
    )


def test_the_method_and_the_row_are_part_of_the_key():
    rows = [
        DENSE,
        DENSE._replace(data="multi_object"),
        DENSE._replace(views="disjoint"),
        *(DENSE._replace(method=DENSE.method.model_copy(update=u)) for u in ({"name": "b"}, {"source": "b"})),
        DENSE._replace(method=DENSE.method.model_copy(update={"options": (("k", 1),)})),
        DENSE._replace(method=DENSE.method.model_copy(update={"level": "instance"})),
    ]
    assert len({first(row=row).pretrain.key for row in rows}) == len(rows)


OTHER = dict(
    pair
    for a, b in [
        ("single_object", "multi_object"),
        ("train", "test"),
        ("overlapping", "disjoint"),
        ("small_cnn", "resnet18"),
        ("cosine", "steps"),
        ("both_views", "ntxent"),
        ("dense", "instance"),
        ("dense_index", "another"),
        ("float32", "bfloat16"),
        ("a", "b"),
        ("zeros", "reflect"),
        ("sgd", "adam"),
        ("any", "same"),
    ]
    for pair in ((a, b), (b, a))
)


def leaves(tree, path=()):
    if isinstance(tree, dict | list):
        for k, v in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(v, (*path, k))
    else:
        yield path, tree


def another(value):
    if value is None:
        return 32
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return OTHER[value]
    return value + 8 if isinstance(value, int) else value * 0.9 + 0.013


def test_training_in_bfloat16_has_a_recipe_of_its_own():
    spec = first().pretrain
    raw = spec.model_dump(mode="json")
    assert spec.recipe == raw.pop("recipe") == RECIPE
    raw["optimiser"]["precision"] = "bfloat16"
    half = PretrainSpec.model_validate(raw)
    assert half.recipe == BFLOAT16_RECIPE != RECIPE
    assert PretrainSpec(**{**dict(spec), "optimiser": half.optimiser, "recipe": 1}).recipe == 1, "as it was kept"
    assert PretrainSpec(**{k: v for k, v in dict(half).items() if k != "recipe"}) == half


def test_every_field_of_a_pre_training_is_part_of_its_key():
    spec = first("single_object.data.height=[0.3, 0.4]").pretrain
    assert {path[0] for path, _ in leaves(spec.model_dump(mode="json"))} == PretrainSpec.model_fields.keys()
    seen = {spec.key}
    for path, value in leaves(spec.model_dump(mode="json")):
        if path in (("data", "name"), ("objective", "family")):  # one choice, or what says which fields there are
            continue
        raw = spec.model_dump(mode="json")
        place = raw
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = another(value)
        seen.add(PretrainSpec.model_validate(raw).key)
    assert len(seen) == 1 + sum(1 for _ in leaves(spec.model_dump(mode="json"))) - 2 > 35


def test_the_objectives_of_a_grid_and_the_seeds_have_keys_of_their_own():
    profile = smoke("seeds=3")
    specs = [*profile.sweep(DENSE), *profile.random_init()]
    assert len({s.pretrain.key for s in specs}) == len({s.case for s in specs}) == len(specs)
    assert len({s.key for s in specs}) == len(specs)


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_keys_are_the_same_in_every_process(hash_seed):
    code = "from cl_bench.spec import *; from specs import *; print(first().key, first().pretrain.key)"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    fresh = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert fresh.stdout.split() == [first().key, first().pretrain.key]


@pytest.mark.parametrize("options", [(), (("flag", True), ("n", 1), ("x", 1.0), ("text", "1"), ("none", "True"))])
def test_a_run_survives_json(options):
    row = DENSE._replace(method=MethodSpec(name="m", options=options, source="a"))
    profile = smoke("seeds=2")
    for spec in (*profile.sweep(row), *profile.random_init()):
        again = RunSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json"))))
        assert again == spec and again.key == spec.key
        assert repr(again) == repr(spec)  # True is not 1, and 1 is not 1.0


def test_specs_are_frozen_and_hashable():
    spec = first()
    assert len({spec, first()}) == 1
    with pytest.raises(ValueError, match="frozen"):
        spec.pretrain.optimiser.lr = 1.0
