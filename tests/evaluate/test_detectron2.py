"""The detectron2 backend: an encoder's every tensor is in it, it sees what the other backend sees, and it learns."""

from __future__ import annotations

import sys

import pytest
import torch
from test_detection import CPU, MEAN, STD, changed, detector, encoder, snapshot, squares
from test_detection_recipe import ragged, recipe
from torch import nn

from cl_bench.errors import Diverged, SpecError
from cl_bench.evaluate.detection import _fit, _truths, build_detector, check_detector, evaluate_detection


def test_a_backend_that_is_not_there_is_refused_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"detectron2 is not installed; pip install .*detectron2") as caught:
        check_detector("detectron2")
    assert "\n" not in str(caught.value)
    check_detector("torchvision")


HOW = "detectron2 is not installed (docs/reproducing-the-paper.md says how)"


def of(backend, **changes):
    return recipe(detector=backend, anchors=(24.0,), **changes)


@pytest.fixture(autouse=True)
def _installed(request):
    if request.function is not test_a_backend_that_is_not_there_is_refused_with_how_to_get_it:
        pytest.importorskip("detectron2", reason=HOW)


def test_every_tensor_arrives_and_the_last_stage_is_the_encoder_s():
    source, other = encoder("resnet18", 0), encoder("resnet18", 1)
    built = detector(of("detectron2"), other, 2)
    assert changed(source.state_dict(), built.backbone())
    from cl_bench.evaluate.detection import load_backbone

    load_backbone(built, source)
    assert built.backbone().keys() == source.state_dict().keys()
    assert not changed(source.state_dict(), built.backbone())
    own = {tensor.data_ptr() for tensor in [*built.parameters(), *built.buffers()]}
    assert all(tensor.data_ptr() in own for tensor in built.backbone().values())
    maps = torch.randn(3, 256, 8, 8)
    blocks = nn.Sequential(*list(built.model.roi_heads.res5.children())[:2]).eval()
    with torch.no_grad():
        torch.testing.assert_close(blocks(maps), source.last(maps), rtol=0, atol=1e-5)


def test_both_backends_see_the_same_c4_features():
    source, images = encoder("resnet18"), list(torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8))
    with torch.no_grad():
        ours, theirs = (detector(of(b), source).eval().features(images) for b in ("torchvision", "detectron2"))
    assert ours.abs().max() > 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_all_of_it_is_trained():
    source, data, settings = encoder("resnet18"), ragged(squares()), of("detectron2")
    built = detector(settings, source)
    before = snapshot(built)
    _fit(built, data.images, _truths("train", data), settings, CPU)
    assert changed(before, built.state_dict()) == before.keys()


def test_it_memorises_a_few_images():
    data, settings = squares(4, 64), of("detectron2", iterations=40, short_sides=(), flip=0, roi_size=6)
    built, told = detector(settings, encoder("resnet18")), []
    losses = built.losses

    def noted(*batch):
        found = losses(*batch)
        told.append(sum(found.values()).item())
        return found

    built.losses = noted
    torch.manual_seed(0)
    _fit(built, data.images, _truths("train", data), settings, CPU)
    told = told[: settings.iterations]
    assert sum(told[-5:]) < 0.6 * sum(told[:5])


def test_the_same_arguments_give_the_same_bits():
    train, test, settings = ragged(squares()), ragged(squares(4, seed=1)), of("detectron2")
    results = [evaluate_detection(encoder("resnet18"), train, test, settings, MEAN, STD, CPU) for _ in range(2)]
    assert results[0] == results[1]


def test_nan_weights_diverge():
    broken, data = encoder("resnet18"), squares()
    with torch.no_grad():
        broken.trunk[0].weight[0] = float("nan")
    with pytest.raises(Diverged, match="detection: "):
        evaluate_detection(broken, data, data, of("detectron2"), MEAN, STD, CPU)


def test_another_encoder_is_refused():
    with pytest.raises(SpecError, match="resnet18"):
        build_detector(encoder("small_cnn"), 2, of("detectron2"), MEAN, STD)


def test_the_module_is_loaded_only_when_asked_for():
    assert "cl_bench.evaluate.detection" in sys.modules
    detector(of("torchvision"), encoder())
