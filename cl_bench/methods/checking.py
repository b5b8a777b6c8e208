"""Parts that the checks of the contract share: registering a check, calling a method, comparing, failing in a line."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import get_args
from unittest import SkipTest

import torch
from torch import Tensor

from cl_bench.errors import MethodError
from cl_bench.losses.types import DenseViews, LossTerms, Match
from cl_bench.methods.method import Method
from cl_bench.spec import AlignUniform, InfoNCE, Negatives, Scope

Check = Callable[[Method, torch.device], None]
Objective = InfoNCE | AlignUniform

OBJECTIVES: tuple[Objective, ...] = (
    *(
        InfoNCE(temperature=0.2, negatives=negatives, positive_in_denominator=keep)
        for negatives in get_args(Negatives)
        for keep in (True, False)
    ),
    *(AlignUniform(w_a=1, w_u=0.5, scope=scope) for scope in get_args(Scope)),
)
SAME = 1e-5  # weights computed one image at a time and all at once may differ by float32's rounding
DECOMPOSITION = 1e-6  # relative, in float64

CHECKS: list[Check] = []
"""All checks, each after those that it builds on."""


class NotApplicable(SkipTest):
    """Skip of a check that does not apply to this kind of method."""


def check(*builds_on: Check) -> Callable[[Check], Check]:
    """Register a check; it is skipped while one that it builds on fails, so that a fault is reported once."""

    def listed(own: Check) -> Check:
        @wraps(own)
        def run(method: Method, device: torch.device) -> None:
            for other in builds_on:
                try:
                    other(method, device)
                except NotApplicable:
                    pass
                except MethodError:
                    raise SkipTest(f"builds on {other.__name__}, which fails") from None
            own(method, device)

        CHECKS.append(run)
        return run

    return listed


def matches_of(method: Method, views: DenseViews, case: str = "") -> tuple[Match, Match]:
    """Return the matches both ways; a failure names the input."""
    with naming(case):
        return method.matches(views)


def loss_of(method: Method, views: DenseViews, objective: Objective) -> LossTerms:
    """Return the loss of an objective; a failure names the objective."""
    with naming(name_of(objective)):
        return method.checked_loss(views, objective)


@contextmanager
def naming(case: str) -> Iterator[None]:
    """Name the input on which a method failed."""
    try:
        yield
    except MethodError as error:
        raise MethodError(f"{error}, on {case}" if case else str(error)) from None


def holding_match(method: Method, matches: tuple[Match, Match]) -> Method:
    """Return a copy of the method with a fixed match."""
    fixed = copy.copy(method)
    fixed.matches = lambda views: matches  # type: ignore[method-assign]  # of a copy
    return fixed


def needs_finite_losses(method: Method, views: DenseViews, case: str) -> None:
    """Fail unless the loss of every objective is finite."""
    for objective in OBJECTIVES:
        with naming(case):
            total = float(loss_of(method, views, objective).total)
        if not has_own_loss(method) and not math.isfinite(total):
            fail(method, f"{name_of(objective)} is {total}, on {case}")


def needs_match(method: Method) -> None:
    """Skip a method that brings its loss and no matching."""
    if not has_own_match(method):
        raise NotApplicable(f"{method.name} has no matching of its own: it brings its loss")


def needs_default_loss(method: Method) -> None:
    """Skip a method that brings its loss."""
    if has_own_loss(method):
        raise NotApplicable(f"the loss of {method.name} is its own: there is no other form to compare it with")


def has_own_match(method: Method) -> bool:
    """Return whether the method has a matching."""
    return type(method).match is not Method.match or not has_own_loss(method)


def has_own_loss(method: Method) -> bool:
    """Return whether the method brings its loss."""
    return type(method).loss is not Method.loss


def dense_weights(match: Match) -> Tensor:
    """Return the (B, P, P) weights in float64."""
    return match.dense(torch.float64)


def exact_match(weights: Tensor) -> Match:
    """Make a match of weights in float64 whose rows sum to 1 as exactly as possible, or to 0."""
    rows = weights.sum(-1, keepdim=True)
    return Match(weights=torch.where(rows > 0, weights / torch.where(rows > 0, rows, 1.0), 0.0))


def compare(
    method: Method,
    expected: tuple[Match | Tensor, ...],
    found: tuple[Match | Tensor, ...],
    tolerance: float,
    complaint: str,
) -> None:
    """Fail where two ways to the same weights differ by more than a tolerance, naming the place."""
    one, other = (
        torch.stack([m if isinstance(m, Tensor) else dense_weights(m) for m in ways]) for ways in (expected, found)
    )
    difference = (one - other).abs()
    worst = float(difference.max())
    if worst > tolerance:
        way, b, p, q = (int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        there = "view 1 to view 2" if way == 0 else "view 2 to view 1"
        fail(
            method,
            f"{complaint}: image {b}, {there}, weight of cell {q} for cell {p} is "
            f"{float(one[way, b, p, q]):.4g} and {float(other[way, b, p, q]):.4g}",
        )


def fail(method: Method, complaint: str) -> None:
    """Raise what is wrong with a method, in one line."""
    raise MethodError(f"{method}: {complaint}")


def name_of(objective: Objective) -> str:
    """Return the name of an objective, as it is shown."""
    if isinstance(objective, InfoNCE):
        kept = "" if objective.positive_in_denominator else ", positive not in the denominator"
        return f"info_nce ({objective.negatives}{kept})"
    return f"align_uniform ({objective.scope})"
