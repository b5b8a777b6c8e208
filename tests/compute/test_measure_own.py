"""Encoders that somebody brings: the same figures as a suite's, kept once, and every stage of its own."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from helpers import in_full, tiny, trained
from scipy import stats

import cl_bench.compute.measure_own as own
from cl_bench.compute.measure_own import STAGES, Settings, compute, examine, lacking, result, without_twins
from cl_bench.compute.record import load_record
from cl_bench.compute.runner import compute as compute_suite
from cl_bench.errors import EncoderError
from cl_bench.methods.registry import Registry
from cl_bench.report.own_encoders import taus
from cl_bench.spec.encoder_names import Named
from cl_bench.spec.own import OwnRunSpec
from cl_bench.statistics.correlation import normalised_sum
from cl_bench.store import Store

CPU = torch.device("cpu")


def settings(folder, **changes):
    profile = tiny(folder, **changes)
    known = own.built_in_predictors()
    predictors = tuple(known.spec_of(known.named(name)) for name in ("rankme", "lidar"))
    return Settings(OwnRunSpec.of(profile, predictors), profile.encoder.padding), profile


def measured(name, how, store, stages=STAGES):
    subject = examine(name if isinstance(name, Named) else Named(name, name), how)
    compute(subject, how, store, stages, CPU)
    return result(subject, store)


def test_an_untrained_encoder_has_the_figures_that_a_suite_has_of_it(tmp_path):
    how, profile = settings(tmp_path)
    store = Store(tmp_path / "store")
    found = measured("small_cnn", how, store)
    spec = profile.random_init()[0]
    compute_suite(spec, store, Registry((), ()), CPU)
    expected = load_record(spec, store)
    mine = found.records["single_object"]
    for name in ("alignment", "uniformity", "performance", "halves", "probes", "similarities", "extra"):
        assert getattr(mine, name) == getattr(expected, name), name
    assert found.records["multi_object"].alignment != mine.alignment
    assert set(mine.predictors) == {"rankme@dense", "rankme@instance", "lidar@dense", "lidar@instance"}


def test_what_a_suite_trained_is_read_from_its_store_with_its_own_padding(tmp_path):
    how, profile = settings(tmp_path)
    store = Store(tmp_path / "store")
    spec = profile.random_init()[1]
    compute_suite(spec, store, Registry((), ()), CPU)
    file = store.run(spec.pretrain.key).path / "encoder.safetensors"
    asked = Named("it", "", str(file))
    subject = examine(asked, Settings(how.spec, "zeros"))
    assert subject.spec.architecture == "small_cnn/reflect"
    compute(subject, how, store, STAGES, CPU)
    assert result(subject, store).records["single_object"].performance == load_record(spec, store).performance


def test_a_second_time_nothing_is_computed_and_a_stage_more_is_one_stage(tmp_path, monkeypatch):
    how, _ = settings(tmp_path)
    store = Store(tmp_path / "store")
    first = measured("small_cnn", how, store, ("linear",))
    assert set(first.records["single_object"].performance) == {"instance"}
    before = trained(store.root)
    second = measured("small_cnn", how, store)
    after = trained(store.root)
    assert {name: after[name] for name in before if "linear" in name} == {
        n: t for n, t in before.items() if "linear" in n
    }
    assert (
        second.records["single_object"].performance["instance"]
        == first.records["single_object"].performance["instance"]
    )

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(own, "_STAGES", dict.fromkeys(STAGES, never))
    assert in_full(measured("small_cnn", how, store)) == in_full(second)


def test_what_was_done_before_a_kill_is_kept(tmp_path, monkeypatch):
    how, _ = settings(tmp_path)
    store = Store(tmp_path / "store")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(own._STAGES, "detection", killed)
        with pytest.raises(KeyboardInterrupt):
            measured("small_cnn", how, store)
    subject = examine(Named("small_cnn", "small_cnn"), how)
    assert lacking(subject, store, STAGES) == ["detection"]
    kept = trained(store.root)
    measured("small_cnn", how, store)
    later = trained(store.root)
    assert all(later[name] == when for name, when in kept.items() if "evals" in name)


@pytest.mark.parametrize("what", ["seed", "enlarged", "images", "linear", "t"])
def test_another_encoder_or_spec_is_another_key(tmp_path, what):
    how, _ = settings(tmp_path)
    store = Store(tmp_path / "store")
    measured("small_cnn", how, store)
    changed = {
        "seed": Settings(how.spec, how.padding, seed=1),
        "enlarged": Settings(how.spec, how.padding, enlarged=2),
        "images": settings(tmp_path, single_object__heldout__seed=3)[0],
        "linear": settings(tmp_path, linear__epochs=3)[0],
        "t": settings(tmp_path, measure_t=2.0)[0],
    }[what]
    lacks = lacking(examine(Named("small_cnn", "small_cnn"), changed), store, STAGES)
    assert lacks == {"seed": [*STAGES], "enlarged": [*STAGES], "linear": ["linear"]}.get(what, ["measure"])


def test_pixels_are_normalised_as_the_encoder_says(tmp_path):
    file = tmp_path / "mine.py"
    source = """
