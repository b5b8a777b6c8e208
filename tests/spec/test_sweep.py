"""Sweeps of a profile: cases and their names, seeds, untrained encoders, known failures, power."""

from __future__ import annotations

from itertools import pairwise

import pytest
from specs import DENSE, smoke

from cl_bench.spec import InfoNCE, MethodSpec, RandomInit
from cl_bench.spec.claim import Claim
from cl_bench.spec.profile import Profile, Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.statistics.power import power


def test_cases_are_what_a_person_types():
    profile = smoke("seeds=2", "grid.temperatures=[0.1]", "grid.weightings=[[1,0.5]]", "random_inits=2")
    assert [s.case for s in profile.sweep(DENSE)] == [
        "dense_index-info_nce-t0.1-s0",
        "dense_index-align_uniform-a1-u0.5-s0",
        "dense_index-info_nce-t0.1-s1",
        "dense_index-align_uniform-a1-u0.5-s1",
    ]
    assert [s.case for s in profile.random_init()] == ["random_init-s0", "random_init-s1"]
    optioned = MethodSpec(name="emd", options=(("epsilon", 0.1), ("hard", True)))
    assert profile.sweep(DENSE._replace(method=optioned))[0].case == "emd:epsilon=0.1,hard=True-info_nce-t0.1-s0"
    assert DENSE._replace(method=optioned).name == "single_object-overlapping-emd:epsilon=0.1,hard=True"


def test_a_sweep_is_the_grid_times_the_seeds():
    profile = smoke("seeds=3", "grid.negatives=cross_view", "grid.t=3", "grid.scope=all_pairs")
    row = DENSE._replace(data="multi_object", views="disjoint")
    specs = profile.sweep(row)
    points = [(o, s) for s in range(3) for o in profile.grid.objectives()]
    assert [(x.pretrain.objective, x.pretrain.seed) for x in specs] == points
    n, m = len(profile.grid.temperatures), len(profile.grid.weightings)
    assert [o.family for o in profile.grid.objectives()] == ["info_nce"] * n + ["align_uniform"] * m
    for spec in specs:
        pretrain = spec.pretrain
        assert (pretrain.method, pretrain.data, pretrain.views) == (row.method, profile.multi_object.data, "disjoint")
        assert pretrain.augment == profile.multi_object.augment and spec.measure.data == profile.multi_object.heldout
        assert (spec.linear, spec.detection) == (profile.linear, profile.detection)
        if isinstance(pretrain.objective, InfoNCE):
            assert pretrain.objective.negatives == "cross_view"
        else:
            assert (pretrain.objective.t, pretrain.objective.scope) == (3, "all_pairs")
    for a, b in pairwise(specs):
        assert a.pretrain.model_copy(update={"objective": None, "seed": 0}) == b.pretrain.model_copy(
            update={"objective": None, "seed": 0}
        )


def test_untrained_encoders_belong_to_no_method():
    specs = smoke("random_inits=4").random_init()
    assert [s.pretrain.seed for s in specs] == [0, 1, 2, 3]
    for spec in specs:
        assert isinstance(spec.pretrain.objective, RandomInit)
        assert (spec.pretrain.method.name, spec.pretrain.method.source) == ("random_init", "")
    assert specs == smoke("random_inits=4", "grid.temperatures=[7]", "seeds=5").random_init()


def test_a_known_failure_is_found_by_everything_that_names_it():
    asked = {"method": "m:k=1", "data": "multi_object", "views": "disjoint", "claim": "tau_negative", "level": "dense"}
    reason = "too few images to tell"
    profile = Profile.model_validate({**smoke().model_dump(), "known": [{**asked, "reason": reason}]})

    def find(method=MethodSpec(name="m", options=(("k", 1),)), **changes):  # noqa: B008
        a = {**asked, **changes}
        return profile.known_failures(Row(method, a["data"], a["views"])).get(Claim(a["claim"], a["level"]))

    assert find() == reason
    assert find(method=MethodSpec(name="m")) is None
    for change in (
        {"data": "single_object"},
        {"views": "overlapping"},
        {"claim": "tau_not_negative"},
        {"level": "instance"},
    ):
        assert find(**change) is None
    assert smoke().known_failures(DENSE) == {}


@pytest.mark.parametrize("data", ["single_object", "multi_object"])
@pytest.mark.parametrize("views", ["overlapping", "disjoint"])
def test_the_profile_desk_trains_longer_and_has_power_at_the_papers_own_tau(data, views):
    profile = load_profile("desk")
    n = len(profile.sweep(Row(DENSE.method, data, views)))
    assert n >= 40 and power(n, -0.28) >= 0.8
    assert profile.optimiser_of(data).epochs > load_profile("smoke").optimiser_of(data).epochs
