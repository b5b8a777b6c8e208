"""The losses against loops, against foreign references, in closed form, and in their corners."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import oracles
import pytest
import torch
from helpers import some
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import Match

NEGATIVES = ("both_views", "cross_view", "ntxent")
SCOPES = ("same_index", "other_images", "all_pairs")
MATCHES = ("index_wise", "hard", "partial", "soft", "both_ways")

close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-7)
seeds = st.integers(0, 9999)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 5))
temperatures = st.sampled_from([0.05, 0.2, 1.0, 10.0])


def vectors(*shape, seed=0, dtype=torch.float64):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(x, dim=-1).to(dtype)


class Case(NamedTuple):
    """A match as it is given, and what the oracle is given in its place."""

    match: Match | tuple[Match, Match] | None
    forth: list
    back: list


def sparse_weights(B, P, seed):
    """Rows of several positives, of one, and of none."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand(B, P, P, generator=generator, dtype=torch.float64)
    w *= torch.rand(B, P, P, generator=generator) < 0.5
    rows = w.sum(-1, keepdim=True)
    return torch.where(rows > 0, w / rows, 0.0)


def case(kind, B, P, seed):
    generator = torch.Generator().manual_seed(seed)
    match = None
    if kind == "hard":
        index = torch.randint(P, (B, P), generator=generator)
        match = Match(index=index, valid=torch.rand(B, P, generator=generator) < 0.7)
        forth = [
            [[float(ok and q == k) for q in range(P)] for k, ok in zip(*image, strict=True)]
            for image in zip(index.tolist(), match.valid.tolist(), strict=True)
        ]
    elif kind == "soft":
        w = torch.randn(B, P, P, generator=generator, dtype=torch.float64).softmax(-1)
        match, forth = Match(weights=w), w.tolist()
    elif kind in ("partial", "both_ways"):
        w = sparse_weights(B, P, seed)
        match, forth = Match(weights=w), w.tolist()
    else:
        forth = oracles.identity(B, P)
    if kind == "both_ways":  # two matches that know nothing of each other
        w = sparse_weights(B, P, seed + 1)
        return Case((match, Match(weights=w)), forth, w.tolist())
    return Case(match, forth, oracles.reversed_weights(forth))


def with_gradient(f, *raw):
    """Value and gradients of f(unit vectors) with respect to the raw vectors.

    Through normalisation, because the formulas only promise to agree on the sphere.
    """
    raw = [x.detach().clone().requires_grad_() for x in raw]
    value = f(*(normalize(x, dim=-1) for x in raw))
    # A path of zeros to every leaf, where no anchor takes part.
    return value.detach(), torch.autograd.grad(value + sum(0 * x.sum() for x in raw), raw)


def assert_same(f, reference, *raw):
    value, grads = with_gradient(f, *raw)
    expected, references = with_gradient(reference, *raw)
    close(value, expected)
    for grad, reference_grad in zip(grads, references, strict=True):
        close(grad, reference_grad)


# Against loops


@some(60)
@given(shape=shapes, kind=st.sampled_from(MATCHES[:4]), seed=seeds)
def test_alignment_is_the_oracle_s(shape, kind, seed):
    z1, z2 = vectors(2, *shape, seed=seed)
    c = case(kind, *shape[:2], seed)
    assert_same(lambda a, b: alignment(a, b, c.match), lambda a, b: oracles.alignment(a, b, c.forth), z1, z2)


@pytest.mark.parametrize("scope", SCOPES)
@some(20)
@given(shape=shapes, flat=st.booleans(), t=st.sampled_from([0.1, 1.0, 2.0, 20.0]), seed=seeds)
def test_uniformity_is_the_oracle_s(scope, shape, flat, t, seed):
    B, P, D = shape
    P = 1 if flat else P
    assume(B > 1 or (scope == "all_pairs" and P > 1))
    z = vectors(*((B, D) if flat else (B, P, D)), seed=seed)
    assert_same(lambda z: uniformity(z, t, scope), lambda z: oracles.uniformity(z, t, scope), z)


