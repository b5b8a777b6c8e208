"""Contract that every method must satisfy, checked on synthetic views in seconds, without training.

A check takes a method and a device. It raises ``MethodError`` with one line for the plugin's author: what was violated,
where and by how much. It raises ``unittest.SkipTest`` if it does not apply or a check that it builds on fails.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import wraps
from typing import get_args
from unittest import SkipTest

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from cl_bench.encoders import build_encoder, unit
from cl_bench.errors import MethodError
from cl_bench.losses.reference import whole_loss
from cl_bench.losses.types import DenseViews, LossTerms, Match
from cl_bench.methods.method import Method
from cl_bench.methods.synthetic import IMAGES, PROJECTION, changed, double, each, grid_of, only, synthetic_views
from cl_bench.spec import AlignUniform, EncoderSpec, InfoNCE, Negatives, Scope, ViewPolicy

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


# ---- the match


@check()
def gives_a_match(method: Method, device: torch.device) -> None:
    """Check for a ``Match`` of the views' shape and device with valid weights, on overlapping and disjoint views."""
    _needs_match(method)
    for policy in get_args(ViewPolicy):
        _matches(method, synthetic_views(method, device, policy), f"{policy} views")


@check(gives_a_match)
def leaves_the_views_alone(method: Method, device: torch.device) -> None:
    """Check that a strategy does not write to its input, since the loss reads the same tensors."""
    _needs_match(method)
    views = synthetic_views(method, device)
    before = each(views, torch.clone)
    _matches(method, views)
    for field in fields(views):
        now, then = getattr(views, field.name), getattr(before, field.name)
        if isinstance(now, Tensor) and not torch.equal(now, then):
            _fail(method, f"it writes to views.{field.name}, in {int((now != then).sum())} of {now.numel()} places")


@check(gives_a_match, leaves_the_views_alone)
def repeats_itself(method: Method, device: torch.device) -> None:
    """Check that the same views give the same match, bit for bit, also with other views in between."""
    _needs_match(method)
    views = synthetic_views(method, device)
    first = _matches(method, views)
    _matches(method, synthetic_views(method, device, seed=1))
    _compare(method, first, _matches(method, views), 0.0, "the same views a second time give another match")


@check(repeats_itself)
def follows_the_order_of_the_batch(method: Method, device: torch.device) -> None:
    """Check that images in another order give the same matches in that order."""
    _needs_match(method)
    views = synthetic_views(method, device)
    order = torch.arange(IMAGES, device=device).roll(1)
    expected = tuple(_dense(match)[order] for match in _matches(method, views))
    found = _matches(method, each(views, lambda t: t[order]))
    _compare(method, expected, found, SAME, "the match of an image depends on its place in the batch")


@check(follows_the_order_of_the_batch)
def looks_at_one_image_at_a_time(method: Method, device: torch.device) -> None:
    """Check that an image alone has the same match as in its batch."""
    _needs_match(method)
    views = synthetic_views(method, device)
    together = _matches(method, views)
    alone = [_matches(method, only(views, b), "one image") for b in range(IMAGES)]
    joined = tuple(torch.cat([_dense(pair[way]) for pair in alone]) for way in (0, 1))
    _compare(method, together, joined, SAME, "the match of an image depends on the other images of its batch")


@check(repeats_itself)
def carries_no_gradient(method: Method, device: torch.device) -> None:
    """Check that no gradient flows through the match, whichever tensors of the views require one."""
    _needs_match(method)
    views = each(synthetic_views(method, device), lambda t: t.clone().requires_grad_())
    matches = _matches(method, views)
    if any(m.weights is not None and m.weights.requires_grad for m in matches):
        _fail(method, "the weights of its match carry a gradient; matching is detached")
    _needs_default_loss(method)
    for objective in OBJECTIVES:
        total = _loss(method, views, objective).total
        *through, z1, z2 = torch.autograd.grad(
            total, (views.h1, views.h2, views.xy1, views.z1, views.z2), allow_unused=True
        )
        if any(g is not None for g in through):
            _fail(method, f"a gradient of {_name(objective)} flows through its match to h or xy")
        fixed = _loss(_holding(method, matches), views, objective).total
        for found, expected in zip((z1, z2), torch.autograd.grad(fixed, (views.z1, views.z2)), strict=True):
            difference = float((found - expected).abs().max())
            if difference > SAME:
                _fail(method, f"a gradient of {_name(objective)} flows through its match to z: {difference:.1e}")


