"""Networks of one's own in a suite: built anew each time, kept by their source, evaluated as any other."""

from __future__ import annotations

import pytest
import torch
from helpers import dense_row, tiny
from torch import nn

from cl_bench.compute.measure_own import STAGES, Settings, compute, examine, result
from cl_bench.compute.record import load_record
from cl_bench.compute.runner import compute as compute_suite
from cl_bench.encoders import ReflectingConv2d
from cl_bench.encoders.trainable import trainable
from cl_bench.errors import EncoderError, SpecError
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.spec import EncoderSpec
from cl_bench.spec.encoder_names import architecture, named
from cl_bench.spec.own import OwnRunSpec
from cl_bench.spec.profile import Profile
from cl_bench.store import Store

MINE = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1, groups=2))

def whole():
    return nn.Sequential(nn.Conv2d(3, 12, 8, 8))
"""
CPU = torch.device("cpu")


def own(folder, name="./mine.py", **more) -> EncoderSpec:
    (folder / "mine.py").write_text(MINE)
    return EncoderSpec(hidden=16, projection=8, **architecture(name, folder), **more)


def profile_of(folder, encoder) -> Profile:
    return tiny(folder).model_copy(update={"encoder": encoder})


def test_a_network_of_a_file_is_pre_trained_evaluated_and_found_again(tmp_path):
    profile, store, registry = profile_of(tmp_path, own(tmp_path)), Store(tmp_path / "store"), Registry()
    row = dense_row(source=spec_of(registry.resolve("dense_index")).source)
    spec = profile.sweep(row)[0]
    compute_suite(spec, store, registry, CPU)
    record = load_record(spec, store)
    assert record.status == "complete" and set(record.performance) == {"instance", "dense"}
    file = store.run(spec.pretrain.key).path / "encoder.safetensors"
    kept = file.stat().st_mtime_ns
    compute_suite(spec, store, registry, CPU)
    assert file.stat().st_mtime_ns == kept
    how = Settings(OwnRunSpec.of(profile))
    (asked,) = named([str(store.root)])
    subject = examine(asked, how)
    compute(subject, how, store, STAGES, CPU)
    again = result(subject, store).records["single_object"]
    assert (again.alignment, again.performance) == (record.alignment, record.performance)


def test_a_key_knows_the_source_and_not_the_place(tmp_path):
    (tmp_path / "other").mkdir()
    here, there = own(tmp_path), own(tmp_path / "other")
    assert here.file != there.file and here.key == there.key
    changed = here.model_copy(update={"source": "0" * 64})
    assert len({here.key, changed.key, own(tmp_path, "mine.py:whole").key, own(tmp_path, padding="reflect").key}) == 4
    assert EncoderSpec.model_validate(here.model_dump(mode="json")) == here
    profiles = [profile_of(tmp_path, encoder) for encoder in (here, there)]
    assert len({p.random_init()[0].pretrain.key for p in profiles}) == 1


def test_what_a_built_in_encoder_is_written_as_stays_what_it_was():
    assert EncoderSpec(name="small_cnn").model_dump(mode="json") == {
        "name": "small_cnn",
        "padding": "zeros",
        "hidden": 512,
        "projection": 128,
    }


def test_weights_are_those_of_the_seed(tmp_path):
    spec = own(tmp_path)
    one, again, other = (trainable(spec, 24, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not torch.equal(one["trunk.0.weight"], other["trunk.0.weight"])


def test_reflection_keeps_groups(tmp_path):
    zeros, reflecting = (trainable(own(tmp_path, padding=p), 24).eval() for p in ("zeros", "reflect"))
    (layer,) = (m for m in reflecting.modules() if isinstance(m, ReflectingConv2d))
    x = torch.randn(2, 12, 6, 6, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    plain = zeros.last[0]
    expected = nn.functional.conv2d(padded, plain.weight, plain.bias, plain.stride, groups=2)
    torch.testing.assert_close(layer(x), expected)


def test_a_network_that_no_detector_can_cut_is_refused_and_an_edited_file_too(tmp_path):
    with pytest.raises(EncoderError, match=r"mine.py:whole cannot be cut in two .* cl-bench measure takes any"):
        trainable(own(tmp_path, "mine.py:whole"), 24)
    spec = own(tmp_path)
    (tmp_path / "mine.py").write_text(MINE + "\n")
    with pytest.raises(EncoderError, match="was edited since this run began"):
        trainable(spec, 24)


@pytest.mark.parametrize(("name", "near"), [("small_cn", "did you mean 'small_cnn'"), ("timm:", "no encoder 'timm:'")])
def test_a_profile_names_an_encoder_that_there_is(tmp_path, name, near):
    with pytest.raises(SpecError, match=near):
        tiny(tmp_path, encoder__name=name)