@pytest.mark.parametrize("kind", MATCHES)
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
@some(8)
@given(shape=shapes, flat=st.booleans(), temperature=temperatures, seed=seeds)
def test_info_nce_is_the_oracle_s_term_by_term(negatives, keep_positive, kind, shape, flat, temperature, seed):
    B, P, D = (shape[0], 1, shape[2]) if flat else shape
    assume(B * P > 1)
    z1, z2 = vectors(2, *((B, D) if flat else (B, P, D)), seed=seed)
    c = case(kind, B, P, seed)
    options = {"temperature": temperature, "negatives": negatives, "positive_in_denominator": keep_positive}
    try:
        oracles.info_nce_terms(z1, z2, c.forth, c.back, **options)
    except oracles.NoNegativesError:
        with pytest.raises(ValueError, match="negatives"):
            info_nce(z1, z2, c.match, **options)
        return
    for term in (0, 1):
        name = ("alignment", "distribution")[term]
        assert_same(
            lambda a, b, name=name: getattr(info_nce(a, b, c.match, **options), name),
            lambda a, b, term=term: oracles.info_nce_terms(a, b, c.forth, c.back, **options)[term],
            z1,
            z2,
        )


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
@some(15)
@given(
    shape=st.tuples(st.integers(2, 3), st.integers(1, 3), st.integers(2, 5)),
    kind=st.sampled_from(MATCHES),
    temperature=temperatures,
    seed=seeds,
)
def test_the_terms_sum_to_the_loss_written_as_minus_log_p(negatives, keep_positive, shape, kind, temperature, seed):
    z1, z2 = vectors(2, *shape, seed=seed)
    c = case(kind, *shape[:2], seed)
    options = {"temperature": temperature, "negatives": negatives, "positive_in_denominator": keep_positive}
    terms = info_nce(z1, z2, c.match, **options)
    expected = oracles.info_nce(z1, z2, c.forth, c.back, **options)
    size = terms.alignment.abs() + terms.distribution.abs()
    assert abs(terms.total - expected) <= 1e-6 * size
    assert torch.equal(terms.total, terms.alignment + terms.distribution)


# Foreign references


@some(20)
@given(shape=shapes, temperature=temperatures, seed=seeds)
def test_ntxent_is_cross_entropy_on_flattened_features(shape, temperature, seed):
    assume(shape[0] * shape[1] > 1)
    z1, z2 = vectors(2, *shape, seed=seed)

    def reference(a, b):
        z = torch.cat([a.reshape(-1, shape[-1]), b.reshape(-1, shape[-1])])
        n = len(z) // 2
        logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
        return cross_entropy(logits, torch.arange(2 * n).roll(n))

    value, grads = with_gradient(lambda a, b: info_nce(a, b, temperature=temperature, negatives="ntxent").total, z1, z2)
    expected, references = with_gradient(reference, z1, z2)
    for x, y in ((value, expected), *zip(grads, references, strict=True)):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5)])
def test_cross_view_is_cross_entropy_both_ways(shape):
    z1, z2 = vectors(2, *shape)
    logits = z1.flatten(0, -2) @ z2.flatten(0, -2).T / 0.2
    target = torch.arange(len(logits))
    expected = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    close(info_nce(z1, z2, negatives="cross_view").total, expected)


def test_wang_and_isola_s_two_functions():
    z1, z2 = vectors(2, 9, 6)
    close((z1 - z2).norm(dim=1).pow(2).mean(), 2 + 2 * alignment(z1, z2))
    close(torch.pdist(z1).pow(2).mul(-2).exp().mean().log(), uniformity(z1, t=2.0))


# Closed forms


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize(("B", "P"), [(4, 1), (3, 4), (1, 5)])
def test_info_nce_of_equal_vectors_counts_the_terms(B, P, negatives, keep_positive):
    z = vectors(1, 1, 5).expand(B, P, 5)
    terms = {"both_views": 2 * (B - 1) * P + P, "cross_view": B * P, "ntxent": 2 * B * P - 1}[negatives]
    loss = info_nce(z, z, temperature=0.5, negatives=negatives, positive_in_denominator=keep_positive)
    n = terms if keep_positive else terms - 1
    close(loss.total, torch.tensor(math.log(n)).double())
    close(loss.alignment, torch.tensor(-2.0).double())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("t", [0.5, 1.0, 2.0, 50.0])
