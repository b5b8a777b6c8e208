"""Pre-training: one loop for every method and objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch

from cl_bench.data import Dataset
from cl_bench.encoders import Encoder
from cl_bench.encoders.trainable import trainable
from cl_bench.errors import Diverged, MethodError
from cl_bench.losses.checks import all_finite, gathering, require
from cl_bench.losses.distributed import ALONE, Alone
from cl_bench.losses.fused import in_halves
from cl_bench.losses.optima import position_only_loss
from cl_bench.losses.reference import whole_loss
from cl_bench.losses.types import DenseViews, LossTerms, correct_positives
from cl_bench.methods.method import Method
from cl_bench.spec import AlignUniform, InfoNCE, OptimiserSpec, PretrainSpec, RandomInit
from cl_bench.train.checkpoint import Checkpoint, State
from cl_bench.train.distributed import add_gradients, loss_of, resumed, synchronised, whole_views
from cl_bench.train.forward import InChunks, Network, forward
from cl_bench.train.rng import random_state, seeded, set_random_state
from cl_bench.train.view_batches import Place, first_place, pairs_of_views

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained encoder and the figures of its training.

    Attributes:
        encoder: Encoder in eval mode, on the device it was trained on.
        history: One entry per logged step: step, loss, alignment, distribution, lr, and the step's matching precision
            where it is defined.
        decomposition_error: Largest |undecomposed loss - sum of its terms| / max(1, |loss|) over the logged steps.
        matching_precision: Share, in [0, 1], of the positives of all logged steps, in both directions, whose cells
            overlap in the source image; nan where there are none (nothing trained, or a method without a ``match``).
        position_only_loss: Least loss of features that encode only the place of their cell, under matching by index
            (``losses.optima``); nan where nothing was trained, at instance level and for a plugin with its own loss.
    """

    encoder: Encoder
    history: tuple[dict[str, float], ...]
    decomposition_error: float
    matching_precision: float = math.nan
    position_only_loss: float = math.nan


def pretrain(
    spec: PretrainSpec,
    method: Method | None,
    data: Dataset,
    device: torch.device,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
    over: Alone = ALONE,
) -> Pretrained:
    """Pre-train an encoder; on a CPU the same spec gives the same weights bit for bit, interrupted or not.

    Args:
        spec: Specification of the encoder and its training.
        method: Method of the spec; None only for the objective ``random_init``, which trains nothing.
        data: Images to train on.
        device: Device to train on.
        on_step: Function that is called after each step with (steps done, steps in all).
        checkpoint: Checkpoint to continue from and to keep the state in. A method with learnt parameters of its own
            must keep them in its head's state.
        over: Processes that train the encoder together, each of which calls this; the first keeps the checkpoint. The
            result is that of one process up to rounding, unless a network or a method draws random numbers.

    Raises:
        Diverged: If a feature, a loss or a weight is not finite; a feature and a loss with the step. On a GPU features
            and matches are checked at logged steps, for all steps since the last one.
        MethodError: If the plugin fails.
        ValueError: If there are fewer images than a batch.
    """
    encoder = untrained(spec).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(spec.objective, RandomInit) or method is None:
        return Pretrained(encoder.eval(), (), 0.0)
    if len(data) < spec.optimiser.batch:
        least = spec.optimiser.batch
        raise ValueError(f"pre-training needs a batch of {least} images at least, the data set has {len(data)}")
    with seeded(spec.seed + 1, device):  # the head's weights, and what a plugin draws in training
        return _trained(encoder, spec, method, data, device, on_step, checkpoint, over)


