"""Time of each part of a pre-training step, on one thread as in the sweep's workers.

python benchmarks/training_step.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from timing import finish, machine
from torch import Tensor, nn

from cl_bench.data import Dataset, load
from cl_bench.data.dataset import take
from cl_bench.data.on_device import on_device
from cl_bench.data.views import two_views
from cl_bench.encoders import build_encoder, to_channels_last
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import PretrainSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.train.forward import forward

CPU = torch.device("cpu")
STEPS = 12
SETTINGS = {
    "smoke (small_cnn, 24 px)": [],
    "ResNet-18, 64 px": [
        "encoder.name=resnet18",
        "encoder.hidden=512",
        "encoder.projection=128",
        "single_object.data.size=96",
        "single_object.augment.size=64",
    ],
}
T = TypeVar("T")


class _Given(nn.Module):
    """A replacement of the encoder that returns a given map, so that head and loss are timed without it."""

    def __init__(self, feature_map: Tensor) -> None:
        super().__init__()
        self.feature_map = feature_map

    def forward(self, _: Tensor) -> Tensor:
        return self.feature_map


def shares(spec: PretrainSpec, data: Dataset, device: torch.device = CPU) -> dict[str, float]:
    """Measure the median seconds of each part of a step, of which a device finishes one before the next begins."""
    seconds: dict[str, list[float]] = {}

    def timed(part: str, run: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = run()
        finish(device)
        seconds.setdefault(part, []).append(time.perf_counter() - start)
        return result

    method = Registry().resolve(spec.method.name)
    plan, held = spec.optimiser, on_device(data.images, device)
    encoder = to_channels_last(build_encoder(spec.encoder.name, spec.encoder.padding), device)
    head = method.head(encoder, spec.encoder).to(device)
    optimiser = torch.optim.SGD([*encoder.parameters(), *head.parameters()], plan.lr, plan.momentum)
    draws = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        images = take(held, torch.randperm(len(data), generator=draws)[: plan.batch])
        pair = timed("views", lambda images=images: two_views(images, spec.augment, spec.views, draws, device))
        x = torch.cat([pair[0][0], pair[1][0]]).contiguous(memory_format=torch.channels_last)
        feature_map = timed("encoder", lambda x=x: encoder(x))
        cut = feature_map.detach().requires_grad_()
        views = timed("head", lambda cut=cut, pair=pair: forward(_Given(cut), head, method, pair))  # type: ignore[arg-type]  # a stand-in
        z1, z2 = (z.detach().requires_grad_() for z in (views.z1, views.z2))
        at_z = replace(views, z1=z1, z2=z2)
        terms = timed("loss", lambda at_z=at_z: method.checked_loss(at_z, spec.objective))
        timed("loss", lambda terms=terms: terms.total.backward())
        timed(
            "head", lambda views=views, z=(z1, z2): torch.autograd.backward([views.z1, views.z2], [g.grad for g in z])
        )
        timed("encoder", lambda feature_map=feature_map, cut=cut: feature_map.backward(cut.grad))
        timed("optimiser", optimiser.step)
        optimiser.zero_grad()
    calls = {part: len(times) // STEPS for part, times in seconds.items()}
    return {
        part: sum(statistics.median(times[k :: calls[part]]) for k in range(calls[part]))
        for part, times in seconds.items()
    }


def main() -> None:
    """Print a row for each objective and setting."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    print(machine())
    parts = ("views", "encoder", "head", "loss", "optimiser")
    print(f"| step | objective | {' | '.join(f'{p}, ms' for p in parts)} | loss + views | loss, views kept |")
    print("|---" * (len(parts) + 4) + "|")
    for name, settings in SETTINGS.items():
        profile = load_profile("smoke", settings)
        method = spec_of(Registry().resolve("dense_index"))
        sweep = profile.sweep(Row(method, "single_object", "overlapping"))
        for run in (sweep[2], sweep[-1]):
            s = shares(run.pretrain, load(run.pretrain.data))
            whole = sum(s.values())
            times = " | ".join(f"{1000 * s[part]:.1f}" for part in parts)
            kept = s["loss"] / (whole - s["views"])
            both = (s["loss"] + s["views"]) / whole
            print(f"| {name} | {run.pretrain.objective.config} | {times} | {both:.0%} | {kept:.0%} |", flush=True)


if __name__ == "__main__":
    main()