@check(repeats_itself)
def treats_identical_views_alike(method: Method, device: torch.device) -> None:
    """Check that the matches of identical views are the same both ways, and that the losses are finite."""
    _needs_match(method)
    views = synthetic_views(method, device)
    views = changed(views, {f"{name}2": getattr(views, f"{name}1") for name in ("z", "h", "norm", "xy", "size")})
    forth, back = _matches(method, views, "identical views")
    _compare(method, (forth,), (back,), 0.0, "of two identical views, the way back differs from the way there")
    _needs_finite_losses(method, views, "identical views")


@check(looks_at_one_image_at_a_time)
def bears_degenerate_views(method: Method, device: torch.device) -> None:
    """Check for a valid match and finite losses on one image, cell or row of cells, dead cells and repeated images."""
    _needs_match(method)
    views = synthetic_views(method, device)
    dead = {
        name: torch.full_like(t, t.shape[-1] ** -0.5 if t.ndim == 3 else 0.0)
        for name in ("z1", "z2", "h1", "h2", "norm1", "norm2")
        for t in [getattr(views, name)]
    }
    some = {name: torch.cat([t[:2], getattr(views, name)[2:]]) for name, t in dead.items()}
    cases = {
        "one image": only(views, 0),
        "one cell": synthetic_views(method, device, grid=(1, 1)),
        "a single row of cells": synthetic_views(method, device, grid=(1, 5)),
        "dead cells (equal features, of length 0)": changed(views, dead),
        "two dead images among others": changed(views, some),
        "one image many times": each(views, lambda t: t[:1].expand_as(t).contiguous()),
    }
    for case, these in cases.items():
        _matches(method, these, case)
        if len(these.z1) > 1:
            _needs_finite_losses(method, these, case)


@check(gives_a_match)
def bears_half_precision(method: Method, device: torch.device) -> None:
    """Check for a valid match and finite losses on bfloat16 and float16 features, and under bfloat16 autocast."""
    _needs_match(method)
    views = synthetic_views(method, device)
    for dtype in (torch.bfloat16, torch.float16):
        features = ("z1", "z2", "h1", "h2", "norm1", "norm2")
        half = changed(views, {name: getattr(views, name).to(dtype) for name in features})
        _matches(method, half, f"{dtype} features")
        _needs_finite_losses(method, half, f"{dtype} features")
    with torch.autocast(device.type, dtype=torch.bfloat16):
        _matches(method, views, "bfloat16 autocast")
        _needs_finite_losses(method, views, "bfloat16 autocast")


# ---- the loss


@check(gives_a_match, carries_no_gradient)
def gives_a_loss(method: Method, device: torch.device) -> None:
    """Check for two finite scalars for every objective, the same every time, whose finite gradient reaches ``z``."""
    views = synthetic_views(method, device)
    views = replace(views, z1=views.z1.requires_grad_(), z2=views.z2.requires_grad_())
    for objective in OBJECTIVES:
        terms, again = (_loss(method, views, objective) for _ in range(2))
        for part in ("alignment", "distribution"):
            value, second = getattr(terms, part).item(), getattr(again, part).item()
            if not math.isfinite(value):
                _fail(method, f"{part} of {_name(objective)} is {value}")
            if value != second and _own_loss(method):  # for the others, repeats_itself checks this
                _fail(method, f"the same views give {part} {value:.9g}, then {second:.9g}, of {_name(objective)}")
        gradients = torch.autograd.grad(terms.total, (views.z1, views.z2), allow_unused=True)
        if _own_loss(method) and not any(g is not None and bool(g.any()) for g in gradients):
            _fail(method, f"no gradient of {_name(objective)} reaches views.z1 or views.z2")
        if not all(g is None or bool(torch.isfinite(g).all()) for g in gradients):
            _fail(method, f"the gradient of {_name(objective)} is not finite")


