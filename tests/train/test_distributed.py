"""One model trained by 2 or 4 processes: views, gradients and weights of one process, up to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import drawn_scenes, ragged
from processes import together
from torch import nn

from cl_bench import LossTerms, Match, Method
from cl_bench.data import Dataset
from cl_bench.encoders import unit
from cl_bench.errors import Diverged
from cl_bench.losses.distributed import ALONE, Alone
from cl_bench.methods.method import REGISTERED
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import AlignUniform, AugmentSpec, EncoderSpec, InfoNCE, OptimiserSpec, PretrainSpec, ScenesSpec
from cl_bench.store import Run, Store
from cl_bench.train import checkpoint
from cl_bench.train.checkpoint import Checkpoint
from cl_bench.train.distributed import add_gradients, loss_of, synchronised
from cl_bench.train.forward import InChunks, forward
from cl_bench.train.pretrain import pretrain
from cl_bench.train.training import Pretrained, untrained
from cl_bench.train.view_batches import pairs_of_views, part_of_batch

CPU = torch.device("cpu")
SIZES = (2, pytest.param(4, marks=pytest.mark.slow))
STOP = 2
TRAININGS: dict[str, dict[str, Any]] = {
    "InfoNCE": {},
    "alignment and uniformity": {"objective": AlignUniform(w_a=1, w_u=1)},
    "optimal transport": {"method": "dense_emd"},
    "instances": {"method": "instance"},
    "chunks": {"chunk": 8},
    "loss of its own": {"method": "d_whole"},
    "batch norm in the head": {"method": "d_normed"},
    "bfloat16": {"precision": "bfloat16"},
}
EXACT = [name for name in TRAININGS if name != "bfloat16"]


class Whole(Method, name="d_whole"):
    """Compare images with others, which no process has alone."""

    def loss(self, views: Any, objective: Any) -> LossTerms:
        assert len(views.z1) == 16
        similar = views.z1.flatten(1) @ views.z2.flatten(1).mT
        order = torch.linspace(0, 1, len(similar), dtype=similar.dtype)
        return LossTerms(-similar.diagonal().mean(), (similar.exp() * order).mean() + views.h1.mean())


class Normed(Method, name="d_normed"):
    def head(self, encoder: Any, spec: Any) -> nn.Module:
        return _NormedHead(encoder.channels)

    def match(self, views: Any) -> Match:
        return Match.identity(views)


class Endless(Method, name="d_endless"):
    def head(self, encoder: Any, spec: Any) -> nn.Module:
        return _EndlessHead()

    def match(self, views: Any) -> Match:
        return Match.identity(views)


OWN = {kind.name: REGISTERED.pop(kind.name) for kind in (Whole, Normed, Endless)}  # of these tests alone


class _NormedHead(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False, momentum=None)
        self.net = nn.Linear(channels, 8)
        self.unused = nn.Linear(2, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return unit(self.net(self.norm(features.flatten(0, 1)).view_as(features)))


class _EndlessHead(nn.Module):
    """At the second step one process has a feature that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        there = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
        return unit(features) * (torch.inf if there and self.calls == 2 else 1)


@cache
def method_for(name: str) -> Method:
    return OWN[name]() if name in OWN else Registry().resolve(name)


def spec_for(method: str = "dense_index", objective: Any = None, **plan: Any) -> PretrainSpec:
    return PretrainSpec(
        method=spec_of(method_for(method)),
        objective=objective or InfoNCE(temperature=0.2),
        data=ScenesSpec(kind="single_object", split="train", images=64, size=16),
        views="overlapping",
        augment=AugmentSpec(size=16, flip=0.5),
        encoder=EncoderSpec(name="small_cnn", hidden=16, projection=8),
        optimiser=OptimiserSpec(**{"batch": 16, "epochs": 1, "lr": 0.05, "log_every": 1, **plan}),
        seed=0,
    )


def images_of(kind: str) -> Dataset:
    if kind == "ragged":
        return Dataset(ragged([(20 + n % 5, 17 + n % 7) for n in range(32)]), ())
    return drawn_scenes("single_object", "train", 64, 16)


def batches(kind: str, over: Alone, **plan: Any) -> Iterator[list[torch.Tensor]]:
    """Yield pixels and places of each batch's views."""
    with closing(pairs_of_views(spec_for(**plan), images_of(kind), CPU, None, over)) as drawn:
        for _, pair, _ in drawn:
            yield [x for pixels, of in pair for x in (pixels, *of.cells((2, 2)))]


