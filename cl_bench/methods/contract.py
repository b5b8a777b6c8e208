"""Contract that every method must satisfy, checked on synthetic views in seconds, without training.

A check takes a method and a device. It raises ``MethodError`` with one line for the plugin's author: what was violated,
where and by how much. It raises ``unittest.SkipTest`` if it does not apply or a check that it builds on fails.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import get_args

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from cl_bench.encoders import build_encoder, unit
from cl_bench.errors import MethodError
from cl_bench.losses.reference import whole_loss
from cl_bench.methods.checking import (
    CHECKS,
    DECOMPOSITION,
    OBJECTIVES,
    SAME,
    Check,
    NotApplicable,
    Objective,
    check,
    compare,
    dense_weights,
    exact_match,
    fail,
    has_own_loss,
    holding_match,
    loss_of,
    matches_of,
    name_of,
    needs_default_loss,
    needs_finite_losses,
    needs_match,
)
from cl_bench.methods.method import Method
from cl_bench.methods.synthetic import IMAGES, PROJECTION, changed, double, each, grid_of, only, synthetic_views
from cl_bench.spec import EncoderSpec, ViewPolicy

__all__ = ["CHECKS", "Check", "NotApplicable", "devices"]

# ---- the match


@check()
def gives_a_match(method: Method, device: torch.device) -> None:
    """Check for a ``Match`` of the views' shape and device with valid weights, on overlapping and disjoint views."""
    needs_match(method)
    for policy in get_args(ViewPolicy):
        matches_of(method, synthetic_views(method, device, policy), f"{policy} views")


@check(gives_a_match)
def leaves_the_views_alone(method: Method, device: torch.device) -> None:
    """Check that a strategy does not write to its input, since the loss reads the same tensors."""
    needs_match(method)
    views = synthetic_views(method, device)
    before = each(views, torch.clone)
    matches_of(method, views)
    for field in fields(views):
        now, then = getattr(views, field.name), getattr(before, field.name)
        if isinstance(now, Tensor) and not torch.equal(now, then):
            fail(method, f"it writes to views.{field.name}, in {int((now != then).sum())} of {now.numel()} places")


@check(gives_a_match, leaves_the_views_alone)
def repeats_itself(method: Method, device: torch.device) -> None:
    """Check that the same views give the same match, bit for bit, also with other views in between."""
    needs_match(method)
    views = synthetic_views(method, device)
    first = matches_of(method, views)
    matches_of(method, synthetic_views(method, device, seed=1))
    compare(method, first, matches_of(method, views), 0.0, "the same views a second time give another match")


@check(repeats_itself)
def follows_the_order_of_the_batch(method: Method, device: torch.device) -> None:
    """Check that images in another order give the same matches in that order."""
    needs_match(method)
    views = synthetic_views(method, device)
    order = torch.arange(IMAGES, device=device).roll(1)
    expected = tuple(dense_weights(match)[order] for match in matches_of(method, views))
    found = matches_of(method, each(views, lambda t: t[order]))
    compare(method, expected, found, SAME, "the match of an image depends on its place in the batch")


@check(follows_the_order_of_the_batch)
def looks_at_one_image_at_a_time(method: Method, device: torch.device) -> None:
    """Check that an image alone has the same match as in its batch."""
    needs_match(method)
    views = synthetic_views(method, device)
    together = matches_of(method, views)
    alone = [matches_of(method, only(views, b), "one image") for b in range(IMAGES)]
    joined = tuple(torch.cat([dense_weights(pair[way]) for pair in alone]) for way in (0, 1))
    compare(method, together, joined, SAME, "the match of an image depends on the other images of its batch")


