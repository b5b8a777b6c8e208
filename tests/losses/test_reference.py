"""The loss in one piece is the loss in its terms, for every objective and every form of match."""

from __future__ import annotations

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from cl_bench.losses import reference as decomposition
from cl_bench.losses.reference import whole_loss
from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import DenseViews, Match
from cl_bench.spec import AlignUniform, InfoNCE

NEGATIVES = ("both_views", "cross_view", "ntxent")
MATCHES = ("index_wise", "hard", "soft", "partial", "none")
OBJECTIVES = [
    *(
        InfoNCE(temperature=t, negatives=n, positive_in_denominator=keep)
        for t, n, keep in zip([0.07, 0.2, 1, 0.07, 0.2, 5], NEGATIVES * 2, [True] * 3 + [False] * 3, strict=True)
    ),
    AlignUniform(w_a=1, w_u=1),
    AlignUniform(w_a=0.3, w_u=2, t=1, scope="other_images"),
    AlignUniform(w_a=0, w_u=1, t=5, scope="all_pairs"),
]

shapes = st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(2, 5))
seeds = st.integers(0, 9999)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.config)


def dense_views(B, P, D, seed=0):
    z = torch.randn(2, B, P, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z1, z2 = normalize(z, dim=-1)
    norms, centres, sizes = torch.ones(B, P), torch.zeros(B, P, 2), torch.ones(B, 2)
    return DenseViews(z1, z2, z1, z2, norms, norms, centres, centres, sizes, sizes, (1, P))


def match(kind, B, P, seed=0):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(P, (B, P), generator=generator)
    weights = torch.rand(B, P, P, generator=generator, dtype=torch.float64)
    if kind == "index_wise":
        return Match(index=torch.arange(P).expand(B, P))
    if kind == "hard":
        return Match(index=index, valid=torch.rand(B, P, generator=generator) < 0.7)
    if kind == "none":
        return Match(weights=torch.zeros(B, P, P, dtype=torch.float64))
    if kind == "partial":
        weights = weights * (torch.rand(B, P, P, generator=generator) < 0.5)
    total = weights.sum(-1, keepdim=True)
    return Match(weights=torch.where(total > 0, weights / total, 0.0))


def in_terms(views, matches, objective):
    z1, z2 = views.z1, views.z2
    if isinstance(objective, InfoNCE):
        o = objective
        return float(info_nce(z1, z2, matches, o.temperature, o.negatives, o.positive_in_denominator).total)
    L_a = (alignment(z1, z2, matches[0]) + alignment(z2, z1, matches[1])) / 2
    L_u = sum(uniformity(z, objective.t, objective.scope) for z in (z1, z2)) / 2
    return float(objective.w_a * L_a + objective.w_u * L_u)


@every_objective
@settings(max_examples=20, deadline=None)
@given(shape=shapes, kinds=st.tuples(st.sampled_from(MATCHES), st.sampled_from(MATCHES)), seed=seeds)
def test_one_piece_is_the_sum_of_the_terms(objective, shape, kinds, seed):
    B, P, _ = shape
    views = dense_views(*shape, seed)
    matches = tuple(match(kind, B, P, seed + side) for side, kind in enumerate(kinds))
    assert whole_loss(views, matches, objective) == pytest.approx(
        in_terms(views, matches, objective), rel=1e-9, abs=1e-9
    )


@every_objective
@pytest.mark.parametrize("kind", MATCHES[:4])
def test_one_piece_is_the_oracle_s(objective, kind):
    views = dense_views(3, 4, 5)
    matches = match(kind, 3, 4, 1), match(kind, 3, 4, 2)
    z1, z2 = views.z1, views.z2
    forth, back = (m.dense(torch.float64).tolist() for m in matches)
    if isinstance(objective, InfoNCE):
        o = objective
        expected = oracles.info_nce(z1, z2, forth, back, o.temperature, o.negatives, o.positive_in_denominator)
    else:
        L_a = (oracles.alignment(z1, z2, forth) + oracles.alignment(z2, z1, back)) / 2
        L_u = sum(oracles.uniformity(z, objective.t, objective.scope) for z in (z1, z2)) / 2
        expected = objective.w_a * L_a + objective.w_u * L_u
    assert whole_loss(views, matches, objective) == pytest.approx(float(expected), rel=1e-9)


@every_objective
@pytest.mark.parametrize("rows", [1, 5, 12])
def test_blocks_of_anchors_add_up(objective, rows, monkeypatch):
    views, matches = dense_views(3, 4, 5), (match("partial", 3, 4, 1), match("soft", 3, 4, 2))
    whole = whole_loss(views, matches, objective)
    monkeypatch.setattr(decomposition, "ROWS", rows)
    assert whole_loss(views, matches, objective) == pytest.approx(whole, rel=1e-12)


@every_objective
def test_features_of_float32_are_taken_as_they_are(objective):
    views = dense_views(3, 4, 5)
    narrow = DenseViews(**{**vars(views), "z1": views.z1.float(), "z2": views.z2.float()})
    widened = DenseViews(**{**vars(views), "z1": narrow.z1.double(), "z2": narrow.z2.double()})
    matches = match("soft", 3, 4, 1), match("hard", 3, 4, 2)
    assert whole_loss(narrow, matches, objective) == pytest.approx(whole_loss(widened, matches, objective), rel=1e-12)


CHANGES = [
    {"temperature": 0.21},
    {"negatives": "cross_view"},
    {"negatives": "ntxent"},
    {"positive_in_denominator": False},
    {"w_a": 0.99},
    {"w_u": 0.99},
    {"t": 1.99},
    {"scope": "other_images"},
    {"scope": "all_pairs"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_it_disagrees_with_a_loss_of_another_setting(change):
    of = InfoNCE(temperature=0.2) if change.keys() <= InfoNCE.model_fields.keys() else AlignUniform(w_a=1, w_u=1)
    views, matches = dense_views(3, 4, 5), (match("soft", 3, 4, 1), match("hard", 3, 4, 2))
    other = in_terms(views, matches, of.model_copy(update=change))
    assert whole_loss(views, matches, of) == pytest.approx(in_terms(views, matches, of), rel=1e-9)
    assert abs(whole_loss(views, matches, of) - other) > 1e-4


@pytest.mark.parametrize("objective", [InfoNCE(temperature=0.2), AlignUniform(w_a=1, w_u=1)], ids=lambda o: o.family)
def test_it_disagrees_with_a_loss_of_other_features_or_matches(objective):
    views, matches = dense_views(3, 4, 5), (match("soft", 3, 4, 1), match("hard", 3, 4, 2))
    whole = whole_loss(views, matches, objective)
    for other in (matches[::-1], (matches[0], match("hard", 3, 4, 3)), (match("soft", 3, 4, 4), matches[1])):
        assert abs(in_terms(views, other, objective) - whole) > 1e-4
    for view in ("z1", "z2"):
        z = getattr(views, view).clone()
        z[1, 2] = z[1, 2].roll(1)
        assert abs(in_terms(DenseViews(**{**vars(views), view: z}), matches, objective) - whole) > 1e-4
