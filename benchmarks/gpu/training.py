"""Parts about one training: a step fed and unfed, detection in two precisions, killed and resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from feeder import SETTINGS, as_ragged, pictures, spec_of_views
from timing import StepClock
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from training_step import shares

from cl_bench.compute.numerics import settled
from cl_bench.data import Dataset, load
from cl_bench.encoders import to_channels_last
from cl_bench.encoders.trainable import trainable
from cl_bench.evaluate.detection import evaluate_detection
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import PretrainSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import load_profile
from cl_bench.store import Store
from cl_bench.train import checkpoint, view_batches
from cl_bench.train.pretrain import in_lock_step, pretrain
from cl_bench.train.training import Training
from gpu.running import Setting

BATCHES = {"STL-10": 768, "COCO": 256}
SIDES = {"STL-10": (96, 96), "COCO": (480, 640)}
STEPS = 12
BATCHES_AN_EPOCH = 2
LOCK_STEP = (2, 4, 8)
DRAWN = 64  # pictures, which are repeated: more take minutes to draw
PROFILE, TINY = "gpu-scenes", "ci"
ALL_VIEWS = 2**62  # bytes
DIES_AT = 5


def steps(setting: Setting, data: str) -> dict[str, Any]:
    """Time pre-training steps of ResNet-18 on images of a data set's size, fed and unfed, and a step's parts.

    ``fed`` makes its views as it goes. ``unfed`` is the same training with the views on the device already. In
    ``lock-step`` several models share the views that are made (``--share-views``); the seconds are those of one.

    Returns:
        By precision: seconds a step and images a second of each; and the milliseconds of each part of a step, which
        wait for each other.
    """
    device, (height, width) = setting.device, SIDES[data]
    augment, batch, count = SETTINGS[data][0], BATCHES[data], STEPS
    if setting.tiny:
        augment, batch, count = augment.model_copy(update={"size": 32}), 4, 4
        height, width = height // 4, width // 4
    count_of_images = BATCHES_AN_EPOCH * batch
    drawn = pictures(min(DRAWN, count_of_images), height, width)
    drawn = [drawn[i % len(drawn)] for i in range(count_of_images)]
    if data == "COCO":
        images: Any = as_ragged(drawn, setting.folder / "rgb")
    else:
        images = torch.stack([pil_to_tensor(picture) for picture in drawn])
    dataset = Dataset(images, ())
    found: dict[str, Any] = {"images": [height, width], "view": augment.size, "batch": batch, "steps": count}
    method = Registry().resolve("dense_index")
    for precision in ("float32", "bfloat16"):
        plan = {"precision": precision, "log_every": count}
        spec = spec_of_views(len(drawn), augment, batch, count // BATCHES_AN_EPOCH, **plan)
        with settled(device), mock.patch.object(view_batches, "KEPT_VIEWS", ALL_VIEWS):
            for way in ("fed", "unfed"):  # the second finds the views that the first has kept
                clock = StepClock(device)
                pretrain(spec, method, dataset, device, clock)
                found[f"{way}, {precision}"] = {"seconds": clock.step, "images_per_s": batch / clock.step}
        view_batches._kept.clear()
        for models in LOCK_STEP[:1] if setting.tiny else LOCK_STEP:
            with settled(device):
                clock = StepClock(device)
                in_lock_step([Training(spec, method, dataset, device) for _ in range(models)], dataset, device, clock)
                each = clock.step / models
                found[f"lock-step of {models}, {precision}"] = {"seconds": each, "images_per_s": batch / each}
            view_batches._kept.clear()
    with settled(device):
        found["parts_ms"] = {part: 1e3 * s for part, s in shares(spec, dataset, device).items()}
    return found


def detection(setting: Setting) -> dict[str, Any]:
    """Train a detector on an untrained encoder in float32 and in bfloat16.

    Returns:
        By precision: seconds an iteration, and its average precisions in percent.
    """
    profile, device = load_profile(TINY if setting.tiny else PROFILE), setting.device
    iterations, images = (6, {"train": 8, "test": 8}) if setting.tiny else (300, {"train": 1024, "test": 256})
    fewer = {part: getattr(profile.detection, part).model_copy(update={"images": n}) for part, n in images.items()}
    spec = profile.detection.model_copy(update={"iterations": iterations, **fewer})
    augment = profile.multi_object.augment
    train, test = load(spec.train), load(spec.test)
    found: dict[str, Any] = {"protocol": spec.sentence}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        encoder = to_channels_last(trainable(profile.encoder, augment.size), device).eval()
        clock, plan = StepClock(device), spec.model_copy(update={"precision": precision})
        with settled(device):
            aps = evaluate_detection(encoder, train, test, plan, augment.mean, augment.std, device, clock)
        found[precision] = {"seconds": clock.step, **{k: ap for k, ap in aps.items() if k != "halves"}}
    return found


def resume(setting: Setting) -> dict[str, Any]:
    """Kill a training in mid-run, resume it, and compare its weights with those of two that were left alone.

    Returns:
        For torch's default algorithms, which are the product's on a GPU, and for its deterministic ones: a second
        training that was left alone and the resumed one against the first, whether their weights are the same bits and
        the largest difference.
    """
    found = {}
    for algorithms in ("default", "deterministic"):
        told = setting.folder / algorithms, setting.name, setting.tiny, algorithms == "deterministic"
        alone, again = (_weights(*told, run) for run in ("alone", "again"))
        killed = multiprocessing.get_context("forkserver").Process(target=_weights, args=(*told, "killed", DIES_AT))
        killed.start()
        killed.join()
        if killed.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"the training that was to be killed ended with exit code {killed.exitcode}")
        resumed = _weights(*told, "killed", begins_at=DIES_AT)
        found[algorithms] = {"left alone": _compared(alone, again), "resumed": _compared(alone, resumed)}
    return found


def _weights(
    folder: Path,
    device_name: str,
    tiny: bool,
    deterministic: bool,
    run: str,
    dies_at: int | None = None,
    begins_at: int = 0,
) -> dict[str, Tensor]:
    """Train with a checkpoint after each step, and return the weights; kill this process after step ``dies_at``."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read by this process's first product on a card
    device, spec, seen = torch.device(device_name), _small(tiny), []

    def on_step(done: int, total: int) -> None:
        seen.append(done)
        if done == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    view_batches._kept.clear()  # a process that resumes has none
    with settled(device), mock.patch.object(checkpoint, "SECONDS_BETWEEN", 0.0):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        kept = checkpoint.Checkpoint(Store(folder).run(run), device)
        done = pretrain(spec, Registry().resolve("dense_index"), load(spec.data), device, on_step, kept)
    if seen[0] != begins_at + 1:
        raise RuntimeError(f"the training began with step {seen[0]}, not {begins_at + 1}")
    return {name: weights.detach().cpu() for name, weights in done.encoder.state_dict().items()}


def _small(tiny: bool) -> PretrainSpec:
    """Return a training of twelve steps, or of eight."""
    fewer = ["optimiser.epochs=1"] if tiny else ["single_object.data.images=1024", "optimiser.epochs=3"]
    profile = load_profile(TINY if tiny else PROFILE, fewer)
    method = spec_of(Registry().resolve("dense_index"))
    return profile.sweep(Row(method, "single_object", "overlapping"))[0].pretrain


def _compared(weights: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Any]:
    apart = {name: (w.double() - others[name].double()).abs().max().item() for name, w in weights.items()}
    return {"same_bits": all(torch.equal(w, others[n]) for n, w in weights.items()), "difference": max(apart.values())}