@check(repeats_itself)
def carries_no_gradient(method: Method, device: torch.device) -> None:
    """Check that no gradient flows through the match, whichever tensors of the views require one."""
    needs_match(method)
    views = each(synthetic_views(method, device), lambda t: t.clone().requires_grad_())
    matches = matches_of(method, views)
    if any(m.weights is not None and m.weights.requires_grad for m in matches):
        fail(method, "the weights of its match carry a gradient; matching is detached")
    needs_default_loss(method)
    for objective in OBJECTIVES:
        total = loss_of(method, views, objective).total
        *through, z1, z2 = torch.autograd.grad(
            total, (views.h1, views.h2, views.xy1, views.z1, views.z2), allow_unused=True
        )
        if any(g is not None for g in through):
            fail(method, f"a gradient of {name_of(objective)} flows through its match to h or xy")
        fixed = loss_of(holding_match(method, matches), views, objective).total
        for found, expected in zip((z1, z2), torch.autograd.grad(fixed, (views.z1, views.z2)), strict=True):
            difference = float((found - expected).abs().max())
            if difference > SAME:
                fail(method, f"a gradient of {name_of(objective)} flows through its match to z: {difference:.1e}")


@check(repeats_itself)
def treats_identical_views_alike(method: Method, device: torch.device) -> None:
    """Check that the matches of identical views are the same both ways, and that the losses are finite."""
    needs_match(method)
    views = synthetic_views(method, device)
    views = changed(views, {f"{name}2": getattr(views, f"{name}1") for name in ("z", "h", "norm", "xy", "size")})
    forth, back = matches_of(method, views, "identical views")
    compare(method, (forth,), (back,), 0.0, "of two identical views, the way back differs from the way there")
    needs_finite_losses(method, views, "identical views")


@check(looks_at_one_image_at_a_time)
def bears_degenerate_views(method: Method, device: torch.device) -> None:
    """Check for a valid match and finite losses on one image, cell or row of cells, dead cells and repeated images."""
    needs_match(method)
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
        matches_of(method, these, case)
        if len(these.z1) > 1:
            needs_finite_losses(method, these, case)


@check(gives_a_match)
def bears_half_precision(method: Method, device: torch.device) -> None:
    """Check for a valid match and finite losses on bfloat16 and float16 features, and under bfloat16 autocast."""
    needs_match(method)
    views = synthetic_views(method, device)
    for dtype in (torch.bfloat16, torch.float16):
        features = ("z1", "z2", "h1", "h2", "norm1", "norm2")
        half = changed(views, {name: getattr(views, name).to(dtype) for name in features})
        matches_of(method, half, f"{dtype} features")
        needs_finite_losses(method, half, f"{dtype} features")
    with torch.autocast(device.type, dtype=torch.bfloat16):
        matches_of(method, views, "bfloat16 autocast")
        needs_finite_losses(method, views, "bfloat16 autocast")


# ---- the loss


@check(gives_a_match, carries_no_gradient)
def gives_a_loss(method: Method, device: torch.device) -> None:
    """Check for two finite scalars for every objective, the same every time, whose finite gradient reaches ``z``."""
    views = synthetic_views(method, device)
    views = replace(views, z1=views.z1.requires_grad_(), z2=views.z2.requires_grad_())
    for objective in OBJECTIVES:
        terms, again = (loss_of(method, views, objective) for _ in range(2))
        for part in ("alignment", "distribution"):
            value, second = getattr(terms, part).item(), getattr(again, part).item()
            if not math.isfinite(value):
                fail(method, f"{part} of {name_of(objective)} is {value}")
            if value != second and has_own_loss(method):  # for the others, repeats_itself checks this
                fail(method, f"the same views give {part} {value:.9g}, then {second:.9g}, of {name_of(objective)}")
        gradients = torch.autograd.grad(terms.total, (views.z1, views.z2), allow_unused=True)
        if has_own_loss(method) and not any(g is not None and bool(g.any()) for g in gradients):
            fail(method, f"no gradient of {name_of(objective)} reaches views.z1 or views.z2")
        if not all(g is None or bool(torch.isfinite(g).all()) for g in gradients):
            fail(method, f"the gradient of {name_of(objective)} is not finite")


