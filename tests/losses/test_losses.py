"""The losses against loops, against foreign references, in closed form, and in their corners."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from helpers import some
from hypothesis import assume, given
from hypothesis import strategies as st
from loss_cases import (
    MATCHES,
    NEGATIVES,
    SCOPES,
    assert_same,
    case,
    close,
    degenerate,
    seeds,
    shapes,
    temperatures,
    vectors,
    with_gradient,
)
from torch.nn.functional import cross_entropy

from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import Match

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
