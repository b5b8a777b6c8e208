"""Weights of files into networks: every wrapper and prefix, and no silent partial load."""

from __future__ import annotations

import pickle
import time

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from cl_bench.encoders.build import build
from cl_bench.encoders.weights import content_hash, load_weights, read_weights
from cl_bench.errors import EncoderError
from cl_bench.spec.encoder_names import PRETRAINED, Named


def small(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 1}},
        lambda s: {"state_dict": prefixed(s, "module.")},
        lambda s: {"model": prefixed(s, "module.backbone.") | prefixed(s, "module.head.")},
        lambda s: prefixed(s, "encoder."),
        lambda s: prefixed(s, "module.encoder_q.") | {"queue": torch.zeros(3)},
        lambda s: s | {"fc.weight": torch.zeros(10, 5), "head.fc.bias": torch.zeros(10)},
        lambda s: {n: v for n, v in s.items() if "num_batches" not in n},
    ],
)
def test_weights_arrive_whatever_they_are_wrapped_in(tmp_path, wrap):
    file, network = tmp_path / "it.pt", small(1)
    torch.save(wrap(small(0).state_dict()), file)
    load_weights(network, read_weights(file), file)
    assert content_hash(network) == content_hash(small(0)) != content_hash(small(1))


def test_safetensors_too_and_the_prefix_is_told(tmp_path):
    file, network = tmp_path / "it.safetensors", small(1)
    safetensors.torch.save_file(prefixed(small(0).state_dict(), "backbone."), file)
    assert load_weights(network, read_weights(file), file) == "backbone."
    assert content_hash(network) == content_hash(small(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {n: v for n, v in s.items() if not n.startswith("2.")}, "does not fit: lacks 2.weight, 2.bias$"),
        (lambda s: s | {"3.weight": torch.zeros(1)}, "does not fit: has 3.weight, which the encoder has not"),
        (lambda s: s | {"2.weight": torch.zeros(6, 4, 1, 1)}, r"2.weight is \(6, 4, 1, 1\), not \(5, 4, 1, 1\)"),
        (
            lambda s: {f"x{n}": v for n, v in s.items()},
            "lacks 0.weight, 0.bias, 1.weight and 5 more; has x0.weight, .* and",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_in_one_line(tmp_path, change, said):
    file = tmp_path / "it.pt"
    torch.save(change(small().state_dict()), file)
    network = small(1)
    before = content_hash(network)
    with pytest.raises(EncoderError, match=said) as refused:
        load_weights(network, read_weights(file), file)
    assert "\n" not in str(refused.value) and content_hash(network) == before


class Loud:
    """Would run what it likes, were its pickle read."""

    def __reduce__(self):
        return exec, ("raise SystemExit('this was run')",)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda f: torch.save(small(), f), "holds more than weights .*: save network.state_dict"),
        (lambda f: torch.save({"model": Loud()}, f), "holds more than weights"),
        (lambda f: f.write_bytes(pickle.dumps(Loud())), "holds more than weights"),
        (lambda f: f.write_text("hello"), "not "),
        (lambda f: f.write_bytes(b""), "not a file of weights: EOFError"),
        (lambda f: torch.save({"epoch": 3, "lr": 0.1}, f), r"holds no weights \(keys epoch, lr\)"),
        (lambda f: torch.save([1, 2], f), r"holds no weights \(list\)"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_and_never_run(tmp_path, write, said):
    file = tmp_path / "it.pt"
    write(file)
    with pytest.raises(EncoderError, match=said) as refused:
        read_weights(file)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_has_a_nearest_one(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(EncoderError, match=r"no file .*lost.pt; did you mean 'last.pt'"):
        read_weights(tmp_path / "lost.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"xxxxxxxxxxxx")
    with pytest.raises(EncoderError, match="not a file of weights: SafetensorError"):
        read_weights(tmp_path / "bad.safetensors")


def test_the_content_hash_knows_every_tensor():
    network = small()
    seen = {content_hash(network)}
    for tensor in network.state_dict().values():
        tensor += 1
        seen.add(content_hash(network))
    assert len(seen) == 1 + len(network.state_dict())


def test_a_torchvision_file_needs_no_classifier_and_one_of_other_classes_does_not_matter(tmp_path):
    file = tmp_path / "it.pt"
    with torch.random.fork_rng(devices=[]):
        state = torchvision.models.resnet18(num_classes=7).state_dict()
    for kept in (state, {n: v for n, v in state.items() if not n.startswith("fc.")}):
        torch.save(kept, file)
        found = build(Named("it", "torchvision:resnet18", str(file))).module.state_dict()
        assert all(torch.equal(found[n], v) for n, v in state.items() if not n.startswith("fc."))
    del state["layer4.1.conv2.weight"]
    torch.save(state, file)
    with pytest.raises(EncoderError, match=r"lacks layer4.1.conv2.weight \(architecture torchvision:resnet18\)"):
        build(Named("it", "torchvision:resnet18", str(file)))


def test_seeds_draw_weights_and_the_global_generator_stays_as_it_was():
    before = torch.random.get_rng_state()
    one, again, other = (build(Named("it", "timm:test_resnet"), seed).module for seed in (0, 0, 1))
    assert content_hash(one) == content_hash(again) != content_hash(other)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- weights that are published


def test_a_hub_that_does_not_answer_is_told_without_trying_again(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it tries again"))
    with pytest.raises(EncoderError) as caught:
        build(Named("mine", "timm:resnet18", PRETRAINED))
    why = "its weights are not on this machine, and http://127.0.0.1:9 does not answer"
    assert str(caught.value) == f"mine: timm could not make it: {why}; give a file, timm:resnet18@FILE"
    assert not constants.HF_HUB_OFFLINE
