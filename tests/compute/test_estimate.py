"""An estimate runs the real stages on noise, and multiplies what it timed by how often it happens."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch
from helpers import dense_row, tiny

from cl_bench.compute import estimate as module
from cl_bench.compute.estimate import STEPS, _noise, estimate
from cl_bench.data.dataset import Ragged
from cl_bench.methods.registry import Registry
from cl_bench.spec import COCOSpec, ScenesSpec, STL10Spec, VOCSpec

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a clock that advances by a second whenever it is read."""
    now = iter(range(1_000_000))
    monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: float(next(now))))


def test_every_stage_is_counted_by_its_images_and_steps(tmp_path: Path, ticking: None) -> None:
    profile = tiny(tmp_path, optimiser__epochs=5, linear__epochs=7, detection__iterations=30)
    spec = profile.sweep(dense_row())[0]
    found = estimate(spec, Registry().resolve("dense_index"), CPU)
    steps = 5 * (64 // 32)
    assert found["pretrain"] == pytest.approx(steps * 32 / module.FEW)  # a second a step of few images
    assert found["measure"] == pytest.approx(64 / (2 * module.FEW))
    epochs = 7 * 64 / spec.linear.batch  # a second an epoch of one batch
    assert epochs < found["linear"] < epochs + 5  # and once the features
    tests = spec.detection.test.count / module.TESTS  # a look at the clock after the last iteration
    assert found["detection"] == pytest.approx(30 * 2 + tests)  # an iteration of two images, one at a time
    precise = spec.detection.model_copy(update={"protocol": "finetune", "precise_norm": 9})
    more = estimate(spec.model_copy(update={"detection": precise}), None, CPU)
    assert more["detection"] == pytest.approx(found["detection"] + 9 / 3 * 2)
    untrained = estimate(profile.random_init()[0], None, CPU)
    assert untrained["pretrain"] == 0 and untrained["measure"] > 0


def test_a_real_clock_gives_times_above_nought(tmp_path: Path) -> None:
    found = estimate(tiny(tmp_path).sweep(dense_row())[0], Registry().resolve("dense_index"), CPU)
    assert list(found) == ["pretrain", "measure", "linear", "detection"]
    assert all(0 < seconds < 600 for seconds in found.values())


def test_a_gpu_s_batch_is_the_profile_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny(tmp_path).sweep(dense_row())[0]
    asked = []

    def note(few: object, method: object, data: object, device: object, clock: module._Clock) -> None:
        asked.append((few.optimiser.batch, len(data)))  # type: ignore[attr-defined, arg-type]
        clock._at = [0.0, 1.0, 2.0]

    monkeypatch.setattr(module, "pretrain", note)
    for device in ("cuda", "cpu"):
        module._pretrain(spec.pretrain, Registry().resolve("dense_index"), torch.device(device))
    assert asked == [(b, b * (STEPS + 2)) for b in (32, module.FEW)]


def test_noise_is_as_large_as_the_data_it_stands_for() -> None:
    scenes = _noise(ScenesSpec(kind="multi_object", split="train", images=9, size=48), 3)
    assert scenes.images.shape == (3, 3, 48, 48) and scenes.boxes is not None and scenes.labels is None  # type: ignore[union-attr]
    stl10 = _noise(STL10Spec(name="stl10", split="train"), 4)
    assert stl10.images[3].shape == (3, 96, 96) and stl10.labels is not None and stl10.boxes is None
    for spec, size, classes in (
        (COCOSpec(name="coco", split="val2017"), (480, 640), 80),
        (COCOSpec(name="coco", split="val2017", short_side=240), (240, 320), 80),
        (VOCSpec(name="voc", split="test2007"), (375, 500), 20),
    ):
        data = _noise(spec, 5)
        assert isinstance(data.images, Ragged) and len(data) == 5 and len(data.classes) == classes
        assert data.images[4].shape == (3, *size) and data.images.sizes.tolist() == [[*size]] * 5
        assert data.boxes is not None
        for boxes in data.boxes:
            assert bool((boxes[:, 2:] > boxes[:, :2]).all()) and float(boxes[:, 2].max()) <= size[1] + 1
