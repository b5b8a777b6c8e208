"""The training of one encoder, a step at a time: one for every method and objective."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from cl_bench.data import Dataset
from cl_bench.encoders import Encoder, to_channels_last
from cl_bench.encoders.trainable import trainable
from cl_bench.errors import Diverged, MethodError
from cl_bench.losses.checks import Gathered, all_finite, gathering, require
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
from cl_bench.train.rng import Numbers, random_state, seeded, set_random_state
from cl_bench.train.view_batches import PairOfViews, Place, first_place


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


class Training:
    """The training of one encoder, from its beginning or from its checkpoint.

    Several take steps in turn without a trace of the others: each has its own random numbers, and its own checks.

    Args:
        spec: Specification of the encoder and its training; not of an untrained encoder.
        method: Method of the spec.
        data: Images to train on.
        device: Device to train on.
        checkpoint: Checkpoint to continue from and to keep the state in.
        over: Processes that train the encoder together.

    Attributes:
        steps: Number of steps in all.
        place: Position in the batches of views to continue from.

    Raises:
        ValueError: If there are fewer images than a batch.
    """

    def __init__(
        self,
        spec: PretrainSpec,
        method: Method,
        data: Dataset,
        device: torch.device,
        checkpoint: Checkpoint | None = None,
        over: Alone = ALONE,
    ) -> None:
        plan, objective = spec.optimiser, spec.objective
        if len(data) < plan.batch:
            raise ValueError(
                f"pre-training needs a batch of {plan.batch} images at least, the data set has {len(data)}"
            )
        assert not isinstance(objective, RandomInit)
        self.spec, self._method, self._objective, self._device, self._over = spec, method, objective, device, over
        self._plan, self._checkpoint = plan, checkpoint
        self._numbers = Numbers(spec.seed + 1, device)  # the head's weights, and what a plugin draws in training
        self._checks = Gathered(partial(_told_as, method))  # not a method: a cycle would keep the memory of an encoder
        self._log = _Log(method, objective)
        self.steps = plan.epochs * (len(data) // plan.batch)
        self.place: Place = first_place(data)
        self._encoder = to_channels_last(untrained(spec), device)
        with self._turn():
            self._head = method.build_head(self._encoder, spec.encoder).to(device)
            self._parameters = [*self._encoder.parameters(), *self._head.parameters()]
            self._optimiser = _optimiser(self._parameters, plan)
            self._peak = plan.lr * (
                objective.temperature if plan.per_temperature and isinstance(objective, InfoNCE) else 1.0
            )
            state = resumed(checkpoint, self._state(), device, over)
            if state:
                self._resume(state)
            self._encoder.train()
            network: Network = torch.compile(self._encoder) if plan.compile else self._encoder
            through = partial(forward, network, self._head, method, precision=plan.precision)
            self._through = synchronised(through, over)
            modules = self._encoder, self._head
            self._chunks = InChunks(self._through, modules, plan.chunk // over.size) if plan.chunk else None

    def step(self, step: int, pair: PairOfViews, place: Place) -> None:
        """Take a step with both views of its batch; ``place`` is the position after it.

        Raises:
            Diverged: If a feature or a loss is not finite.
            MethodError: If the plugin fails.
        """
        with self._turn():
            for group in self._optimiser.param_groups:
                group["lr"] = self._peak * _rate(self._plan, step, self.steps)
            chunks, over = self._chunks, self._over
            views = chunks.forward(pair) if chunks else self._through(pair)
            finite = over.all(torch.isfinite(views.z1).all() & torch.isfinite(views.z2).all())
            require(finite, Diverged, "features not finite", f" at step {step} of {self.steps}")
            terms = loss_of(self._method, views, self._objective, over)
            loss = terms.total
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if chunks:
                chunks.backward(views)
            add_gradients(self._parameters, over)
            self._optimiser.step()
            if step % self._plan.log_every == 0 or step == self.steps - 1:
                self._checks.read(f" by step {step} of {self.steps}")
                rate = self._optimiser.param_groups[0]["lr"]
                self._log.add(step, self.steps, rate, whole_views(views, over), terms)
            self.place = place
            if self._checkpoint and over.rank == 0 and self._checkpoint.due:
                self._checkpoint.save(self._state())

    def finished(self) -> Pretrained:
        """Return the encoder after its last step.

        Raises:
            Diverged: If a weight is not finite.
        """
        log, encoder = self._log, self._encoder
        with self._turn():
            self._checks.read(f" by step {self.steps} of {self.steps}")
        if not all_finite(encoder.state_dict().values()):
            raise Diverged(f"weights not finite after {self.steps} steps")
        precision = log.correct / log.positives if log.positives else math.nan
        least = _position_only(encoder.eval(), self.spec, self._method, self._device)
        return Pretrained(encoder, tuple(log.history), log.worst, precision, least)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Do something of this training alone: with its random numbers, its checks and its precision."""
        halves = in_halves(self._plan.precision)
        with self._numbers.drawn(), gathering(self._device, self._checks), halves:
            yield

    def _state(self) -> State:
        log = self._log
        return {
            "encoder": self._encoder.state_dict(),
            "head": self._head.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "history": log.history,
            "sums": (log.worst, log.correct, log.positives),
            "place": self.place,
            "random": random_state(self._device),
        }

    def _resume(self, state: State) -> None:
        log = self._log
        self._encoder.load_state_dict(state["encoder"])
        self._head.load_state_dict(state["head"])
        self._optimiser.load_state_dict(state["optimiser"])
        log.history, (log.worst, log.correct, log.positives) = state["history"], state["sums"]
        self.place = state["place"]
        set_random_state(state["random"], self._device)


def _told_as(method: Method, error: Exception) -> Exception:
    return error if isinstance(error, Diverged) else MethodError(f"{method}: {error}")


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
