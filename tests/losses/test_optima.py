"""The least loss of features that know only their place, against the losses themselves and against a search."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from helpers import rng, some
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.losses.optima import position_only_loss
from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.spec import AlignUniform, InfoNCE

NEGATIVES = ("both_views", "cross_view", "ntxent")
SCOPES = ("same_index", "other_images", "all_pairs")
INFO_NCE = st.builds(
    InfoNCE,
    temperature=st.sampled_from([0.02, 0.05, 0.2, 0.5, 1.0, 5.0]),
    negatives=st.sampled_from(NEGATIVES),
    positive_in_denominator=st.booleans(),
)
ALIGN_UNIFORM = st.builds(
    AlignUniform,
    w_a=st.sampled_from([0.0, 0.1, 1.0]),
    w_u=st.sampled_from([0.0, 0.5, 1.0]),
    t=st.sampled_from([0.5, 1.0, 2.0]),
    scope=st.sampled_from(SCOPES),
)


def loss(objective, places, batch):
    """Of features (P, D) that every image and view has."""
    z = places.expand(batch, *places.shape)
    if isinstance(objective, InfoNCE):
        knobs = objective.temperature, objective.negatives, objective.positive_in_denominator
        return info_nce(z, z, None, *knobs).total
    return objective.w_a * alignment(z, z) + objective.w_u * uniformity(z, objective.t, objective.scope)


def simplex(cells, dimensions):
    """Corners at equal distances around the origin."""
    corners = torch.eye(cells, dimensions, dtype=torch.float64)
    corners[:, :cells] -= 1 / cells
    return torch.nn.functional.normalize(corners, dim=-1)


@some(60)
@given(st.one_of(INFO_NCE, ALIGN_UNIFORM), st.integers(2, 6), st.integers(2, 9))
def test_it_is_the_loss_of_a_regular_simplex(objective, batch, cells):
    expected = float(loss(objective, simplex(cells, 12), batch))
    assert position_only_loss(objective, batch, cells) == pytest.approx(expected, abs=1e-9)


OBJECTIVES = [
    InfoNCE(temperature=t, negatives=n, positive_in_denominator=kept)
    for t, n, kept in product((0.2, 5.0), NEGATIVES, (True, False))
] + [AlignUniform(w_a=1.0, w_u=w, scope=scope) for w, scope in product((0.5, 1.0), SCOPES)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_no_search_from_random_places_goes_below(objective):
    batch, cells = 3, 4
    least = position_only_loss(objective, batch, cells)
    places = torch.randn(cells, 6, generator=rng(1), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([places], 0.1)
    for _ in range(100):
        value = loss(objective, torch.nn.functional.normalize(places, dim=-1), batch)
        assert value.item() >= least - 1e-9
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert value.item() == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize(("temperature", "cells", "value"), [(0.5, 4, 5.03), (0.2, 4, 4.85), (0.5, 9, 5.46)])
def test_it_is_where_encoders_with_zero_padding_were_seen_to_stand(temperature, cells, value):
    """Small CNN and ResNet-18 at batch 64, to the digits that were noted of their losses."""
    assert position_only_loss(InfoNCE(temperature=temperature), 64, cells) == pytest.approx(value, abs=0.005)


@some(50)
@given(INFO_NCE, ALIGN_UNIFORM, st.integers(2, 300), st.integers(2, 60))
def test_it_lies_between_knowing_nothing_and_the_best_there_is(contrast, spread, batch, cells):
    terms = 2 * batch * cells  # at least as many as in any denominator
    assert 0 <= position_only_loss(contrast, batch, cells) <= math.log(terms)
    found = position_only_loss(spread, batch, cells)
    assert -spread.w_a - 4 * spread.t * spread.w_u <= found <= -spread.w_a + 1e-12
    if spread.scope == "same_index":
        assert found == -spread.w_a


@pytest.mark.parametrize("objective", [InfoNCE(temperature=0.2), AlignUniform(w_a=1.0, w_u=1.0)], ids=str)
def test_one_cell_has_no_place_to_know(objective):
    assert math.isnan(position_only_loss(objective, 64, 1))