def gradients(over: Alone, chunk: int | None, own_head: bool) -> list[torch.Tensor]:
    """Return the gradients of a step in float64, and what batch norm keeps after it."""
    spec, method = spec_for(chunk=chunk), method_for("d_normed" if own_head else "dense_index")
    encoder = untrained(spec).double()
    torch.manual_seed(1)
    head = method.build_head(encoder, spec.encoder).double()
    through = synchronised(partial(forward, encoder, head, method), over)
    with closing(pairs_of_views(spec, images_of("scenes"), CPU, None, over)) as drawn:
        _, pair, _ = next(drawn)
    (x1, g1), (x2, g2) = pair
    pair = (x1.double(), g1), (x2.double(), g2)
    chunks = InChunks(through, (encoder, head), chunk // over.size) if chunk else None
    views = chunks.forward(pair) if chunks else through(pair)
    loss_of(method, views, spec.objective, over).total.backward()
    if chunks:
        chunks.backward(views)
    parameters = [*encoder.parameters(), *head.parameters()]
    add_gradients(parameters, over)
    found = [p.grad for p in parameters if p.grad is not None]
    return [*found, *(b.double() for b in encoder.buffers()), *(b.double() for b in head.buffers())]


STEPS = [(chunk, own_head) for chunk in (None, 8) for own_head in (False, True)]


def trained(name: str, over: Alone, folder: Path | None = None, stop: int | None = None) -> Pretrained | None:
    """Return the outcome of a training, or None if it is stopped after so many steps."""

    def on_step(done: int, steps: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    spec = spec_for(**TRAININGS[name])
    kept = Checkpoint(Run(Store(folder), "0" * 64), CPU) if folder else None
    try:
        return pretrain(spec, method_for(spec.method.name), images_of("scenes"), CPU, on_step, kept, over)
    except KeyboardInterrupt:
        return None


def told(done: Pretrained | None) -> dict[str, Any]:
    assert done is not None
    return {
        "weights": list(done.encoder.state_dict().values()),
        "history": done.history,
        "figures": (done.decomposition_error, done.matching_precision, done.position_only_loss),
    }


def everything(over: Alone, folder: Path) -> dict[str, Any]:
    """Do all that the tests compare, in a process of its own."""
    found: dict[str, Any] = {
        "views": {kind: list(batches(kind, over)) for kind in ("scenes", "ragged")},
        "gradients": [gradients(over, *step) for step in STEPS],
        "trained": {name: told(trained(name, over)) for name in TRAININGS},
    }
    checkpoint.SECONDS_BETWEEN = 0.0
    (folder / "runs" / ("0" * 32)).mkdir(parents=True, exist_ok=True)
    assert trained("InfoNCE", over, folder, stop=STOP) is None
    found["resumed"] = told(trained("InfoNCE", over, folder))
    endless = method_for("d_endless")
    try:
        pretrain(spec_for(), endless, images_of("scenes"), CPU, over=over)
    except Diverged as error:
        found["diverged"] = str(error)
    return found


@pytest.fixture(scope="module", params=SIZES)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each process found, of so many."""
    folder: Path = tmp_path_factory.mktemp("processes")
    return together(request.param, partial(everything, folder=folder / "a store"), folder)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: told(trained(name, ALONE)) for name in TRAININGS}


@pytest.mark.parametrize("kind", ["scenes", "ragged"])
def test_the_views_of_all_processes_are_those_of_one(shared, kind):
    parts = [one["views"][kind] for one in shared]
    for whole, *own in zip(batches(kind, ALONE), *parts, strict=True):
        for expected, *found in zip(whole, *own, strict=True):
            torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "chunk"), [(2, None), (4, None), (2, 8), (4, 4)])
def test_every_chunk_is_divided(size, chunk):
    class Nth(Alone):
        def __init__(self, rank: int) -> None:
            self.rank, self.size = rank, size

    plan = OptimiserSpec(batch=16, epochs=1, lr=1, chunk=chunk)
    parts = [part_of_batch(plan, Nth(rank)) for rank in range(size)]
    assert torch.cat(parts).sort().values.tolist() == list(range(16))
    step = (chunk or 16) // size
    for k in range(16 // (chunk or 16)):
        images = torch.cat([part[k * step : (k + 1) * step] for part in parts])
        assert images.tolist() == list(range(k * (chunk or 16), (k + 1) * (chunk or 16)))
    assert part_of_batch(plan, ALONE) is None


@pytest.mark.parametrize("which", range(len(STEPS)), ids=map(str, STEPS))
def test_gradients_of_parameters_and_batch_norms_statistics_are_those_of_one_process(shared, which):
    expected = gradients(ALONE, *STEPS[which])
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in expected[:5])
    for one in shared:
        for found, reference in zip(one["gradients"][which], expected, strict=True):
            assert float((found - reference).abs().max()) <= 1e-10 * max(1, float(reference.abs().max()))


@pytest.mark.parametrize("name", TRAININGS)
def test_every_process_has_the_same_bits(shared, name):
    first, *others = (one["trained"][name] for one in shared)
    for other in others:
        assert all(a.equal(b) for a, b in zip(first["weights"], other["weights"], strict=True))
        assert repr((first["history"], first["figures"])) == repr((other["history"], other["figures"]))  # of nan too


@pytest.mark.parametrize("name", EXACT)
def test_a_training_gives_the_weights_and_the_figures_of_one_process(shared, alone, name):
    """Within what rounding grows to over the steps; ``test_gradients_...`` is exact about one."""
    found, expected = shared[0]["trained"][name], alone[name]
    for a, b in zip(found["weights"], expected["weights"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    for mine, theirs in zip(found["history"], expected["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert found["figures"][1:] == pytest.approx(expected["figures"][1:], rel=1e-3, nan_ok=True)
    assert found["figures"][0] <= 1e-5


def test_half_precision_trains_too(shared, alone):
    found, expected = (of["bfloat16"]["history"] for of in (shared[0]["trained"], alone))
    assert [e["loss"] for e in found] == pytest.approx([e["loss"] for e in expected], rel=0.02)


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(shared):
    for one in shared:
        whole, again = one["trained"]["InfoNCE"], one["resumed"]
        assert all(a.equal(b) for a, b in zip(whole["weights"], again["weights"], strict=True))
        assert (whole["history"], whole["figures"]) == (again["history"], again["figures"])


def test_what_one_process_finds_not_finite_ends_all_at_the_same_step(shared):
    assert [one["diverged"] for one in shared] == ["features not finite at step 1 of 4"] * len(shared)
