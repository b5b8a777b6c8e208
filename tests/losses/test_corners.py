"""Losses at the corners: no positives, extreme temperatures and kernels, half precision."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from loss_cases import MATCHES, NEGATIVES, SCOPES, case, close, degenerate, vectors, with_gradient

from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import Match


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
