"""The pretended GPU refuses what CUDA refuses, counts what makes the CPU wait, and computes what the CPU does."""

from __future__ import annotations

import pytest
import torch
from helpers import rng
from pretended_gpu import CPU, GPU, DeviceError, pretended_gpu
from torch import nn
from torch.nn.functional import interpolate, normalize

from cl_bench import DenseViews, Match, Method, matching
from cl_bench.errors import MethodError, PredictorError
from cl_bench.losses.terms import info_nce
from cl_bench.methods.method import REGISTERED
from cl_bench.methods.synthetic import synthetic_views
from cl_bench.predictors.contract import synthetic as synthetic_features
from cl_bench.predictors.predictor import Predictor, Seen
from cl_bench.spec import InfoNCE


def here(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=rng())


def there(*shape: int) -> torch.Tensor:
    return here(*shape).to(GPU)


def half_moved() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].to(GPU)
    model(there(2, 4))


def forgotten_buffer() -> None:
    norm = nn.BatchNorm1d(4).to(GPU)
    norm.running_mean = torch.zeros(4)
    norm(there(8, 4))


def across_the_loss() -> None:
    z = normalize(here(2, 3, 4), dim=-1)
    info_nce(z.to(GPU), z.to(GPU), Match(index=torch.arange(3).expand(2, 3)))


PLANTED = {
    "sum": lambda: there(3) + here(3),
    "product of matrices": lambda: there(3, 4) @ here(4, 2),
    "number in a product of matrices": lambda: torch.dot(there(1), here(1)),
    "concatenation": lambda: torch.cat([there(3), here(3)]),
    "stacked numbers": lambda: torch.stack([there(), here()]),
    "mask": lambda: torch.where(here(3) > 0.5, there(3), 0.0),
    "gathering": lambda: there(3).gather(0, torch.arange(2)),
    "rows by a CPU index": lambda: there(3, 4).index_select(0, torch.arange(2)),
    "CPU tensor by a GPU index": lambda: here(3)[torch.arange(2, device=GPU)],
    "written rows": lambda: there(3, 4).index_put_((torch.arange(2, device=GPU),), here(2, 4)),
    "written in place": lambda: here(3).add_(there(3)),
    "output": lambda: torch.add(there(3), there(3), out=torch.empty(3)),
    "CPU generator": lambda: torch.rand(3, generator=rng(), device=GPU),
    "CPU generator in place": lambda: there(3).normal_(generator=rng()),
    "array": lambda: there(3).numpy(),
    "pinned": lambda: there(3).pin_memory(),
    "uint8 resizing": lambda: interpolate(there(1, 3, 8, 8).byte(), (4, 4), mode="bilinear", antialias=True),
    "half-moved module": half_moved,
    "forgotten buffer": forgotten_buffer,
    "match of the loss": across_the_loss,
}


@pytest.mark.parametrize("mistake", PLANTED.values(), ids=PLANTED)
def test_planted_mismatches_are_caught(mistake):
    with pretended_gpu(), pytest.raises(DeviceError):
        mistake()


@pytest.mark.parametrize("kind", ["match on the CPU", "mask on the CPU"])
@pytest.mark.usefixtures("forget_methods")
def test_a_methods_mismatch_is_told_with_its_line(kind):
    @matching("careless")
    def careless(views: DenseViews) -> Match:
        B, P = views.z1.shape[:2]
        if kind == "match on the CPU":
            return Match(index=torch.arange(P).expand(B, P))
        weights = views.cosine().masked_fill(torch.eye(P, dtype=torch.bool), 0.0)
        return Match(weights=weights.softmax(-1))

    method: Method = REGISTERED["careless"]()
    said = "match is on cpu, the views are on cuda:0" if kind == "match on the CPU" else r"careless.*of cuda:0 and cpu"
    with pretended_gpu(), pytest.raises(MethodError, match=said):
        method.checked_loss(synthetic_views(method, GPU), InfoNCE(temperature=0.2))


def test_a_predictors_mismatch_is_told():
    def careless(seen: Seen) -> float:
        return float((seen.h1 * torch.ones(seen.h1.shape[-1])).sum())

    found = Predictor("careless", "low", ("dense",), (), careless, "here:1", __name__)
    seen = synthetic_features("dense")
    with pretended_gpu(), pytest.raises(PredictorError, match="of cuda:0 and cpu"):
        found(Seen.of("dense", seen.x1.to(GPU), seen.x2.to(GPU), 0.5))


WAITS = {
    "item": (lambda x: x[0].item(), 1),
    "list": (lambda x: x.tolist(), 1),
    "condition": (lambda x: bool(x[0] > 0), 1),
    "places": (lambda x: x.nonzero(), 1),
    "mask": (lambda x: x[x > 0.5], 1),
    "to the CPU": (lambda x: x.cpu(), 1),
    "from unpinned memory": (lambda x: torch.ones(3).to(GPU), 1),
    "list to the GPU": (lambda x: torch.tensor([1.0], device=GPU), 1),
    "index of the CPU": (lambda x: x[torch.tensor([0])], 1),
    "equality": (lambda x: torch.equal(x, x), 1),
    "written by a mask": (lambda x: x.__setitem__(x > 0.5, torch.ones(1, device=GPU)), 1),
    "number written by a mask": (lambda x: x.__setitem__(x > 0.5, 1.0), 0),
    "from pinned memory": (lambda x: torch.ones(3).pin_memory().to(GPU, non_blocking=True), 0),
    "number of the CPU": (lambda x: x * torch.tensor(2.0), 0),
    "number": (lambda x: torch.where(x > 0.5, x, 2.0).sum(), 0),
    "views": (lambda x: x[1:].view(1, -1).mT, 0),
}


@pytest.mark.parametrize(("use", "times"), WAITS.values(), ids=WAITS)
def test_each_wait_of_the_cpu_is_counted_with_its_line(use, times):
    with pretended_gpu() as counts:
        x = there(5)
        counts.clear()
        use(x)
    assert counts.synchronisations.total() == times
    assert all(" at tests/test_pretended_gpu.py:" in told for told in counts.synchronisations)


def test_kernels_are_counted_and_views_and_allocations_are_not():
    with pretended_gpu() as counts:
        x = there(5)
        counts.clear()
        torch.empty_like(x[1:].view(2, 2).mT).copy_(x[:4].view(2, 2)).add_(1)
    assert counts.operations == {"copy_": 1, "add_": 1}


def test_values_and_gradients_are_the_cpus():
    def run(device: torch.device) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).to(device)
        optimiser = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        for _ in range(2):
            optimiser.zero_grad()
            model(here(6, 4).to(device)).square().sum().backward()
            optimiser.step()
        assert {p.device for p in model.state_dict().values()} == {device}
        return [p.detach().cpu() for p in model.state_dict().values()]

    with pretended_gpu():
        found = run(GPU)
    assert all(map(torch.equal, found, run(CPU)))


def test_nothing_is_left_behind():
    before = torch.cuda.device_count, torch.cuda._lazy_init
    with pretended_gpu():
        x = there(3)
    assert (torch.cuda.device_count, torch.cuda._lazy_init) == before
    assert torch.autograd.is_multithreading_enabled()
    with pytest.raises(DeviceError, match="outside"):
        x + 1
