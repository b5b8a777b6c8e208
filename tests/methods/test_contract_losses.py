"""The contract of losses: a broken loss is found out by its check; the synthetic views are as training makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import pytest
import torch

import cl_bench.methods.contract
import cl_bench.methods.method
from cl_bench import LossTerms, Method
from cl_bench.errors import MethodError
from cl_bench.methods.contract import CHECKS, NotApplicable
from cl_bench.methods.registry import Registry
from cl_bench.methods.synthetic import synthetic_views

CPU = torch.device("cpu")


def check_named(name: str) -> cl_bench.methods.contract.Check:
    return next(check for check in CHECKS if check.__name__ == name)


@pytest.fixture
def dense_cosine() -> Method:
    return Registry().resolve("dense_cosine")


def broken(change: Callable[..., LossTerms]) -> Callable[..., LossTerms]:
    """info_nce with its terms changed; given the terms and its arguments."""
    right = cl_bench.methods.method.info_nce
    return lambda *args: change(right(*args), *args)


BROKEN = {
    "decomposes": (
        broken(lambda terms, *_: LossTerms(terms.alignment, terms.distribution + 1e-5)),
        r"info_nce \(both_views\) on overlapping views: alignment \+ distribution is [\d.]+, the loss in one piece",
    ),
    "has_the_right_gradient": (
        broken(lambda terms, *_: LossTerms(terms.alignment, terms.distribution.detach() + 0 * terms.alignment)),
        r"wrong gradient of info_nce \(both_views\): Jacobian|wrong gradient of info_nce \(both_views\): Gradients",
    ),
    "leaves_out_anchors_without_positives": (
        broken(lambda terms, z1, *_: LossTerms(terms.alignment + z1[0].sum() / 100, terms.distribution)),
        r"cells without positives change the alignment of info_nce \(both_views\) with half of its anchors by",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_loss_is_found_out(name: str, dense_cosine: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_named(name)
    check(dense_cosine, CPU)
    change, said = BROKEN[name]
    monkeypatch.setattr(cl_bench.methods.method, "info_nce", change)
    with pytest.raises(MethodError, match=rf"method 'dense_cosine' \(.*dense_cosine\.py:\d+\): .*({said})"):
        check(dense_cosine, CPU)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("is nan", lambda t, z1, z2, m, *_: t if m[0].anchors.any() else LossTerms(t.alignment, t.distribution / 0)),
        ("is 1, not 0", lambda t, z1, z2, m, *_: t if m[0].anchors.any() else LossTerms(1 + 0 * t.alignment, t.total)),
    ],
)
def test_a_loss_that_cannot_do_without_positives_is_found_out(
    said: str, change: Any, dense_cosine: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cl_bench.methods.method, "info_nce", broken(change))
    with pytest.raises(MethodError, match=rf"info_nce \(both_views\) with none of its anchors {said}"):
        check_named("leaves_out_anchors_without_positives")(dense_cosine, CPU)


@pytest.mark.parametrize(
    ("name", "case"), [("bears_degenerate_views", "one cell"), ("bears_half_precision", "torch.bfloat16 features")]
)
def test_a_loss_that_is_not_finite_is_found_out(
    name: str, case: str, dense_cosine: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    infinite = broken(lambda terms, *_: LossTerms(terms.alignment, terms.distribution * torch.inf))
    monkeypatch.setattr(cl_bench.methods.method, "info_nce", infinite)
    with pytest.raises(MethodError, match=rf"info_nce \(both_views\) is inf, on {case}$"):
        check_named(name)(dense_cosine, CPU)


def test_a_check_that_builds_on_a_failing_one_is_skipped_and_says_so(
    dense_cosine: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(dense_cosine), "match", lambda self, views: 1 / 0)
    with pytest.raises(MethodError, match="ZeroDivisionError"):
        check_named("gives_a_match")(dense_cosine, CPU)
    with pytest.raises(SkipTest, match="builds on gives_a_match, which fails") as skipped:
        check_named("repeats_itself")(dense_cosine, CPU)
    assert not isinstance(skipped.value, NotApplicable)


@pytest.mark.parametrize("policy", ["overlapping", "disjoint"])
@pytest.mark.parametrize(("name", "cells"), [("dense_index", 12), ("instance", 1)])
def test_the_synthetic_views_are_such_as_training_makes(name: str, cells: int, policy: Any) -> None:
    views = synthetic_views(Registry().resolve(name), CPU, policy)
    assert views.z1.shape == (4, cells, 8) and views.h2.shape == (4, cells, 16) and views.norm1.shape == (4, cells)
    assert views.grid[0] * views.grid[1] == cells
    for unit in (views.z1, views.z2, views.h1, views.h2):
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(4, cells))
        assert unit.dtype == torch.float32
    for xy, size in ((views.xy1, views.size1), (views.xy2, views.size2)):
        assert bool((xy - size[:, None] / 2 > -1e-6).all() and (xy + size[:, None] / 2 < 1 + 1e-6).all())
    again, other = (synthetic_views(Registry().resolve(name), CPU, policy, seed=seed) for seed in (0, 1))
    assert torch.equal(again.z1, views.z1) and not torch.equal(other.z1, views.z1)
    apart = views.distance()
    assert cells == 1 or (float(apart.min()) < 0.1) == (policy == "overlapping")


def test_features_of_near_cells_are_more_alike() -> None:
    views = synthetic_views(Registry().resolve("dense_index"), CPU)
    near = views.distance() < 0.1
    assert float(views.cosine()[near].mean()) > float(views.cosine()[~near].mean()) + 0.05