def test_uniformity_of_two_antipodes(t, scope):
    x = vectors(1, 5)
    close(uniformity(torch.cat([x, -x]), t, scope), torch.tensor(-4 * t).double())


@pytest.mark.parametrize("scope", SCOPES)
def test_uniformity_of_equal_vectors_is_zero(scope):
    close(uniformity(vectors(1, 1, 5).expand(4, 3, 5), scope=scope), torch.tensor(0.0).double())


@some(15)
@given(shape=shapes, seed=seeds)
def test_features_of_the_cell_alone_are_not_uniform_at_the_same_index(shape, seed):
    B, P, D = shape
    z = vectors(1, P, D, seed=seed).expand(B + 1, P, D)
    close(uniformity(z), torch.tensor(0.0).double())
    if P > 1:  # what the scope is for: other scopes take the position for spread
        assert uniformity(z, scope="all_pairs") < 0
        assert uniformity(z, scope="other_images") < 0


@some(15)
@given(shape=shapes, seed=seeds)
def test_alignment_of_pairs(shape, seed):
    z, other = vectors(2, *shape, seed=seed)
    close(alignment(z, z), torch.tensor(-1.0).double())
    close(alignment(z, -z), torch.tensor(1.0).double())
    close((z - other).square().sum(-1).mean(), 2 + 2 * alignment(z, other))


@pytest.mark.parametrize("keep_positive", [True, False])
def test_two_orthogonal_images_by_hand(keep_positive):
    # exp(1 / temperature) = 3: the positive weighs 3, each of the two negatives 1.
    z = torch.eye(2).double()
    loss = info_nce(z, z, temperature=1 / math.log(3), positive_in_denominator=keep_positive)
    close(loss.alignment, torch.tensor(-math.log(3)).double())
    close(loss.distribution, torch.tensor(math.log(5 if keep_positive else 2)).double())


# Symmetries


def every_value(z1, z2, match, **options):
    yield alignment(z1, z2, match)
    for scope in SCOPES:
        yield uniformity(z1, scope=scope)
    for negatives in NEGATIVES:
        for keep in (True, False):
            terms = info_nce(z1, z2, match, negatives=negatives, positive_in_denominator=keep, **options)
            yield from (terms.alignment, terms.distribution)


@some(10)
@given(B=st.integers(2, 4), D=st.integers(2, 5), seed=seeds)
def test_one_cell_an_image_is_the_instance_level(B, D, seed):
    z1, z2 = vectors(2, B, D, seed=seed)
    match = Match(index=torch.zeros(B, 1, dtype=torch.int64))
    for m in (None, match):
        for flat, dense in zip(every_value(z1, z2, m), every_value(z1[:, None], z2[:, None], m), strict=True):
            assert torch.equal(flat, dense)


@some(10)
@given(
    shape=st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(2, 5)),
    kind=st.sampled_from(MATCHES[:4]),
    seed=seeds,
)
def test_a_rotation_or_another_order_of_images_changes_nothing(shape, kind, seed):
    z1, z2 = vectors(2, *shape, seed=seed)
    weights = torch.tensor(case(kind, *shape[:2], seed).forth).double()
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(shape[-1], shape[-1], generator=generator, dtype=torch.float64))
    order = torch.randperm(shape[0], generator=generator)
    plain = list(every_value(z1, z2, Match(weights=weights)))
    rotated = every_value(z1 @ rotation, z2 @ rotation, Match(weights=weights))
    ordered = every_value(z1[order], z2[order], Match(weights=weights[order]))
    for x, y, z in zip(plain, rotated, ordered, strict=True):
        close(x, y)
        close(x, z)


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_the_views_may_change_places(negatives, keep_positive):
    z1, z2 = vectors(2, 3, 4, 5)
    forth, back = case("both_ways", 3, 4, 0).match
    options = {"negatives": negatives, "positive_in_denominator": keep_positive}
    here, there = info_nce(z1, z2, (forth, back), **options), info_nce(z2, z1, (back, forth), **options)
    close(here.alignment, there.alignment)
    close(here.distribution, there.distribution)


