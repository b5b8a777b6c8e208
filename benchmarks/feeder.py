"""Two augmented views of every image of an epoch: our feeder compared with a DataLoader of torchvision's transforms.

Our feeder runs in one process, and in two workers with one thread each, as a sweep's encoders are trained on two cores.
Of its work the crops are also timed alone: resized, and only copied, which is the host's part when a GPU does the rest.

python benchmarks/feeder.py
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageFilter
from timing import machine, medians
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from cl_bench.compute.memory import keep_freed_memory
from cl_bench.data import Dataset, Images, Ragged
from cl_bench.data.crops import at_a_time, end_to_end, resized_crops
from cl_bench.data.dataset import take
from cl_bench.data.views import draw
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import AugmentSpec, EncoderSpec, InfoNCE, OptimiserSpec, PretrainSpec, ScenesSpec
from cl_bench.train import view_batches
from cl_bench.train.view_batches import pairs_of_views

CPU = torch.device("cpu")
CORES = 2
SETTINGS = {
    "COCO": (AugmentSpec(size=224, flip=0.5, blur=0.5), 64),
    "STL-10": (AugmentSpec(size=64, scale=(0.08, 1.0), flip=0.5, hue=0.4), 768),
}
"""Augmentation and batch of each setting."""


def pictures(n: int, height: int, width: int) -> list[Image.Image]:
    """Make smooth random colours with a texture on them: like a photograph, neither flat nor noise to JPEG."""
    draws = np.random.default_rng(0)
    out = []
    for _ in range(n):
        small = Image.fromarray(draws.integers(256, size=(8, 10, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        texture = draws.normal(0, 10, (height, width, 1)).astype(np.float32)
        out.append(Image.fromarray((smooth + texture).clip(0, 255).astype(np.uint8)))
    return out


class Pil:
    """The blur of MoCo and DenseCL, by PIL, several times faster than torchvision's."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class Files(TorchDataset[tuple[Tensor, Tensor]]):
    """Two views of each image by torchvision's transforms, from JPEG bytes in files or from arrays."""

    def __init__(self, source: Sequence[Path] | np.ndarray, augment: AugmentSpec, blur: Callable[..., object]) -> None:
        a = augment
        jitter = transforms.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)
        self.source = source
        self.views = transforms.Compose(
            [
                transforms.RandomResizedCrop(a.size, a.scale),
                transforms.RandomApply([jitter], a.jitter),
                transforms.RandomGrayscale(a.grayscale),
                *([transforms.RandomApply([blur], a.blur)] if a.blur else []),
                transforms.RandomHorizontalFlip(a.flip),
                transforms.ToTensor(),
                transforms.Normalize(a.mean, a.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        found = self.source[index]
        image = Image.open(found).convert("RGB") if isinstance(found, Path) else Image.fromarray(found)
        return self.views(image), self.views(image)


def spec_of_views(images: int, augment: AugmentSpec, batch: int, epochs: int = 1, **plan: Any) -> PretrainSpec:
    """Make the spec of a ResNet-18 trained on so many images with those views; ``plan`` is the optimiser's."""
    return PretrainSpec(
        method=spec_of(Registry().resolve("dense_index")),
        objective=InfoNCE(temperature=0.2),
        data=ScenesSpec(kind="multi_object", split="train", images=images, size=augment.size),
        views="overlapping",
        augment=augment,
        encoder=EncoderSpec(name="resnet18"),
        optimiser=OptimiserSpec(batch=batch, epochs=epochs, lr=0.1, **plan),
        seed=0,
    )


def ours(images: Images, augment: AugmentSpec, batch: int) -> Callable[[], None]:
    """Make a function that runs an epoch through the feeder."""
    spec = spec_of_views(len(images), augment, batch)
    data = Dataset(images, ())

    def run() -> None:
        with mock.patch.object(view_batches, "KEPT_VIEWS", 0):  # the views of a whole data set would not fit
            for _, ((first, _), (second, _)), _ in pairs_of_views(spec, data, CPU, None):
                assert first.shape == second.shape == (batch, 3, augment.size, augment.size)

    return run


def crops(images: Ragged, augment: AugmentSpec, batch: int, resize: bool) -> Callable[[], None]:
    """Make a function that resizes the crops of an epoch, or only copies them."""
    draws = torch.Generator().manual_seed(0)

    def run() -> None:
        for index in torch.randperm(len(images), generator=draws).split(batch)[: len(images) // batch]:
            height, width = images.sizes[index].unbind(1)
            for view in draw(batch, height, width, augment, "overlapping", draws):
                whole = take(images, index)
                if resize:
                    assert len(resized_crops(whole, view.boxes, view.flips, augment.size)) == batch
                    continue
                # As many at a time as for a GPU. Its pinned memory is used again, as such small memory is here.
                together = at_a_time(int(height.max()), int(width.max()))
                for start in range(0, batch, together):
                    part = slice(start, start + together)
                    assert len(end_to_end(whole[part], view.boxes[part], pinned=False))

    return run


def workers(pool: ProcessPoolExecutor, setting: str, batch: int, path: Path, sizes: Tensor) -> Callable[[], None]:
    """Make a function that runs an epoch in processes that already run, each with its share of the images."""
    share = setting, batch, path, tuple(map(tuple, sizes[: len(sizes) // CORES].tolist()))

    def run() -> None:
        for done in [pool.submit(work, *share) for _ in range(CORES)]:
            done.result()

    return run


def work(*share: Any) -> None:
    """Run an epoch of a worker's share."""
    made_once(*share)()


@cache
def made_once(setting: str, batch: int, path: Path, sizes: tuple[tuple[int, int], ...]) -> Callable[[], None]:
    """Make ``ours`` once per process, with one thread."""
    keep_freed_memory()
    torch.set_num_threads(1)
    return ours(from_file(path, torch.tensor(sizes)), SETTINGS[setting][0], batch)


def peer(files: Files, batch: int) -> Callable[[], None]:
    """Make a function that runs an epoch through the DataLoader, whose workers already run."""
    loader = DataLoader(files, batch, shuffle=True, num_workers=CORES, drop_last=True, persistent_workers=True)

    def run() -> None:
        for first, second in loader:
            assert first.shape == second.shape == (batch, 3, *first.shape[2:])

    return run


def as_ragged(images: Sequence[Image.Image], path: Path) -> Ragged:
    """Write decoded images to one file and map it into memory."""
    with path.open("wb") as file:
        for image in images:
            file.write(np.asarray(image).tobytes())
    return from_file(path, torch.tensor([image.size[::-1] for image in images]))


def from_file(path: Path, sizes: Tensor) -> Ragged:
    """Map the first images of a file that ``as_ragged`` wrote."""
    return Ragged(torch.from_file(str(path), size=3 * int(sizes.prod(1).sum()), dtype=torch.uint8), sizes)


def compare(setting: str, n: int, side: tuple[int, int], batch: int, rounds: int, folder: Path) -> dict[str, float]:
    """Measure the images per second of each way, and print a row for each."""
    augment, drawn, file = SETTINGS[setting][0], pictures(n, *side), folder / "rgb"
    peers: dict[str, Callable[[], None]] = {}
    decoding = 0.0
    if setting == "COCO":
        paths = [folder / f"{i}.jpg" for i in range(n)]
        for path, image in zip(paths, drawn, strict=True):
            image.save(path, quality=90)
        start = time.perf_counter()
        ragged = as_ragged([Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in paths], file)
        decoding = time.perf_counter() - start
        peers["DataLoader, PIL's blur"] = peer(Files(paths, augment, Pil()), batch)
        blur = transforms.GaussianBlur(23, augment.blur_sigma)
        peers["DataLoader, torchvision's blur"] = peer(Files(paths, augment, blur), batch)
    else:
        ragged = as_ragged(drawn, file)
        peers["DataLoader"] = peer(Files(np.stack([np.asarray(i) for i in drawn]), augment, Pil()), batch)
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        mine = {
            "ours": ours(ragged, augment, batch),
            "ours, two workers": workers(pool, setting, batch, file, ragged.sizes),
            "ours, crops resized": crops(ragged, augment, batch, resize=True),
            "ours, crops copied": crops(ragged, augment, batch, resize=False),
        }
        seconds = medians(mine | peers, rounds)
    for name, s in seconds.items():
        ratios = " / ".join(f"{seconds[p] / s:.2f}x" for p in peers) if name in mine else ""
        rate = n // batch * batch / s
        print(f"| {setting}: {n} images of {side[1]} x {side[0]}, batch {batch} | {name} | {rate:,.0f} | {ratios} |")
    if decoding:
        epochs = decoding / (min(seconds[p] for p in peers) - seconds["ours"])
        print(f"  decoded once in {decoding:.2f} s (one thread), paid back after {epochs:.1f} epochs")
    return {name: n // batch * batch / s for name, s in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    torch.set_num_threads(CORES)
    print(machine("torchvision", "pillow"))
    print("| | | images/s | times the DataLoader's |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        compare("COCO", 256, (480, 640), SETTINGS["COCO"][1], rounds, Path(folder))
        compare("STL-10", 1536, (96, 96), SETTINGS["STL-10"][1], rounds, Path(folder))


if __name__ == "__main__":
    main()