@check(gives_a_match)
def leaves_out_anchors_without_positives(method: Method, device: torch.device) -> None:
    """Check that cells that have no positive and are no positive do not change the alignment, even if all are such."""
    needs_match(method)
    needs_default_loss(method)
    views = double(synthetic_views(method, device))
    other = double(synthetic_views(method, device, seed=1))
    whole = tuple(dense_weights(m) for m in matches_of(method, synthetic_views(method, device)))
    draws = torch.rand(2, *whole[0].shape[:2], generator=torch.Generator().manual_seed(0))
    one, two = (draws < 0.5).to(device)
    half = whole[0] * one[:, :, None] * two[:, None], whole[1] * two[:, :, None] * one[:, None]
    none = torch.zeros_like(whole[0]), torch.zeros_like(whole[1])
    for kept, (forth, back) in {"all": whole, "half": half, "none": none}.items():
        holding = holding_match(method, (exact_match(forth), exact_match(back)))
        # A cell of view 1 counts as an anchor in one direction and as a positive in the other.
        idle1 = (forth.sum(2) + back.sum(1) == 0).unsqueeze(-1)
        idle2 = (back.sum(2) + forth.sum(1) == 0).unsqueeze(-1)
        moved_views = replace(
            views, z1=torch.where(idle1, other.z1, views.z1), z2=torch.where(idle2, other.z2, views.z2)
        )
        for objective in OBJECTIVES:
            terms, moved = loss_of(holding, views, objective), loss_of(holding, moved_views, objective)
            difference = abs(float(terms.alignment - moved.alignment))
            case = f"{name_of(objective)} with {kept} of its anchors"
            if not math.isfinite(float(terms.total)):
                fail(method, f"{case} is {float(terms.total)}")
            if difference > 1e-12:
                fail(method, f"cells without positives change the alignment of {case} by {difference:.1e}")
            if kept == "none" and float(terms.alignment) != 0:
                fail(method, f"the alignment of {case} is {float(terms.alignment):.3g}, not 0")


@check(gives_a_match)
def decomposes(method: Method, device: torch.device) -> None:
    """Check that alignment + distribution equals the undecomposed loss, to 1e-6 in float64."""
    needs_match(method)
    needs_default_loss(method)
    for policy in get_args(ViewPolicy):
        views = synthetic_views(method, device, policy)
        forth, back = matches_of(method, views)
        matches = exact_match(dense_weights(forth)), exact_match(dense_weights(back))
        for objective in OBJECTIVES:
            views = double(views)
            found = float(loss_of(holding_match(method, matches), views, objective).total)
            expected = whole_loss(views, matches, objective)
            if not abs(found - expected) <= DECOMPOSITION * max(1.0, abs(expected)):
                fail(
                    method,
                    f"{name_of(objective)} on {policy} views: alignment + distribution is {found:.9g}, "
                    f"the loss in one piece {expected:.9g}",
                )


@check(gives_a_match)
def has_the_right_gradient(method: Method, device: torch.device) -> None:
    """Check the gradient of the loss with respect to ``z``, for a fixed match, against finite differences."""
    needs_match(method)
    needs_default_loss(method)
    views = synthetic_views(method, device, grid=(2, 2), images=2, projection=3)
    forth, back = matches_of(method, views, "two images of 2 x 2 cells")
    holding = holding_match(method, (exact_match(dense_weights(forth)), exact_match(dense_weights(back))))
    views = double(views)
    for objective in OBJECTIVES:

        def total(z1: Tensor, z2: Tensor, objective: Objective = objective) -> Tensor:
            return loss_of(holding, replace(views, z1=unit(z1), z2=unit(z2)), objective).total

        z = tuple(t.clone().requires_grad_() for t in (views.z1, views.z2))
        try:
            gradcheck(total, z, fast_mode=True)
        except GradcheckError as error:
            said = " ".join(str(error).split())
            raise MethodError(f"{method}: wrong gradient of {name_of(objective)}: {said[:200]}") from None


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
        fail(method, "its head gives projections that are not finite")
    lengths = z.detach().float().norm(dim=-1)
    if not has_own_loss(method) and float((lengths - 1).abs().max()) > 1e-3:
        fail(
            method,
            f"its head must give unit vectors, got lengths from {float(lengths.min()):.3g} to "
            f"{float(lengths.max()):.3g}; end it with torch.nn.functional.normalize(z, dim=-1)",
        )


def devices() -> list[torch.device]:
    """Return the devices to check on: the CPU, and a GPU where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
