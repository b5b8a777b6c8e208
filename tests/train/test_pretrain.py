"""The training loop: repeatable, decomposed at every step, honest about what went wrong."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from helpers import drawn_scenes, ragged
from torch import nn
from trainings import AU, CPU, LEVELS, NCE, noise, resolve, spec_for, train, weights

from cl_bench import LossTerms, Match, Method
from cl_bench.data import Dataset
from cl_bench.encoders import unit
from cl_bench.losses.optima import position_only_loss
from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.methods import method
from cl_bench.methods.method import REGISTERED, matching
from cl_bench.spec import AlignUniform, InfoNCE, RandomInit
from cl_bench.train import pretrain, training, view_batches

pytestmark = pytest.mark.usefixtures("forget_methods")


@pytest.fixture(scope="module")
def scenes():
    return drawn_scenes("single_object", "train", 128, 16, 0)


# Repeatability


@pytest.mark.parametrize("plugin", LEVELS.values())
def test_the_same_spec_gives_the_same_bytes_whatever_the_global_generator(plugin):
    torch.manual_seed(1)
    first = train(plugin)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = train(plugin)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), weights(again)) and first.history == again.history


def test_what_a_plugin_draws_of_its_own_comes_from_the_seed_too():
    class Dropper(Method, name="p_dropper"):
        def head(self, encoder, spec):
            return nn.Sequential(nn.Dropout(0.5), super().head(encoder, spec))

        def match(self, views):
            return Match.identity(views)

    torch.manual_seed(1)
    first = train(Dropper)
    torch.manual_seed(2)
    assert torch.equal(weights(first), weights(train(Dropper)))
    assert not torch.equal(weights(first), weights(train(Dropper, seed=1)))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"views": "disjoint"}, {"lr": 0.06}, {"plugin": "instance"}, {"objective": AU}], ids=str
)
def test_what_the_spec_says_reaches_the_weights(change):
    assert not torch.equal(weights(train()), weights(train(**change)))


def test_the_seed_decides_the_initialisation():
    first, again, other = (weights(SimpleNamespace(encoder=training.untrained(spec_for(seed=s)))) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


# The decomposition


@pytest.mark.parametrize("plugin", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize(
    "objective",
    [
        *(InfoNCE(temperature=0.07, negatives=n) for n in ("both_views", "cross_view", "ntxent")),
        *(
            InfoNCE(temperature=0.5, negatives=n, positive_in_denominator=False)
            for n in ("both_views", "cross_view", "ntxent")
        ),
        *(AlignUniform(w_a=0.5, w_u=2, t=3, scope=s) for s in ("same_index", "other_images", "all_pairs")),
        AlignUniform(w_a=0, w_u=1),
    ],
    ids=lambda o: "-".join(str(v) for v in o.model_dump().values()),
)
def test_every_logged_loss_is_the_sum_of_its_terms_and_the_loss_in_one_piece(objective, plugin):
    done = train(plugin, objective)
    assert [entry["step"] for entry in done.history] == [0, 1, 2, 3]
    for entry in done.history:
        assert entry["alignment"] + entry["distribution"] == pytest.approx(entry["loss"], abs=1e-5)
    assert done.decomposition_error < 1e-5


def test_soft_matches_are_decomposed_too():
    @matching("p_soft")
    def soft(views):
        return Match(weights=(views.h1 @ views.h2.mT / 0.1).softmax(-1))

    assert train(REGISTERED["p_soft"]).decomposition_error < 1e-5


@pytest.mark.parametrize("term", ["alignment", "distribution"])
def test_a_term_that_is_off_is_noticed(term, monkeypatch):
    def off(*args):
        terms = info_nce(*args)
        return LossTerms(**{**vars(terms), term: 1.001 * getattr(terms, term)})

    monkeypatch.setattr(method, "info_nce", off)
    assert train().decomposition_error > 1e-4


def test_the_history_holds_the_first_the_last_and_every_nth_step():
    done = train(epochs=2, log_every=3)
    assert [entry["step"] for entry in done.history] == [0, 3, 6, 7]
    whole = train(epochs=2).history
    assert done.history == tuple(whole[i] for i in (0, 3, 6, 7))
    assert all(set(e) == {"step", "loss", "alignment", "distribution", "lr", "matching_precision"} for e in whole)


# How often the positives are right


@pytest.mark.parametrize("plugin", LEVELS.values(), ids=LEVELS)
def test_disjoint_views_have_no_correct_positive(plugin):
    done = train(plugin, views="disjoint", epochs=3)
    assert done.matching_precision == 0
    assert [entry["matching_precision"] for entry in done.history] == [0] * 12


@pytest.mark.parametrize("plugin", LEVELS.values(), ids=LEVELS)
def test_views_of_the_whole_image_have_no_other(plugin):
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0}
    assert train(plugin, augment=whole).matching_precision == 1
    flipped = train(plugin, augment={**whole, "flip": 0.5}).matching_precision
    assert flipped == 1 if plugin == "instance" else 0.3 < flipped < 0.7


def test_matching_precision_is_that_of_both_directions_over_all_logged_steps():
    seen = []

    @matching("p_partial")
    def partial(views):
        seen.append(views)
        B, P = views.xy1.shape[:2]
        valid = torch.rand(B, P, generator=torch.Generator().manual_seed(len(seen) // 2)) < 0.1 * (len(seen) % 4)
        return Match(index=torch.zeros(B, P, dtype=torch.int64), valid=valid)

    done = train(REGISTERED["p_partial"], epochs=2, log_every=2)
    logged = [0, 2, 4, 6, 7]
    assert [entry["step"] for entry in done.history] == logged
    # A logged step matches for the loss, both ways, and again for the checks.
    again, call = [], 0
    for step in range(8):
        call += 2
        if step in logged:
            again.append((call, call + 1))
            call += 2
    total = [0, 0]
    for entry, calls in zip(done.history, again, strict=True):
        right = every = 0
        for k in calls:
            v = seen[k]
            valid = torch.rand(v.xy1.shape[:2], generator=torch.Generator().manual_seed((k + 1) // 2))
            valid = valid < 0.1 * ((k + 1) % 4)
            near = ((v.xy1 - v.xy2[:, :1]).abs() < (v.size1 + v.size2)[:, None] / 2 - 1e-6).all(-1)
            right, every = right + int((near & valid).sum()), every + int(valid.sum())
        total = [total[0] + right, total[1] + every]
        assert entry["matching_precision"] == pytest.approx(right / every)
    assert call == len(seen) and 0 < done.matching_precision < 1
    assert done.matching_precision == pytest.approx(total[0] / total[1])


def test_without_a_positive_there_is_no_matching_precision():
    @matching("p_nothing")
    def nothing(views):
        B, P = views.xy1.shape[:2]
        return Match(weights=torch.zeros(B, P, P))

    done = train(REGISTERED["p_nothing"], objective=AlignUniform(w_a=1, w_u=1))
    assert math.isnan(done.matching_precision)
    assert not any("matching_precision" in entry for entry in done.history)
    assert math.isnan(pretrain.pretrain(spec_for(objective=RandomInit()), None, noise(2), CPU).matching_precision)


# What the place alone would reach


@pytest.mark.parametrize(("size", "cells"), [(16, 4), (24, 9)])
@pytest.mark.parametrize("objective", [NCE, AlignUniform(w_a=1, w_u=0.5, scope="all_pairs")])
def test_the_position_only_loss_is_that_of_the_grid_and_the_batch(objective, size, cells):
    found = train(objective=objective, augment={"size": size}, chunk=8).position_only_loss
    assert found == position_only_loss(objective, 16, cells)


def test_where_there_is_no_place_or_no_such_loss_there_is_no_optimum():
    class Own(Method, name="p_own_loss"):
        def loss(self, views, objective):
            return LossTerms(alignment(views.z1, views.z2), uniformity(views.z1))

    untrained = pretrain.pretrain(spec_for(objective=RandomInit()), None, noise(2), CPU)
    for done in (train("instance"), train(Own), untrained):
        assert math.isnan(done.position_only_loss)


# What goes in


def record_views(plugin="p_watch", level="dense"):
    seen = []

    @matching(plugin, level=level)
    def watch(views):
        seen.append(views)
        return Match.identity(views)

    return REGISTERED[plugin], seen


@pytest.mark.parametrize(("level", "grid"), [("dense", (2, 2)), ("instance", (1, 1))])
def test_a_strategy_sees_unit_features_and_their_places(level, grid):
    plugin, seen = record_views(level=level)
    train(plugin)
    P = grid[0] * grid[1]
    for v in seen:
        assert v.grid == grid
        assert v.z1.shape == v.z2.shape == (16, P, 8) and v.h1.shape == v.h2.shape == (16, P, 128)
        assert v.xy1.shape == v.xy2.shape == (16, P, 2) and v.size1.shape == v.size2.shape == (16, 2)
        for x in (v.z1, v.z2, v.h1, v.h2):
            torch.testing.assert_close(x.norm(dim=-1), torch.ones(16, P))
        assert not v.h1.requires_grad and not v.h2.requires_grad
        for xy, size in ((v.xy1, v.size1), (v.xy2, v.size2)):
            assert (xy - size[:, None] / 2 >= -1e-6).all() and (xy + size[:, None] / 2 <= 1 + 1e-6).all()
    first, back = seen[0], seen[1]
    assert first.z1.requires_grad and back.h1 is first.h2 and not torch.equal(first.h1, first.h2)


def test_each_projection_belongs_to_its_own_feature_cell_and_view(monkeypatch):
    calls = []
    monkeypatch.setattr(
        view_batches, "two_views", lambda *a, make=view_batches.two_views: calls.append(make(*a)) or calls[-1]
    )

    class Bare(Method, name="p_bare"):
        def head(self, encoder, spec):
            encoder.eval()  # so that the features below can be had again
            return type("Unit", (nn.Module,), {"forward": lambda _, x: unit(x)})()

        def match(self, views):
            seen.append(views)
            return Match.identity(views)

    seen = []
    spec = spec_for(Bare, lr=1e-30, weight_decay=0, momentum=0)
    done = pretrain.pretrain(spec, Bare(), noise(16), CPU)
    before = training.untrained(spec).train()
    with torch.no_grad():
        maps = before(torch.cat([view for view, _ in calls[0]])).chunk(2)
    assert len(calls) == 1 and done.encoder
    for view, features in ((1, maps[0]), (2, maps[1])):
        expected = unit(features.flatten(2).mT)
        torch.testing.assert_close(getattr(seen[0], f"h{view}"), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(getattr(seen[0], f"z{view}").detach(), expected, rtol=1e-4, atol=1e-4)
        geometry = calls[0][view - 1][1]
        assert torch.equal(getattr(seen[0], f"xy{view}"), geometry.cells((2, 2))[0])
        assert torch.equal(getattr(seen[0], f"size{view}"), geometry.cells((2, 2))[1])


def test_each_epoch_takes_each_image_once_in_an_order_of_its_own(monkeypatch):
    seen = []
    real = view_batches.two_views
    monkeypatch.setattr(view_batches, "two_views", lambda images, *rest: seen.append(images) or real(images, *rest))
    data = Dataset(torch.arange(70, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16).contiguous(), ())
    for seed in (0, 1):
        train(data=data, epochs=2, seed=seed)
    assert [len(images) for images in seen] == [16] * 16
    epochs = [[i for images in seen[k : k + 4] for i in images[:, 0, 0, 0].tolist()] for k in (0, 4, 8, 12)]
    assert all(len(set(order)) == 64 for order in epochs)
    assert len({tuple(order) for order in epochs}) == len({frozenset(order) for order in epochs}) == 4


# Views shared by the encoders of a sweep


def test_progress_is_told_after_each_step():
    seen = []
    train(epochs=2, on_step=lambda *step: seen.append(step))
    assert seen == [(k, 8) for k in range(1, 9)]


# The learning rate


# Learning


@pytest.mark.parametrize("plugin", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("objective", [NCE, AU], ids=lambda o: o.family)
def test_the_loss_falls(objective, plugin, scenes):
    mild = {"scale": (0.7, 1.0), "jitter": 0, "grayscale": 0, "flip": 0}
    losses = [entry["loss"] for entry in train(plugin, objective, scenes, epochs=4, batch=32, augment=mild).history]
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.2


@pytest.mark.parametrize("objective", [AlignUniform(w_a=1, w_u=0), AlignUniform(w_a=0, w_u=1)], ids=lambda o: o.config)
def test_each_term_alone_is_learned(objective):
    history = train("instance", objective, epochs=6, lr=0.2).history
    assert history[-1]["loss"] < history[0]["loss"] - 0.05
    assert history[-1]["distribution" if objective.w_u == 0 else "alignment"] == 0


def test_the_encoder_comes_back_in_eval_mode_and_moved():
    done = train()
    assert not any(module.training for module in done.encoder.modules())
    before = training.untrained(spec_for())
    for (name, a), b in zip(done.encoder.named_parameters(), before.parameters(), strict=True):
        assert not torch.equal(a, b), name
    assert done.encoder.state_dict()["trunk.0.1.num_batches_tracked"] == 4


# Untrained encoders


@pytest.mark.parametrize("plugin", [None, "dense_index"])
def test_random_init_is_the_untouched_initialisation(plugin):
    spec = spec_for(objective=RandomInit(), seed=3)
    done = pretrain.pretrain(spec, plugin and resolve(plugin), noise(2), CPU)
    assert torch.equal(weights(done), weights(SimpleNamespace(encoder=training.untrained(spec))))
    assert done.history == () and done.decomposition_error == 0
    assert not done.encoder.training


def test_training_starts_from_the_same_weights_as_random_init():
    spec = spec_for(objective=RandomInit(), seed=3)
    trained = train(seed=3, lr=1e-30, weight_decay=0)
    untouched = pretrain.pretrain(spec, None, noise(2), CPU)
    for a, b in zip(trained.encoder.parameters(), untouched.encoder.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-20)


# Images of different sizes, half precision, chunks, compiled


def of_all_sizes(n=64):
    return Dataset(ragged([(16 + 7 * i % 40, 16 + 3 * i % 50) for i in range(n)]), ())


def test_images_of_different_sizes_are_trained_on_with_the_same_bits_each_time():
    first, again = train(data=of_all_sizes()), train(data=of_all_sizes())
    assert torch.equal(weights(first), weights(again)) and first.history == again.history
    assert first.decomposition_error < 1e-5


@pytest.mark.parametrize("plugin", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("objective", [NCE, AU], ids=lambda o: o.family)
def test_bfloat16_trains_to_nearly_the_same_losses(objective, plugin):
    half, exact = (train(plugin, objective, lr=0.005, precision=p) for p in ("bfloat16", "float32"))
    assert not torch.equal(weights(half), weights(exact))
    assert all(v.dtype != torch.bfloat16 for v in half.encoder.state_dict().values())
    assert [e["loss"] for e in half.history] == pytest.approx([e["loss"] for e in exact.history], abs=0.05)
    assert half.decomposition_error < 2e-4  # lengths of projections of float16 are off by up to 2e-4


def test_the_encoder_is_compiled_and_keeps_its_names(monkeypatch):
    compiled = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m: compiled.append(m) or real(m, backend="eager"))
    done, plain = train(compile=True), train()
    assert compiled == [done.encoder] and list(done.encoder.state_dict()) == list(plain.encoder.state_dict())
    torch.testing.assert_close(weights(done), weights(plain), rtol=1e-4, atol=1e-5)
    assert done.encoder.state_dict()["trunk.0.1.num_batches_tracked"] == 4
    assert type(done.encoder) is type(plain.encoder)


def test_chunks_of_the_whole_batch_are_the_plain_training_and_smaller_ones_are_not():
    plain, whole, small = train(), train(chunk=16), train(chunk=4)
    torch.testing.assert_close(weights(whole), weights(plain), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights(small), weights(plain), rtol=1e-3, atol=1e-4)  # batch norm of the chunk
    assert small.encoder.state_dict()["trunk.0.1.num_batches_tracked"] == 4 * 4
    assert small.decomposition_error < 1e-5 and len(small.history) == 4


# What goes wrong


# Methods that are more than a matching