@pytest.mark.parametrize("kind", ["hard", "partial", "soft"])
def test_one_match_gives_the_way_back_by_its_reverse(kind):
    z1, z2 = vectors(2, 3, 4, 5)
    match = case(kind, 3, 4, 0).match
    close(info_nce(z1, z2, match).total, info_nce(z1, z2, (match, match.reversed())).total)


def test_layout_does_not_matter():
    maps = vectors(2, 3, 6, 4).mT.contiguous().mT  # (view, image, channel, cell), as a backbone gives it, seen as cells
    for x, y in zip(every_value(*maps, None), every_value(*maps.contiguous(), None), strict=True):
        assert not maps.is_contiguous()
        close(x, y)


# Corners


def degenerate(name):
    a, b = vectors(2, 1, 1, 4, seed=3)
    return {
        "one image of several cells": (vectors(1, 4, 4, seed=1), vectors(1, 4, 4, seed=2)),
        "one cell": (vectors(4, 1, 4, seed=1), vectors(4, 1, 4, seed=2)),
        "duplicates": (a.expand(3, 2, 4), a.expand(3, 2, 4)),
        "views antipodal": (a.expand(3, 2, 4), -a.expand(3, 2, 4)),
        "images antipodal": (torch.cat([a, -a]).expand(2, 2, 4), torch.cat([b, -b]).expand(2, 2, 4)),
    }[name]


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize(
    "name", ["one image of several cells", "one cell", "duplicates", "views antipodal", "images antipodal"]
)
def test_degenerate_batches(name, negatives, keep_positive, temperature):
    z1, z2 = degenerate(name)
    weights = oracles.identity(*z1.shape[:2])
    options = {"temperature": temperature, "negatives": negatives, "positive_in_denominator": keep_positive}
    assert_same(
        lambda a, b: info_nce(a, b, **options).total,
        lambda a, b: oracles.info_nce(a, b, weights, weights, **options),
        z1,
        z2,
    )


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_an_anchor_without_positive_takes_no_part_but_stays_a_negative(negatives, keep_positive):
    z1, z2 = vectors(2, 3, 2, 4)
    valid = torch.tensor([[True, False], [False, False], [True, True]])
    match = Match(index=torch.tensor([[1, 0], [0, 1], [0, 0]]), valid=valid)
    options = {"negatives": negatives, "positive_in_denominator": keep_positive}
    moved = torch.stack([z2[0], -z2[1], z2[2]])  # image 1 has no anchor in either view
    plain, other = info_nce(z1, z2, match, **options), info_nce(z1, moved, match, **options)
    close(plain.alignment, other.alignment)
    assert abs(plain.distribution - other.distribution) > 1e-3
    _, grads = with_gradient(lambda a, b: info_nce(a, b, match, **options).alignment, z1, z2)
    assert (grads[0][~valid] == 0).all()