def _trained(
    encoder: Encoder,
    spec: PretrainSpec,
    method: Method,
    data: Dataset,
    device: torch.device,
    on_step: OnStep | None,
    checkpoint: Checkpoint | None,
    over: Alone,
) -> Pretrained:
    head = method.build_head(encoder, spec.encoder).to(device)
    plan, objective = spec.optimiser, spec.objective
    assert not isinstance(objective, RandomInit)
    steps = plan.epochs * (len(data) // plan.batch)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = _optimiser(parameters, plan)
    peak = plan.lr * (objective.temperature if plan.per_temperature and isinstance(objective, InfoNCE) else 1.0)
    log = _Log(method, objective)

    def state_at(place: Place) -> State:
        return {
            "encoder": encoder.state_dict(),
            "head": head.state_dict(),
            "optimiser": optimiser.state_dict(),
            "history": log.history,
            "sums": (log.worst, log.correct, log.positives),
            "place": place,
            "random": random_state(device),
        }

    state = resumed(checkpoint, state_at(first_place(data)), device, over)
    if state:
        encoder.load_state_dict(state["encoder"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        log.history, (log.worst, log.correct, log.positives) = state["history"], state["sums"]
        set_random_state(state["random"], device)
    encoder.train()
    network: Network = torch.compile(encoder) if plan.compile else encoder
    through = synchronised(partial(forward, network, head, method, precision=plan.precision), over)
    chunks = InChunks(through, (encoder, head), plan.chunk // over.size) if plan.chunk else None

    def told_as(error: Exception) -> Exception:
        return error if isinstance(error, Diverged) else MethodError(f"{method}: {error}")

    views_of_batches = pairs_of_views(spec, data, device, state["place"] if state else None, over)
    halves = in_halves(plan.precision)
    with closing(views_of_batches) as batches, gathering(device, told_as) as checks, halves:
        for step, pair, place in batches:
            for group in optimiser.param_groups:
                group["lr"] = peak * _rate(plan, step, steps)
            views = chunks.forward(pair) if chunks else through(pair)
            finite = over.all(torch.isfinite(views.z1).all() & torch.isfinite(views.z2).all())
            require(finite, Diverged, "features not finite", f" at step {step} of {steps}")
            terms = loss_of(method, views, objective, over)
            loss = terms.total
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if chunks:
                chunks.backward(views)
            add_gradients(parameters, over)
            optimiser.step()
            if step % plan.log_every == 0 or step == steps - 1:
                checks.read(f" by step {step} of {steps}")
                log.add(step, steps, optimiser.param_groups[0]["lr"], whole_views(views, over), terms)
            if checkpoint and over.rank == 0 and checkpoint.due:
                checkpoint.save(state_at(place))
            if on_step:
                on_step(step + 1, steps)
        checks.read(f" by step {steps} of {steps}")
    if not all_finite(encoder.state_dict().values()):
        raise Diverged(f"weights not finite after {steps} steps")
    precision = log.correct / log.positives if log.positives else math.nan
    encoder.eval()
    return Pretrained(encoder, tuple(log.history), log.worst, precision, _position_only(encoder, spec, method, device))


@torch.no_grad()
def _position_only(encoder: Encoder, spec: PretrainSpec, method: Method, device: torch.device) -> float:
    """Compute ``Pretrained.position_only_loss``; the grid is that of a view's feature map."""
    if method.level == "instance" or type(method).loss is not Method.loss or isinstance(spec.objective, RandomInit):
        return math.nan
    grid = encoder(torch.zeros(1, 3, spec.augment.size, spec.augment.size, device=device)).shape[2:]
    return position_only_loss(spec.objective, spec.optimiser.batch, grid.numel())


class _Log:
    """History and running sums of the logged steps, which become attributes of ``Pretrained``."""

    def __init__(self, method: Method, objective: InfoNCE | AlignUniform) -> None:
        self.method, self.objective = method, objective
        self.history: list[dict[str, float]] = []
        self.worst, self.correct, self.positives = 0.0, 0.0, 0.0

    def add(self, step: int, steps: int, lr: float, views: DenseViews, terms: LossTerms) -> None:
        """Log a step from its views and its loss, and compare the loss with its undecomposed form.

        Raises:
            Diverged: If the loss is not finite.
        """
        parts = {"loss": terms.total, "alignment": terms.alignment, "distribution": terms.distribution}
        values = torch.stack([part.detach().double() for part in parts.values()]).tolist()
        entry = {"step": step, **dict(zip(parts, values, strict=True)), "lr": lr}
        if not math.isfinite(entry["loss"]):
            raise Diverged(f"loss {entry['loss']} at step {step} of {steps}")
        if type(self.method).match is not Method.match:  # a plugin with its own loss may have no match
            detached = replace(views, z1=views.z1.detach(), z2=views.z2.detach())
            matches = self.method.matches(detached)
            forth, back = map(correct_positives, matches, (detached, detached.swapped()))
            right, every = (forth + back).tolist()
            self.correct, self.positives = self.correct + right, self.positives + every
            if every:
                entry["matching_precision"] = right / every
            if type(self.method).loss is Method.loss:  # a plugin's own loss has no other form to compare with
                reference = whole_loss(detached, matches, self.objective)
                error = abs(reference - entry["loss"]) / max(1.0, abs(reference))
                self.worst = max(self.worst, error if math.isfinite(error) else math.inf)  # max() would ignore a nan
        self.history.append(entry)


def untrained(spec: PretrainSpec) -> Encoder:
    """Build the encoder as initialised from the spec's seed, on the CPU."""
    with seeded(spec.seed, torch.device("cpu")):
        return trainable(spec.encoder, spec.augment.size, spec.seed)


def _optimiser(parameters: list[torch.nn.Parameter], plan: OptimiserSpec) -> torch.optim.Optimizer:
    if plan.name == "adam":
        return torch.optim.AdamW(parameters, plan.lr, (plan.momentum, 0.999), weight_decay=plan.weight_decay)
    return torch.optim.SGD(parameters, plan.lr, plan.momentum, weight_decay=plan.weight_decay)


def _rate(plan: OptimiserSpec, step: int, steps: int) -> float:
    """Return the learning rate at a step, as a share of its peak."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    if plan.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - plan.warmup) / max(1, steps - plan.warmup)))
    return math.prod(0.1 for m in plan.milestones if step >= m * steps)
