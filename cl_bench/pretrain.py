"""The one training loop, for every method and objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.checkpoint import Checkpoint
from cl_bench.data import Dataset
from cl_bench.decomposition import whole_loss
from cl_bench.encoders import Encoder, build_encoder, cells, pooled, unit_and_norm
from cl_bench.errors import Diverged
from cl_bench.method import Method
from cl_bench.metrics import correct_positives
from cl_bench.spec import OptimiserSpec, PretrainSpec, RandomInit
from cl_bench.types import DenseViews, LossTerms
from cl_bench.views import Geometry, two_views

OnStep = Callable[[int, int], None]
PairOfViews = tuple[tuple[Tensor, Geometry], tuple[Tensor, Geometry]]
KEPT_VIEWS = 2**28  # bytes of float32 views kept for the next encoder of a sweep
Place = dict[str, Any]  # next step, the epoch's order of images and the generator's state
_kept: list[tuple[Dataset, tuple[object, ...], list[tuple[int, PairOfViews, Place]]]] = []  # at most one data set's


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained encoder and how it got there.

    Attributes:
        encoder: In eval mode, on the device it was trained on.
        history: One entry a logged step: step, loss, alignment, distribution, lr, and the step's matching precision
            where it is defined.
        decomposition_error: Largest |loss in one piece - sum of its terms| / max(1, |loss|) over the logged steps.
        matching_precision: Share, in [0, 1], of the positives of all logged steps, in both directions, whose cells
            overlap in the source image; nan where there are none (nothing trained, or a method without a ``match``).
    """

    encoder: Encoder
    history: tuple[dict[str, float], ...]
    decomposition_error: float
    matching_precision: float = math.nan


def pretrain(
    spec: PretrainSpec,
    method: Method | None,
    data: Dataset,
    device: torch.device,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
) -> Pretrained:
    """Pre-train an encoder; on a CPU the same spec gives the same weights bit for bit, interrupted or not.

    Args:
        spec: What to train.
        method: Its method; None only for the objective ``random_init``, which trains nothing.
        data: The images.
        device: Where.
        on_step: Called after each step with (steps done, steps in all).
        checkpoint: What to go on from, and where to keep how far it got. A method that learns keeps what it learnt in
            its head's state.

    Raises:
        Diverged: A feature or a loss that is not finite, with the step.
        MethodError: The plugin failed.
        ValueError: Fewer images than a batch.
    """
    encoder = untrained(spec).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(spec.objective, RandomInit) or method is None:
        return Pretrained(encoder.eval(), (), 0.0)
    if len(data) < spec.optimiser.batch:
        least = spec.optimiser.batch
        raise ValueError(f"pre-training needs a batch of {least} images at least, the data set has {len(data)}")
    with _seeded(spec.seed + 1, device):  # the head's weights, and what a plugin's head or loss draws in training
        return _trained(encoder, spec, method, data, device, on_step, checkpoint)