from torch import nn

def build():
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2))
    {colours}
    return net
"""
    how, _ = settings(tmp_path)
    store = Store(tmp_path / "store")
    found = []
    for colours in ("", "net.mean, net.std = (0.9, 0.1, 0.5), (0.1, 0.2, 0.3)"):
        file.write_text(source.format(colours=colours))
        found.append(measured(f"{file}:build", how, store))
    plain, own_colours = (r.records["single_object"] for r in found)
    assert plain.alignment != own_colours.alignment and found[0].key != found[1].key
    subject = examine(Named("it", f"{file}:build"), how)
    assert subject.run.linear.mean == subject.run.multi_object.augment.mean == (0.9, 0.1, 0.5)


def test_tau_over_encoders_is_scipy_s_and_its_p_that_of_all_orders(tmp_path):
    how, _ = settings(tmp_path)
    store = Store(tmp_path / "store")
    subjects = [examine(Named(f"s{seed}", "small_cnn"), Settings(how.spec, "reflect", seed=seed)) for seed in range(5)]
    for seed, subject in enumerate(subjects):
        compute(subject, Settings(how.spec, "reflect", seed=seed), store, ("measure", "linear"), CPU)
    results = [result(subject, store) for subject in subjects]
    found = taus(results)
    assert [(t.data, t.level) for t in found] == [("single_object", "instance"), ("multi_object", "instance")]
    for tau in found:
        records = [r.records[tau.data] for r in results]
        columns = zip(*((r.alignment, r.uniformity, r.performance) for r in records), strict=True)
        L_a, L_u, y = (np.array([c["instance"] for c in column]) for column in columns)
        x = normalised_sum(L_a, L_u)
        assert tau.found.tau == pytest.approx(stats.kendalltau(x, y).statistic)
        orders = [stats.kendalltau(x, order).statistic for order in permutations(y)]
        assert tau.found.p_negative == pytest.approx(np.mean(np.array(orders) <= tau.found.tau + 1e-9), abs=0.03)


def test_twins_count_once(tmp_path):
    how, _ = settings(tmp_path)
    one, other = (examine(Named(name, "small_cnn"), how) for name in ("a", "b"))
    assert without_twins([one, other]) == ([one], ["b is the same encoder as a, and counts once"])


def test_an_encoder_that_is_another_each_time_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\nn = [0]\ndef build():\n    n[0] += 1\n    net = nn.Conv2d(3, 4, 4, 4)\n"
        "    nn.init.constant_(net.bias, n[0])\n    return net\n"
    )
    how, _ = settings(tmp_path)
    with pytest.raises(EncoderError, match="other weights each time it is built"):
        measured(f"{file}:build", how, Store(tmp_path / "store"))


def test_what_a_file_does_to_torch_reaches_no_other_encoder(tmp_path):
    file = tmp_path / "loud.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n    net = nn.Conv2d(3, 4, 8, 8)\n    torch.set_default_dtype(torch.float64)\n    return net\n"
    )
    how, _ = settings(tmp_path)
    before = examine(Named("small_cnn", "small_cnn"), how).spec
    measured(f"{file}:build", how, Store(tmp_path / "store"))
    assert torch.get_default_dtype() == torch.float32
    assert examine(Named("small_cnn", "small_cnn"), how).spec == before
