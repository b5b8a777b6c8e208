"""Linear evaluation: accuracy of a linear classifier on the pooled features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TypedDict

import torch
from torch import Tensor, nn

from cl_bench.data import Dataset, Images
from cl_bench.data.colour import to_device
from cl_bench.data.crops import resized
from cl_bench.data.dataset import take
from cl_bench.data.on_device import on_device
from cl_bench.data.views import random_view
from cl_bench.encoders import Backbone
from cl_bench.errors import Diverged
from cl_bench.spec import AugmentSpec, LinearSpec

BATCH = 256


class Accuracy(TypedDict):
    """Result of linear evaluation, in percent.

    Attributes:
        accuracy: Accuracy over all test images.
        halves: Accuracy over the images at even and at odd positions; a single image has no second half.
    """

    accuracy: float
    halves: list[float]


def evaluate_linear(
    encoder: Backbone,
    train: Dataset,
    test: Dataset,
    spec: LinearSpec,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device,
    on_step: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Train a linear classifier and return its test accuracy after the last epoch, of all images and of each half.

    The ``augmented`` protocol is Wang & Isola's linear evaluation, with their optimiser and schedule (Adam 1e-3, betas
    .5 and .999, batch 128, rate x 0.2 at 60 and 80 of 100 epochs). The ``cached`` protocol is the same, except that the
    features are those of images without augmentation, computed once.

    Args:
        encoder: Frozen encoder in eval mode.
        train: Labelled images to train on.
        test: Labelled images to test on.
        spec: Protocol, epochs, batch, rates, seed.
        mean: Mean of the encoder's input by channel, on the scale [0, 1], used where the spec names none.
        std: Standard deviation of the encoder's input, likewise.
        device: Device to compute on.
        on_step: Function that is called with (epochs done, epochs in all).

    Raises:
        Diverged: If features or weights are not finite.
        ValueError: If the data have no labels, or a test image has a class that the training images lack.

    Source: Wang & Isola, ICML 2020.
    """
    if train.labels is None or test.labels is None:
        raise ValueError("linear evaluation needs labelled images, got a data set without labels")
    test = test.labelled_as(train)
    seen = _Pixels(spec, mean, std, device)
    y = train.labels.to(device)
    x = None
    centre, spread = torch.zeros(encoder.channels, device=device), torch.ones(encoder.channels, device=device)
    if spec.protocol == "cached":
        x = _features(encoder, seen.plain(train.images))
        if spec.standardise:
            spread, centre = torch.std_mean(x, dim=0)
            spread = spread.where(spread > 0, 1.0)
            x = (x - centre) / spread
    images = train.images if x is not None else on_device(train.images, device)
    draws = torch.Generator().manual_seed(spec.seed)
    # torch's own initialisation is skipped, because it would draw from the global generator.
    classifier: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]  # torch's own
        nn.Linear, encoder.channels, len(train.classes), device=device
    )
    bound = encoder.channels**-0.5  # torch's own initialisation, from our generator
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=draws) * 2 - 1) * bound)
    optimiser = torch.optim.Adam(classifier.parameters(), spec.lr, spec.betas)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(spec.milestones), spec.gamma)
    for epoch in range(spec.epochs):
        for index in torch.split(torch.randperm(len(train), generator=draws), spec.batch):
            where = to_device(index, device)
            features = _features(encoder, [seen.augmented(images, index, draws)]) if x is None else x[where]
            loss = nn.functional.cross_entropy(classifier(features), y[where])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimiser.step()
        schedule.step()
        if on_step:
            on_step(epoch + 1, spec.epochs)
    if not bool(torch.isfinite(classifier.weight).all()):
        raise Diverged("linear classifier's weights are not finite")
    with torch.no_grad():
        features = (_features(encoder, seen.plain(test.images)) - centre) / spread
        right = classifier(features).argmax(1).cpu() == test.labels
    halves = [100 * float(half.double().mean()) for half in (right[::2], right[1::2]) if len(half)]
    return {"accuracy": 100 * float(right.double().mean()), "halves": halves}


class _Pixels:
    """Source of the encoder's input, normalised batches (B, 3, h, w)."""

    def __init__(
        self, spec: LinearSpec, mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
    ) -> None:
        self.spec, self.device = spec, device
        mean, std = spec.mean or mean, spec.std or std
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (mean, std))
        if spec.protocol == "augmented":
            assert spec.size is not None
            self.augment = AugmentSpec(
                size=spec.size, scale=spec.scale, flip=0.5, jitter=0, grayscale=0, mean=mean, std=std
            )

    def plain(self, images: Images) -> Iterator[Tensor]:
        """Yield batches of all images in order, each batch of one size; centre crops where the spec names a size."""
        for index in torch.split(torch.arange(len(images)), BATCH):
            shown = take(images, index)
            if self.spec.size is not None:
                shown = [_centre(resized(image, self.spec.resize), self.spec.size) for image in shown]
            for _, alike in groupby(shown, key=lambda image: image.shape):
                yield (torch.stack([*alike]).to(self.device).float() / 255 - self.mean) / self.std

    def augmented(self, images: Images, index: Tensor, draws: torch.Generator) -> Tensor:
        """Return random crops of those images, mirrored with probability one half."""
        return random_view(take(images, index), self.augment, draws, self.device)


def _centre(image: Tensor, size: int) -> Tensor:
    top, left = (round((side - size) / 2) for side in image.shape[-2:])
    return image[..., top : top + size, left : left + size]


@torch.no_grad()
def _features(encoder: Backbone, batches: Iterator[Tensor] | list[Tensor]) -> Tensor:
    """Compute the (N, C) pooled features of the images in all batches."""
    out = [encoder.features(batch.contiguous(memory_format=torch.channels_last)).pooled for batch in batches]
    features = torch.cat(out)
    if not bool(torch.isfinite(features).all()):
        raise Diverged("backbone features are not finite")
    return features