def _trained(
    encoder: Encoder,
    spec: PretrainSpec,
    method: Method,
    data: Dataset,
    device: torch.device,
    on_step: OnStep | None,
    checkpoint: Checkpoint | None,
) -> Pretrained:
    head = method.build_head(encoder, spec.encoder).to(device)
    plan, objective = spec.optimiser, spec.objective
    assert not isinstance(objective, RandomInit)
    steps = plan.epochs * (len(data) // plan.batch)
    optimiser = torch.optim.SGD(
        [*encoder.parameters(), *head.parameters()], plan.lr, plan.momentum, weight_decay=plan.weight_decay
    )
    history: list[dict[str, float]] = []
    worst, correct, positives = 0.0, 0.0, 0.0
    state = checkpoint.load() if checkpoint else None
    if state:
        encoder.load_state_dict(state["encoder"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        history, (worst, correct, positives) = state["history"], state["sums"]
        _set_random_state(state["random"], device)
    encoder.train()
    for step, pair, place in _pairs_of_views(spec, data, device, state["place"] if state else None):
        for group in optimiser.param_groups:
            group["lr"] = plan.lr * _rate(plan, step, steps)
        views = _forward(encoder, head, method, pair)
        if not bool(torch.isfinite(views.z1).all() & torch.isfinite(views.z2).all()):
            raise Diverged(f"features not finite at step {step} of {steps}")
        terms = method.checked_loss(views, objective)
        loss = terms.total
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % plan.log_every == 0 or step == steps - 1:
            entry = _entry(step, terms, optimiser.param_groups[0]["lr"])
            if not math.isfinite(entry["loss"]):
                raise Diverged(f"loss {entry['loss']} at step {step} of {steps}")
            if type(method).match is not Method.match:  # a loss of the plugin's own may do without
                detached = _detached(views)
                matches = method.matches(detached)
                forth, back = map(correct_positives, matches, (detached, detached.swapped()))
                right, every = forth[0] + back[0], forth[1] + back[1]
                correct, positives = correct + right, positives + every
                if every:
                    entry["matching_precision"] = right / every
                if type(method).loss is Method.loss:  # a loss of the plugin's own has no other form to compare with
                    reference = whole_loss(detached, matches, objective)
                    error = abs(reference - entry["loss"]) / max(1.0, abs(reference))
                    worst = max(worst, error if math.isfinite(error) else math.inf)  # max() would pass over a nan
            history.append(entry)
        if checkpoint and checkpoint.due:
            checkpoint.save(
                {
                    "encoder": encoder.state_dict(),
                    "head": head.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "history": history,
                    "sums": (worst, correct, positives),
                    "place": place,
                    "random": _random_state(device),
                }
            )
        if on_step:
            on_step(step + 1, steps)
    if not all(bool(torch.isfinite(p).all()) for p in encoder.state_dict().values()):
        raise Diverged(f"weights not finite after {steps} steps")
    return Pretrained(encoder.eval(), tuple(history), worst, correct / positives if positives else math.nan)


def untrained(spec: PretrainSpec) -> Encoder:
    """The encoder as initialised from the spec's seed, on the CPU."""
    with _seeded(spec.seed, torch.device("cpu")):
        return build_encoder(spec.encoder.name)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Modules draw from torch's global generators; borrow them."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the global generators."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1].cpu(), device)


def _pairs_of_views(
    spec: PretrainSpec, data: Dataset, device: torch.device, place: Place | None
) -> Iterator[tuple[int, PairOfViews, Place]]:
    """Each step with the two views of its batch and the place to go on from after it.

    The views depend on neither method nor objective, so the encoders of a sweep share them: where all fit in
    ``KEPT_VIEWS`` they are kept for the next one.
    """
    plan = spec.optimiser
    same = (spec.augment, spec.views, plan.batch, plan.epochs, spec.seed, device)
    if _kept and _kept[0][0] is data and _kept[0][1] == same:
        yield from _kept[0][2][place["step"] if place else 0 :]
        return
    _kept.clear()
    draws = torch.Generator().manual_seed(spec.seed)
    if place:
        draws.set_state(place["draws"].cpu())
    made: list[tuple[int, PairOfViews, Place]] = []
    fits = plan.epochs * len(data) * 2 * 3 * spec.augment.size**2 * 4 <= KEPT_VIEWS
    batches = len(data) // plan.batch
    order = place["order"].cpu() if place else None
    for step in range(place["step"] if place else 0, plan.epochs * batches):
        if order is None or step % batches == 0:
            order = torch.randperm(len(data), generator=draws)
        index = order[step % batches * plan.batch :][: plan.batch]
        pair = two_views(data.images[index].to(device, non_blocking=True), spec.augment, spec.views, draws)
        item = step, pair, {"step": step + 1, "order": order, "draws": draws.get_state()}
        if fits:
            made.append(item)
        yield item
    if fits and not place:
        _kept.append((data, same, made))


def _forward(encoder: Encoder, head: nn.Module, method: Method, views: PairOfViews) -> DenseViews:
    """Both views through encoder and head in one batch, as a matching strategy sees them."""
    (x1, g1), (x2, g2) = views
    feature_map = encoder(torch.cat([x1, x2]).contiguous(memory_format=torch.channels_last))
    features = pooled(feature_map) if method.level == "instance" else cells(feature_map)
    grid = (1, 1) if method.level == "instance" else (feature_map.shape[2], feature_map.shape[3])
    z1, z2 = method.project(head, features).chunk(2)
    h, norm = unit_and_norm(features.detach())
    (h1, h2), (norm1, norm2) = h.chunk(2), norm.chunk(2)
    (xy1, size1), (xy2, size2) = g1.cells(grid), g2.cells(grid)
    return DenseViews(z1, z2, h1, h2, norm1, norm2, xy1, xy2, size1, size2, grid)


def _detached(views: DenseViews) -> DenseViews:
    return replace(views, z1=views.z1.detach(), z2=views.z2.detach())


def _rate(plan: OptimiserSpec, step: int, steps: int) -> float:
    """The learning rate at a step, as a share of its peak."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    if plan.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - plan.warmup) / max(1, steps - plan.warmup)))
    return math.prod(0.1 for m in plan.milestones if step >= m * steps)


def _entry(step: int, terms: LossTerms, lr: float) -> dict[str, float]:
    return {
        "step": step,
        "loss": terms.total.item(),
        "alignment": terms.alignment.item(),
        "distribution": terms.distribution.item(),
        "lr": lr,
    }