@pytest.mark.parametrize("form", ["index", "weights"])
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 2, 4), (3, 1, 4)])
def test_no_positive_at_all_is_zero_with_zero_gradient(shape, negatives, keep_positive, form):
    B, P, _ = shape
    match = (
        Match(weights=torch.zeros(B, P, P))
        if form == "weights"
        else Match(index=torch.zeros(B, P, dtype=torch.int64), valid=torch.zeros(B, P, dtype=torch.bool))
    )
    z1, z2 = (z.requires_grad_() for z in vectors(2, *shape).clone().unbind())
    loss = info_nce(z1, z2, match, negatives=negatives, positive_in_denominator=keep_positive)
    aligned = alignment(z1, z2, match)
    for term in (loss.alignment, loss.distribution, aligned):
        assert term == 0
    for grad in torch.autograd.grad(loss.total + aligned, (z1, z2)):
        assert (grad == 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("shape", [(3, 1, 4), (1, 3, 4)])
def test_no_nan_is_born_on_the_way_back(shape, negatives):
    # One cell an image: nothing is left of an anchor's own image; one image: nothing of others. Both are empty sums.
    z1, z2 = vectors(2, *shape).requires_grad_().unbind()
    with torch.autograd.detect_anomaly():
        info_nce(z1, z2, negatives=negatives, positive_in_denominator=False).total.backward()


def test_one_anchor_of_one_image_by_hand():
    z1, z2 = vectors(2, 1, 2, 4)
    forth = Match(index=torch.tensor([[0, 1]]), valid=torch.tensor([[True, False]]))
    loss = info_nce(z1, z2, forth, negatives="cross_view", positive_in_denominator=False)
    s = z1[0] @ z2[0].T / 0.2
    close(loss.alignment, -s[0, 0])
    close(loss.distribution, (s[0, 1] + s[1, 0]) / 2)


@pytest.mark.parametrize("temperature", [0.01, 100.0])
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("name", ["random", "duplicates", "views antipodal", "images antipodal"])
def test_extreme_temperatures_are_finite_and_right_in_float32(name, negatives, keep_positive, temperature):
    z1, z2 = vectors(2, 6, 4, 8) if name == "random" else degenerate(name)
    options = {"temperature": temperature, "negatives": negatives, "positive_in_denominator": keep_positive}
    narrow = [z.float().requires_grad_() for z in (z1, z2)]
    loss = info_nce(*narrow, **options)
    expected = info_nce(z1, z2, **options)
    for term in ("alignment", "distribution"):
        torch.testing.assert_close(getattr(loss, term).double(), getattr(expected, term), rtol=1e-5, atol=1e-4)
    for grad in torch.autograd.grad(loss.total, narrow):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("t", [1e-3, 100.0])
def test_extreme_kernels_are_finite_and_in_range_in_float32(scope, t):
    z = vectors(6, 4, 8, dtype=torch.float32).requires_grad_()
    value = uniformity(z, t, scope)
    assert -4 * t <= value <= 0
    assert torch.isfinite(torch.autograd.grad(value, z)[0]).all()


@pytest.mark.parametrize("kind", MATCHES)
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_bfloat16_features_come_close(negatives, keep_positive, kind):
    z1, z2 = vectors(2, 4, 3, 16)
    c = case(kind, 4, 3, 0)
    options = {"negatives": negatives, "positive_in_denominator": keep_positive}
    narrow = [z.bfloat16().requires_grad_() for z in (z1, z2)]
    loss, expected = info_nce(*narrow, c.match, **options), info_nce(z1, z2, c.match, **options)
    for term in ("alignment", "distribution"):
        torch.testing.assert_close(getattr(loss, term).double(), getattr(expected, term), rtol=1e-2, atol=2e-2)
    for grad in torch.autograd.grad(loss.total, narrow):
        assert grad.dtype == torch.bfloat16 and torch.isfinite(grad).all()


def test_alignment_and_uniformity_of_bfloat16_features_come_close():
    z1, z2 = vectors(2, 8, 3, 16)
    near = partial(torch.testing.assert_close, rtol=1e-2, atol=1e-2)
    near(alignment(z1.bfloat16(), z2.bfloat16()).double(), alignment(z1, z2))
    for scope in SCOPES:
        near(uniformity(z1.bfloat16(), scope=scope).double(), uniformity(z1, scope=scope))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_half_precision_features_without_rounding_give_the_float32_loss(negatives, keep_positive, dtype):
    # Entries of +-1/4 in 16 dimensions are exact in every dtype, so that what differs is the arithmetic.
    # Both terms must be summed in float32: -log p of a probability may not come out negative.
    z1, z2 = (torch.randn(2, 6, 4, 16, generator=torch.Generator().manual_seed(0)).sign() / 4).unbind()
    options = {"negatives": negatives, "positive_in_denominator": keep_positive, "temperature": 0.07}
    narrow, wide = info_nce(z1.to(dtype), z2.to(dtype), **options), info_nce(z1, z2, **options)
    for term in ("alignment", "distribution"):
        torch.testing.assert_close(getattr(narrow, term).float(), getattr(wide, term), rtol=1e-4, atol=1e-4)
    same = info_nce(z1.to(dtype), z1.to(dtype), **options | {"temperature": 0.01})
    assert not keep_positive or same.total > -1e-4


@pytest.mark.parametrize("matched", [True, False])
def test_a_sum_over_many_float16_anchors_does_not_overflow(matched):
    # More anchors than float16 counts to (65,504): 1,500 images of 49 cells are enough.
    z = torch.ones(70_000, 1, 1, dtype=torch.float16)
    match = Match(index=torch.zeros(70_000, 1, dtype=torch.int64)) if matched else None
    assert alignment(z, z, match) == -1


def test_float16_at_a_low_temperature_does_not_overflow():
    z = vectors(400, 8).half()  # 800 anchors, each at similarity / temperature = 100
    loss = info_nce(z, z, temperature=0.01)
    torch.testing.assert_close(loss.alignment.double(), torch.tensor(-100.0).double(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", ["index_wise", "soft"])
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_autocast_does_not_lower_the_precision_of_float32_features(negatives, keep_positive, kind):
    z1, z2 = vectors(2, 4, 3, 16, dtype=torch.float32)
    match = case(kind, 4, 3, 0).match
    options = {"negatives": negatives, "positive_in_denominator": keep_positive, "temperature": 0.05}
    plain = info_nce(z1, z2, match, **options)
    with torch.autocast("cpu", torch.bfloat16):
        cast = info_nce(z1, z2, match, **options)
    for term in ("alignment", "distribution"):
        torch.testing.assert_close(getattr(cast, term), getattr(plain, term), rtol=1e-5, atol=1e-5)


# Gradients


@pytest.mark.parametrize("kind", ["index_wise", "partial"])
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradcheck_of_info_nce(negatives, keep_positive, kind):
    match = case(kind, 2, 3, 0).match
    z1, z2 = (z.requires_grad_() for z in vectors(2, 2, 3, 3).clone().unbind())

    def terms(a, b):
        loss = info_nce(a, b, match, negatives=negatives, positive_in_denominator=keep_positive)
        return loss.alignment, loss.distribution

    assert torch.autograd.gradcheck(terms, (z1, z2))


@pytest.mark.parametrize("scope", SCOPES)
def test_gradcheck_of_uniformity(scope):
    assert torch.autograd.gradcheck(lambda z: uniformity(z, 2.0, scope), (vectors(3, 2, 3).requires_grad_(),))


def test_gradcheck_of_alignment():
    match = case("partial", 2, 3, 0).match
    z1, z2 = (z.requires_grad_() for z in vectors(2, 2, 3, 3).clone().unbind())
    assert torch.autograd.gradcheck(lambda a, b: alignment(a, b, match), (z1, z2))


def test_one_view_may_be_detached():
    z1, z2 = vectors(2, 3, 2, 4)
    _, (both, _) = with_gradient(lambda a, b: info_nce(a, b).total, z1, z2)
    _, (one,) = with_gradient(lambda a: info_nce(a, z2).total, z1)
    close(one, both)


def test_a_gradient_penalty_is_refused():
    # The alignment term could be differentiated twice, the distribution term cannot: half of the answer is no answer.
    z1, z2 = (z.requires_grad_() for z in vectors(2, 3, 2, 4).clone().unbind())
    with pytest.raises(RuntimeError):
        (grad,) = torch.autograd.grad(info_nce(z1, z2).total, z1, create_graph=True)
        grad.square().sum().backward()


def test_a_match_that_carries_gradient_is_refused():
    h = vectors(2, 3, 4).requires_grad_()
    with pytest.raises(ValueError, match="gradient"):
        info_nce(vectors(2, 3, 4), vectors(2, 3, 4), Match(weights=(h @ h.mT).softmax(-1)))


# Refusals

GOOD = vectors(3, 2, 4, dtype=torch.float32)
NAN, INF = float("nan"), float("inf")


def spoiled(value) -> Tensor:
    z = GOOD.clone()
    z[1, 0, 2] = value
    return z


BAD_FEATURES = [
    (torch.ones(4), r"NAME.*\(4,\)"),
    (torch.ones(1, 2, 3, 4), r"NAME.*\(1, 2, 3, 4\)"),
    (torch.ones(0, 2, 4), r"NAME.*\(0, 2, 4\)"),
    (torch.ones(2, 0), r"NAME.*\(2, 0\)"),
    (torch.ones(3, 2, 1, dtype=torch.int64), r"NAME.*int64"),
    (spoiled(NAN), r"NAME.*\(3, 2, 4\).*finite"),
    (spoiled(INF), r"NAME.*\(3, 2, 4\).*finite"),
    (spoiled(-INF), r"NAME.*\(3, 2, 4\).*finite"),
    (2 * GOOD, r"NAME.*unit-norm.*2"),
    (torch.zeros(3, 2, 4), r"NAME.*unit-norm.*0"),
    (1.002 * GOOD, r"NAME.*unit-norm.*1\.002"),
    ((1.05 * GOOD).bfloat16(), r"NAME.*unit-norm.*1\.0"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_FEATURES)
def test_bad_features_are_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=message.replace("NAME", r"\bz\b")):
        uniformity(bad)
    good = normalize(torch.ones_like(bad, dtype=torch.float32), dim=-1)
    for loss in (alignment, info_nce):
        with pytest.raises(ValueError, match=message.replace("NAME", r"\bz1\b")):
            loss(bad, good)
        if good.ndim in (2, 3) and good.numel():
            with pytest.raises(ValueError, match=message.replace("NAME", r"\bz2\b")):
                loss(good, bad)


@pytest.mark.parametrize("loss", [alignment, info_nce])
@pytest.mark.parametrize("other", [GOOD[:2], GOOD[:, :1], GOOD[:, 0]])
def test_unequal_shapes_are_refused(loss, other):
    with pytest.raises(ValueError, match=rf"z1 and z2.*\(3, 2, 4\).*\({', '.join(map(str, other.shape))}\)"):
        loss(GOOD, other)


@pytest.mark.parametrize("temperature", [0.0, -0.5, NAN, INF, -INF])
def test_a_temperature_that_makes_no_sense_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature.*{temperature}"):
        info_nce(GOOD, GOOD, temperature=temperature)


@pytest.mark.parametrize("t", [0.0, -0.5, NAN, INF, -INF])
def test_a_kernel_that_makes_no_sense_is_refused(t):
    with pytest.raises(ValueError, match=rf"\bt\b.*{t}"):
        uniformity(GOOD, t)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"negatives.*both_views.*cross_view.*ntxent.*'both'"):
        info_nce(GOOD, GOOD, negatives="both")
    with pytest.raises(ValueError, match=r"scope.*same_index.*other_images.*all_pairs.*'all'"):
        uniformity(GOOD, scope="all")


@pytest.mark.parametrize(
    ("shape", "scope"), [((1, 4), scope) for scope in SCOPES] + [((1, 3, 4), "same_index"), ((1, 3, 4), "other_images")]
)
def test_a_batch_without_pairs_is_refused(shape, scope):
    with pytest.raises(ValueError, match=rf"scope.*{scope}.*\({', '.join(map(str, shape))}\)|{scope}.*\(1, 1, 4\)"):
        uniformity(vectors(*shape), scope=scope)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("shape", [(1, 4), (1, 1, 4)])
def test_one_vector_has_no_negatives(shape, keep_positive, negatives):
    z1, z2 = vectors(2, *shape)
    with pytest.raises(ValueError, match=r"negatives.*z1.*\(1, 1, 4\)"):
        info_nce(z1, z2, negatives=negatives, positive_in_denominator=keep_positive)


@pytest.mark.parametrize("negatives", ["both_views", "cross_view"])
def test_one_image_whose_cells_are_all_positives_has_no_negatives(negatives):
    z1, z2 = vectors(2, 1, 2, 4)
    match = Match(weights=torch.full((1, 2, 2), 0.5))
    with pytest.raises(ValueError, match=rf"{negatives}.*z1.*\(1, 2, 4\)"):
        info_nce(z1, z2, match, negatives=negatives, positive_in_denominator=False)
    assert torch.isfinite(info_nce(z1, z2, match, negatives="ntxent", positive_in_denominator=False).total)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3, 1)])
def test_a_match_of_another_shape_is_refused(shape):
    match = Match(index=torch.zeros(shape, dtype=torch.int64))
    good = Match(index=torch.zeros(3, 2, dtype=torch.int64))
    message = rf"match.*\({shape[0]}, {shape[1]}\).*\(3, 2\)"
    for refuse in (
        lambda: alignment(GOOD, GOOD, match),
        lambda: info_nce(GOOD, GOOD, match),
        lambda: info_nce(GOOD, GOOD, (match, good)),
        lambda: info_nce(GOOD, GOOD, (good, match)),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()
