"""Short trainings on noise, for tests of pre-training."""

from __future__ import annotations

import torch

from cl_bench.data import Dataset
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import AlignUniform, AugmentSpec, EncoderSpec, InfoNCE, OptimiserSpec, PretrainSpec, ScenesSpec
from cl_bench.train import pretrain

NCE, AU = InfoNCE(temperature=0.2), AlignUniform(w_a=1, w_u=1)
CPU = torch.device("cpu")
LEVELS = {"dense": "dense_index", "instance": "instance"}


def noise(n=64, side=16):
    return Dataset(
        torch.randint(256, (n, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8), ()
    )


def resolve(plugin):
    return plugin() if isinstance(plugin, type) else Registry().resolve(plugin)


def spec_for(plugin="dense_index", objective=NCE, seed=0, views="overlapping", augment=None, **plan):
    return PretrainSpec(
        method=spec_of(resolve(plugin)),
        objective=objective,
        data=ScenesSpec(kind="single_object", split="train", images=64, size=16),
        views=views,
        augment=AugmentSpec(**{"size": 16, "flip": 0.5, **(augment or {})}),
        encoder=EncoderSpec(name="small_cnn", hidden=16, projection=8),
        optimiser=OptimiserSpec(**{"batch": 16, "epochs": 1, "lr": 0.05, "log_every": 1, **plan}),
        seed=seed,
    )


def train(plugin="dense_index", objective=NCE, data=None, on_step=None, **changes):
    spec = spec_for(plugin, objective, **changes)
    return pretrain.pretrain(spec, resolve(plugin), data or noise(), CPU, on_step)


def weights(done):
    return torch.cat([v.flatten().double() for v in done.encoder.state_dict().values()])