@check(gives_a_match)
def leaves_out_anchors_without_positives(method: Method, device: torch.device) -> None:
    """Check that cells that have no positive and are no positive do not change the alignment, even if all are such."""
    _needs_match(method)
    _needs_default_loss(method)
    views = double(synthetic_views(method, device))
    other = double(synthetic_views(method, device, seed=1))
    whole = tuple(_dense(m) for m in _matches(method, synthetic_views(method, device)))
    draws = torch.rand(2, *whole[0].shape[:2], generator=torch.Generator().manual_seed(0))
    one, two = (draws < 0.5).to(device)
    half = whole[0] * one[:, :, None] * two[:, None], whole[1] * two[:, :, None] * one[:, None]
    none = torch.zeros_like(whole[0]), torch.zeros_like(whole[1])
    for kept, (forth, back) in {"all": whole, "half": half, "none": none}.items():
        holding = _holding(method, (_match(forth), _match(back)))
        # A cell of view 1 counts as an anchor in one direction and as a positive in the other.
        idle1 = (forth.sum(2) + back.sum(1) == 0).unsqueeze(-1)
        idle2 = (back.sum(2) + forth.sum(1) == 0).unsqueeze(-1)
        moved_views = replace(
            views, z1=torch.where(idle1, other.z1, views.z1), z2=torch.where(idle2, other.z2, views.z2)
        )
        for objective in OBJECTIVES:
            terms, moved = _loss(holding, views, objective), _loss(holding, moved_views, objective)
            difference = abs(float(terms.alignment - moved.alignment))
            case = f"{_name(objective)} with {kept} of its anchors"
            if not math.isfinite(float(terms.total)):
                _fail(method, f"{case} is {float(terms.total)}")
            if difference > 1e-12:
                _fail(method, f"cells without positives change the alignment of {case} by {difference:.1e}")
            if kept == "none" and float(terms.alignment) != 0:
                _fail(method, f"the alignment of {case} is {float(terms.alignment):.3g}, not 0")


@check(gives_a_match)
def decomposes(method: Method, device: torch.device) -> None:
    """Check that alignment + distribution equals the undecomposed loss, to 1e-6 in float64."""
    _needs_match(method)
    _needs_default_loss(method)
    for policy in get_args(ViewPolicy):
        views = synthetic_views(method, device, policy)
        forth, back = _matches(method, views)
        matches = _match(_dense(forth)), _match(_dense(back))
        for objective in OBJECTIVES:
            views = double(views)
            found = float(_loss(_holding(method, matches), views, objective).total)
            expected = whole_loss(views, matches, objective)
            if not abs(found - expected) <= DECOMPOSITION * max(1.0, abs(expected)):
                _fail(
                    method,
                    f"{_name(objective)} on {policy} views: alignment + distribution is {found:.9g}, "
                    f"the loss in one piece {expected:.9g}",
                )


@check(gives_a_match)
def has_the_right_gradient(method: Method, device: torch.device) -> None:
    """Check the gradient of the loss with respect to ``z``, for a fixed match, against finite differences."""
    _needs_match(method)
    _needs_default_loss(method)
    views = synthetic_views(method, device, grid=(2, 2), images=2, projection=3)
    forth, back = _matches(method, views, "two images of 2 x 2 cells")
    holding = _holding(method, (_match(_dense(forth)), _match(_dense(back))))
    views = double(views)
    for objective in OBJECTIVES:

        def total(z1: Tensor, z2: Tensor, objective: Objective = objective) -> Tensor:
            return _loss(holding, replace(views, z1=unit(z1), z2=unit(z2)), objective).total

        z = tuple(t.clone().requires_grad_() for t in (views.z1, views.z2))
        try:
            gradcheck(total, z, fast_mode=True)
        except GradcheckError as error:
            said = " ".join(str(error).split())
            raise MethodError(f"{method}: wrong gradient of {_name(objective)}: {said[:200]}") from None


# ---- the head


