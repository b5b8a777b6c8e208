"""Learning rates over a training: schedules against torch, warm-up, temperature."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR
from trainings import AU, CPU, noise, resolve, spec_for, train

from cl_bench.spec import InfoNCE
from cl_bench.train import pretrain, training

pytestmark = pytest.mark.usefixtures("forget_methods")


def rates(**plan):
    return [entry["lr"] for entry in train(**plan).history]


def reference(schedule, steps, lr, warmup):
    """Compute the same schedule by torch's own schedulers."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr)
    schedulers, milestones = [schedule(optimiser)], []
    if warmup:
        schedulers.insert(0, LinearLR(optimiser, 1 / warmup, 1.0, max(1, warmup - 1)))
        milestones = [warmup]
    scheduler = SequentialLR(optimiser, schedulers, milestones) if warmup else schedulers[0]
    out = []
    for _ in range(steps):
        out.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return out


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_cosine_is_torch_s_after_the_warm_up(warmup):
    got = rates(epochs=5, lr=0.1, warmup=warmup)
    assert got == pytest.approx(reference(lambda o: CosineAnnealingLR(o, 20 - warmup), 20, 0.1, warmup), rel=1e-9)
    assert max(got) == 0.1 == got[max(0, warmup - 1)]
    assert 0 < got[-1] < 0.01 * 0.1


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_the_steps_are_torch_s():
    got = rates(epochs=5, lr=0.1, schedule="steps", milestones=[0.5, 0.75])
    assert got == pytest.approx(reference(lambda o: MultiStepLR(o, [10, 15]), 20, 0.1, 0), rel=1e-9)
    assert rates(epochs=1, schedule="steps") == [0.05] * 4
    assert rates(epochs=5, lr=0.1, schedule="steps", milestones=[0.5], warmup=4) == pytest.approx(
        [0.025, 0.05, 0.075] + [0.1] * 7 + [0.01] * 10
    )


def test_the_rate_is_the_one_that_is_used():
    def moved(**plan):
        spec = spec_for(momentum=0, weight_decay=0, **plan)
        before = dict(training.untrained(spec).named_parameters())
        done = pretrain.pretrain(spec, resolve("dense_index"), noise(16), CPU)
        return torch.cat([(p - before[k]).detach().flatten() for k, p in done.encoder.named_parameters()])

    step = moved(lr=1e-2)
    assert step.norm() > 0
    torch.testing.assert_close(moved(lr=5e-3), step / 2, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(moved(lr=1e-2, warmup=4), step / 4, rtol=1e-3, atol=1e-6)


def test_adam_s_first_step_is_the_rate_in_every_direction_and_decays_apart_from_the_gradient():
    def moved(**plan):
        spec = spec_for(name="adam", lr=1e-3, **plan)
        before = dict(training.untrained(spec).named_parameters())
        done = pretrain.pretrain(spec, resolve("dense_index"), noise(16), CPU)
        return {k: ((p - before[k]).detach(), before[k].detach()) for k, p in done.encoder.named_parameters()}

    step, start = moved(weight_decay=0)["trunk.0.0.weight"]
    assert 0.9 < (step.abs() / 1e-3).median() <= 1.001 and start.abs().max() > 0.1
    decayed, _ = moved(weight_decay=0.5)["trunk.0.0.weight"]
    torch.testing.assert_close(decayed, step - 1e-3 * 0.5 * start, rtol=0, atol=1e-6)


def test_the_rate_follows_the_temperature_of_info_nce_alone():
    def rate(objective):
        done = train(objective=objective, data=noise(16), lr=0.5, per_temperature=True)
        return done.history[0]["lr"]

    assert [rate(InfoNCE(temperature=t)) for t in (0.1, 2.0)] == pytest.approx([0.05, 1.0])
    assert rate(AU) == 0.5
