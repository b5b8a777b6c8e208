"""Linear evaluation: how much a linear classifier reads from the pooled feature of a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cl_bench.data import Dataset
from cl_bench.encoders import Encoder, pooled
from cl_bench.errors import Diverged
from cl_bench.spec import LinearSpec

BATCH = 256


def evaluate_linear(
    encoder: Encoder,
    train: Dataset,
    test: Dataset,
    spec: LinearSpec,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device,
    on_step: Callable[[int, int], None] | None = None,
) -> float:
    """Test accuracy in percent after the last epoch.

    ``cached`` protocol: features of the un-augmented images, computed once; the optimiser and its schedule are those of
    Wang & Isola's linear evaluation (Adam 1e-3, betas .5 and .999, batch 128, rate x 0.2 at 60 and 80 of 100 epochs).

    Args:
        encoder: Frozen, in eval mode.
        train: Labelled images.
        test: Labelled images.
        spec: Epochs, batch, rates, seed.
        mean: Of the pixels, by channel, in [0, 1].
        std: Of the pixels, by channel.
        device: Where.
        on_step: Called with (epochs done, epochs in all).

    Raises:
        Diverged: Features or weights that are not finite.
        ValueError: Data without labels.
    """
    if train.labels is None or test.labels is None:
        raise ValueError("linear evaluation needs labelled images, got a data set without labels")
    x, y = _features(encoder, train, mean, std, device), train.labels.to(device)
    centre, spread = torch.zeros_like(x[0]), torch.ones_like(x[0])
    if spec.standardise:
        spread, centre = torch.std_mean(x, dim=0)
        spread = spread.where(spread > 0, 1.0)
        x = (x - centre) / spread
    draws = torch.Generator().manual_seed(spec.seed)
    # Not initialised by torch: that would draw from the global generator.
    classifier: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, x.shape[1], len(train.classes), device=device
    )
    bound = x.shape[1] ** -0.5  # torch's own initialisation, from our generator
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=draws) * 2 - 1) * bound)
    optimiser = torch.optim.Adam(classifier.parameters(), spec.lr, spec.betas)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(spec.milestones), spec.gamma)
    for epoch in range(spec.epochs):
        for index in torch.split(torch.randperm(len(x), generator=draws).to(device), spec.batch):
            loss = nn.functional.cross_entropy(classifier(x[index]), y[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
        if on_step:
            on_step(epoch + 1, spec.epochs)
    if not bool(torch.isfinite(classifier.weight).all()):
        raise Diverged("linear classifier's weights are not finite")
    with torch.no_grad():
        features = (_features(encoder, test, mean, std, device) - centre) / spread
        guess = classifier(features).argmax(1)
    return 100 * float((guess.cpu() == test.labels).double().mean())


@torch.no_grad()
def _features(
    encoder: Encoder,
    data: Dataset,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device,
) -> Tensor:
    """(N, C) pooled features."""
    m, s = (torch.tensor(v, device=device)[:, None, None] for v in (mean, std))
    out = []
    for images in torch.split(data.images, BATCH):
        normalised = (images.to(device).float() / 255 - m) / s
        out.append(pooled(encoder(normalised.contiguous(memory_format=torch.channels_last))).squeeze(1))
    features = torch.cat(out)
    if not bool(torch.isfinite(features).all()):
        raise Diverged("backbone features are not finite")
    return features