@check()
def projects_to_unit_vectors(method: Method, device: torch.device) -> None:
    """Check that the head gives finite (B, P, D) projections; they are unit-norm unless the method has its own loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder("small_cnn")
        head = method.build_head(encoder, EncoderSpec(name="small_cnn", hidden=16, projection=PROJECTION)).to(device)
        features = torch.randn(IMAGES, math.prod(grid_of(method)), encoder.channels).to(device)
    z = method.project(head, features)
    if not bool(torch.isfinite(z).all()):
        _fail(method, "its head gives projections that are not finite")
    lengths = z.detach().float().norm(dim=-1)
    if not _own_loss(method) and float((lengths - 1).abs().max()) > 1e-3:
        _fail(
            method,
            f"its head must give unit vectors, got lengths from {float(lengths.min()):.3g} to "
            f"{float(lengths.max()):.3g}; end it with torch.nn.functional.normalize(z, dim=-1)",
        )


# ---- calling a method


def _matches(method: Method, views: DenseViews, case: str = "") -> tuple[Match, Match]:
    with _on(case):
        return method.matches(views)


def _loss(method: Method, views: DenseViews, objective: Objective) -> LossTerms:
    with _on(_name(objective)):
        return method.checked_loss(views, objective)


@contextmanager
def _on(case: str) -> Iterator[None]:
    """Name the input on which a method failed."""
    try:
        yield
    except MethodError as error:
        raise MethodError(f"{error}, on {case}" if case else str(error)) from None


def _holding(method: Method, matches: tuple[Match, Match]) -> Method:
    """Return a copy of the method with a fixed match."""
    fixed = copy.copy(method)
    fixed.matches = lambda views: matches  # type: ignore[method-assign]  # of a copy
    return fixed


def _needs_finite_losses(method: Method, views: DenseViews, case: str) -> None:
    for objective in OBJECTIVES:
        with _on(case):
            total = float(_loss(method, views, objective).total)
        if not _own_loss(method) and not math.isfinite(total):
            _fail(method, f"{_name(objective)} is {total}, on {case}")


def _needs_match(method: Method) -> None:
    if not _own_match(method):
        raise NotApplicable(f"{method.name} has no matching of its own: it brings its loss")


def _needs_default_loss(method: Method) -> None:
    if _own_loss(method):
        raise NotApplicable(f"the loss of {method.name} is its own: there is no other form to compare it with")


def _own_match(method: Method) -> bool:
    return type(method).match is not Method.match or not _own_loss(method)


def _own_loss(method: Method) -> bool:
    return type(method).loss is not Method.loss


def _dense(match: Match) -> Tensor:
    return match.dense(torch.float64)


def _match(weights: Tensor) -> Match:
    """Make a match of weights in float64 whose rows sum to 1 as exactly as possible, or to 0."""
    rows = weights.sum(-1, keepdim=True)
    return Match(weights=torch.where(rows > 0, weights / torch.where(rows > 0, rows, 1.0), 0.0))


def _compare(
    method: Method,
    expected: tuple[Match | Tensor, ...],
    found: tuple[Match | Tensor, ...],
    tolerance: float,
    complaint: str,
) -> None:
    one, other = (torch.stack([m if isinstance(m, Tensor) else _dense(m) for m in ways]) for ways in (expected, found))
    difference = (one - other).abs()
    worst = float(difference.max())
    if worst > tolerance:
        way, b, p, q = (int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        there = "view 1 to view 2" if way == 0 else "view 2 to view 1"
        _fail(
            method,
            f"{complaint}: image {b}, {there}, weight of cell {q} for cell {p} is "
            f"{float(one[way, b, p, q]):.4g} and {float(other[way, b, p, q]):.4g}",
        )


def _fail(method: Method, complaint: str) -> None:
    raise MethodError(f"{method}: {complaint}")


def _name(objective: Objective) -> str:
    if isinstance(objective, InfoNCE):
        kept = "" if objective.positive_in_denominator else ", positive not in the denominator"
        return f"info_nce ({objective.negatives}{kept})"
    return f"align_uniform ({objective.scope})"


def devices() -> list[torch.device]:
    """Return the devices to check on: the CPU, and a GPU where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
