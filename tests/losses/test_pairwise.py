"""The streaming log-sum-exp against loops, against a dense reference, and in its corners."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretended_gpu import CPU, GPU, pretended_gpu

from cl_bench.losses import pairwise

FEW = settings(max_examples=40, deadline=None)


def vectors(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1).to(dtype)


def dense(a, b, scale, group):
    """All similarities at once, hidden pairs left out by a mask."""
    s = scale * torch.einsum("...rd,...cd->...rc", a, b)
    if group:
        r, c = torch.arange(s.shape[-2]), torch.arange(s.shape[-1])
        s = s.masked_fill(r[:, None] // group == c[None, :] // group, -math.inf)
    return torch.logsumexp(s, -1)


def dense_both(a, b, scale, group=0):
    """One set (b None), or two sets both ways: rows, then columns."""
    return (
        dense(a, a, scale, group)
        if b is None
        else torch.cat([dense(a, b, scale, group), dense(b, a, scale, group)], -1)
    )


def streamed(a, b, scale, group=0):
    """Compute the same by streaming."""
    if b is None:
        return pairwise.logsumexp(a, scale, group)
    return torch.cat(pairwise.logsumexp_between(a, b, scale, group), -1)


def gradients(f, *leaves, seed=0):
    """Value and gradients of a random combination of the rows in sight: unequal weights tell rows from columns."""
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    out = f(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    seen = torch.isfinite(out)
    total = torch.where(seen, out, 0.0).mul(weights.to(out.dtype)).sum()
    # A path of zeros to every leaf, where no row sees it.
    total = total + sum(0 * x.sum() for x in leaves)
    return out.detach(), torch.autograd.grad(total, leaves)


@pytest.fixture(params=[1, 7, 20, 2**20])
def block_elements(request, monkeypatch):
    """Use blocks of one row, blocks that do not divide n, and one block for everything."""
    monkeypatch.setattr(pairwise, "BLOCK_ELEMENTS", request.param)
    monkeypatch.setattr(pairwise, "MIN_ROWS", 1)
    return request.param


@FEW
@given(
    n=st.integers(1, 7),
    m=st.integers(1, 7),
    group=st.integers(0, 8),
    block=st.integers(1, 60),
    scale=st.sampled_from([0.01, 1.0, 5.0, 100.0]),
    seed=st.integers(0, 999),
)
def test_two_sets_agree_with_loops_in_value_and_gradient(n, m, group, block, scale, seed):
    a, b = vectors(n, 3, seed=seed), vectors(m, 3, seed=seed + 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "BLOCK_ELEMENTS", block)
        patch.setattr(pairwise, "MIN_ROWS", 1)
        value, grads = gradients(lambda a, b: streamed(a, b, scale, group), a, b)
    expected, expected_grads = gradients(
        lambda a, b: torch.cat([oracles.row_logsumexp(a, b, scale, group), oracles.row_logsumexp(b, a, scale, group)]),
        a,
        b,
    )
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    for grad, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, reference)


@FEW
@given(
    n=st.integers(1, 8),
    group=st.integers(0, 9),
    block=st.integers(1, 70),
    scale=st.sampled_from([0.01, 1.0, 5.0, 100.0]),
    seed=st.integers(0, 999),
)
def test_one_set_agrees_with_loops_in_value_and_gradient(n, group, block, scale, seed):
    a = vectors(n, 3, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "BLOCK_ELEMENTS", block)
        patch.setattr(pairwise, "MIN_ROWS", 1)
        value, (grad,) = gradients(lambda a: pairwise.logsumexp(a, scale, group), a)
    expected, (reference,) = gradients(lambda a: oracles.row_logsumexp(a, a, scale, group), a)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grad, reference)


@pytest.mark.parametrize("group", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(11, 4), (3, 11, 4), (2, 3, 7, 4)])
def test_batches_agree_with_the_dense_reference(shape, group, block_elements):
    a, b = vectors(*shape, seed=1), vectors(*shape, seed=2)
    for other in (None, b):
        sets = (a,) if other is None else (a, b)
        value, grads = gradients(lambda a, b=None: streamed(a, b, 3.0, group), *sets)
        expected, references = gradients(lambda a, b=None: dense_both(a, b, 3.0, group), *sets)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        for grad, reference in zip(grads, references, strict=True):
            torch.testing.assert_close(grad, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("n", "m"), [(9, 4), (4, 9)])
@pytest.mark.parametrize("group", [0, 1, 2, 3])
def test_more_rows_than_columns_and_the_reverse(n, m, group, block_elements):
    a, b = vectors(n, 4, seed=1), vectors(m, 4, seed=2)
    torch.testing.assert_close(streamed(a, b, 2.0, group), dense_both(a, b, 2.0, group))


@pytest.mark.parametrize("which", ["a", "b"])
def test_only_one_of_the_sets_needs_a_gradient(which):
    a, b = vectors(5, 3, seed=1), vectors(4, 3, seed=2)
    leaf = {"a": a, "b": b}[which].requires_grad_()
    (grad,) = torch.autograd.grad(streamed(a, b, 2.0).sum(), leaf)
    (reference,) = torch.autograd.grad(dense_both(a, b, 2.0).sum(), leaf)
    torch.testing.assert_close(grad, reference)


def test_a_set_against_itself_is_one_set_twice():
    a = vectors(6, 3)
    value, (grad,) = gradients(lambda a: streamed(a, a, 2.0, 2), a)
    expected, (reference,) = gradients(lambda a: pairwise.logsumexp(a, 2.0, 2).repeat(2), a)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, reference)


@pytest.mark.parametrize("group", [0, 1, 2])
def test_gradcheck(group, block_elements):
    a, b = vectors(5, 3, seed=1).requires_grad_(), vectors(4, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: streamed(a, b, 2.0, group), (a, b))
    assert torch.autograd.gradcheck(lambda a: pairwise.logsumexp(a, 2.0, group), (a,))


@pytest.mark.parametrize("other", [None, "b"])
@pytest.mark.parametrize("upstream", [0.0, 1.0])
def test_rows_that_see_nothing_are_minus_infinity_with_zero_gradient(other, upstream, block_elements):
    a = vectors(4, 3).requires_grad_()
    b = None if other is None else vectors(4, 3, seed=1).requires_grad_()
    out = streamed(a, b, 2.0, group=4)
    assert torch.isneginf(out).all()
    for grad in torch.autograd.grad(out, [x for x in (a, b) if x is not None], torch.full_like(out, upstream)):
        assert (grad == 0).all()


def test_a_row_that_sees_nothing_leaves_the_others_alone():
    # Groups of 3 over 4 rows and 3 columns: rows 0-2 see nothing, row 3 sees everything.
    a, b = vectors(4, 3), vectors(3, 3, seed=1)
    value, grads = gradients(lambda a, b: streamed(a, b, 2.0, 3), a, b)
    assert torch.isneginf(value[:3]).all()
    _, references = gradients(lambda a, b: torch.cat([a.new_zeros(3), dense_both(a[3:], b, 2.0)]), a, b)
    for grad, reference in zip(grads, references, strict=True):
        torch.testing.assert_close(grad, reference)


# What stands between the log-sum-exp and its gradient, and what the gradient is then used for. A sum has a constant
# gradient, and a gradient penalty reaches the leaf by a second way: neither may hide that the graph ends here.
@pytest.mark.parametrize("reduce", [lambda out: out.sum(), lambda out: out.square().sum()], ids=["sum", "square"])
@pytest.mark.parametrize("use", [lambda g, a: g.sum(), lambda g, a: g.square().sum() + a.sum()], ids=["alone", "mixed"])
@pytest.mark.parametrize("other", [None, "b"])
def test_double_backward_is_refused(other, use, reduce):
    a = vectors(4, 3).requires_grad_()
    b = None if other is None else vectors(5, 3, seed=1)
    out = reduce(streamed(a, b, 2.0))
    with pytest.raises(RuntimeError):
        (grad,) = torch.autograd.grad(out, a, create_graph=True)
        use(grad, a).backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("other", [None, "b"])
def test_half_precision_is_summed_in_float32(dtype, other):
    a = vectors(64, 16, seed=1, dtype=dtype).requires_grad_()
    b = None if other is None else vectors(48, 16, seed=2, dtype=dtype).requires_grad_()
    wide = [None if x is None else x.detach().double().requires_grad_() for x in (a, b)]
    out = streamed(a, b, 20.0, 1)
    expected = dense_both(*wide, 20.0, 1)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    out.sum().backward()
    expected.sum().backward()
    for x, reference in zip((a, b), wide, strict=True):
        if x is not None:
            assert x.grad.dtype == dtype
            torch.testing.assert_close(x.grad.double(), reference.grad, rtol=1e-2, atol=1e-2)


def test_autocast_does_not_lower_the_precision():
    a = vectors(32, 16, dtype=torch.float32).requires_grad_()
    plain = pairwise.logsumexp(a, 100.0, 1)
    (reference,) = torch.autograd.grad(plain.sum(), a)
    with torch.autocast("cpu", torch.bfloat16):
        cast = pairwise.logsumexp(a, 100.0, 1)
    (grad,) = torch.autograd.grad(cast.sum(), a)
    assert torch.equal(plain, cast)
    assert torch.equal(reference, grad)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_extreme_scales_stay_finite_in_float32(scale):
    a = vectors(12, 5, dtype=torch.float32).requires_grad_()
    out = pairwise.logsumexp(a, scale, 1)
    out.sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(a.grad).all()
    torch.testing.assert_close(out.double(), dense(a.double(), a.double(), scale, 1), rtol=1e-5, atol=1e-5)


def test_layout_does_not_matter():
    a = vectors(5, 3, 4).transpose(0, 1)
    assert not a.is_contiguous()
    value, (grad,) = gradients(lambda a: pairwise.logsumexp(a, 2.0, 1), a)
    expected, (reference,) = gradients(lambda a: dense(a, a, 2.0, 1), a)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, reference)


def test_equal_vectors_count_the_columns_in_sight():
    a = vectors(1, 3).expand(12, 3)
    for group, seen in ((0, 12), (1, 11), (4, 8)):
        torch.testing.assert_close(
            pairwise.logsumexp(a, 2.0, group), torch.full((12,), 2.0 + math.log(seen), dtype=torch.float64)
        )


def test_a_scaled_gradient_stays_finite_where_one_exponential_serves_all():
    # Next to antipodes, the largest exponent is far from what a row sees; a loss scaler multiplies by 2^16.
    a = torch.nn.functional.normalize(torch.tensor([[1.0, 0.01], [-1.0, 0.0]]), dim=-1).requires_grad_()
    scale = pairwise.SAFE_EXPONENT * 0.99
    (grad,) = torch.autograd.grad(pairwise.logsumexp(a, scale, 1).sum() * 2**16, a)
    (reference,) = torch.autograd.grad(dense(a.double(), a.double(), scale, 1).sum() * 2**16, a)
    torch.testing.assert_close(grad, reference.to(grad.dtype))


def test_a_negative_scale_is_a_similarity_turned_round():
    a = vectors(6, 3, dtype=torch.float32)
    torch.testing.assert_close(pairwise.logsumexp(a, -100.0, 1), dense(a, a, -100.0, 1))


def test_sets_of_other_batches_are_refused():
    with pytest.raises(ValueError, match=r"same batches, got \(2, 3, 4\) and \(3, 5, 4\)"):
        pairwise.logsumexp_between(vectors(2, 3, 4), vectors(3, 5, 4), 1.0)


@pytest.mark.parametrize("elements", [100, 3 * 12 * 12, 5 * 12 * 12])
@pytest.mark.parametrize("scale", [2.0, 100.0])
@pytest.mark.parametrize("group", [0, 1, 3, 5])
def test_sets_that_are_multiplied_together_on_a_gpu_give_what_each_gives(group, scale, elements, monkeypatch):
    monkeypatch.setattr(pairwise, "GPU_BLOCK_ELEMENTS", elements)
    a, b = vectors(5, 12, 4), vectors(5, 12, 4, seed=1)

    def results(device):
        x, y = a.detach().to(device).requires_grad_(), b.detach().to(device).requires_grad_()
        out = torch.cat([pairwise.logsumexp(x, scale, group), *pairwise.logsumexp_between(x, y, scale, group)])
        out.square().sum().backward()
        return out.detach().cpu(), x.grad.cpu(), y.grad.cpu()

    with pretended_gpu():
        found = results(GPU)
    for one, other in zip(found, results(CPU), strict=True):
        torch.testing.assert_close(one, other)
