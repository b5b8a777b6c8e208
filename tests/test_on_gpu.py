"""Everything that runs on a GPU, on a pretended one: no tensor is on a wrong device, and little makes the CPU wait."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import get_args
from unittest import SkipTest

import pytest
import torch
from helpers import drawn_scenes, ragged
from pretended_gpu import CPU, GPU, Counts, pretended_gpu
from torch.nn.functional import normalize

from cl_bench import DenseViews, LossTerms, Match, Method, matching
from cl_bench.compute.estimate import estimate
from cl_bench.data.dataset import Dataset
from cl_bench.data.views import two_views
from cl_bench.encoders import build_encoder
from cl_bench.errors import Diverged, MethodError
from cl_bench.evaluate.alignment_uniformity import measure
from cl_bench.evaluate.detection import evaluate_detection
from cl_bench.evaluate.linear import evaluate_linear
from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.methods.checking import OBJECTIVES
from cl_bench.methods.contract import CHECKS
from cl_bench.methods.method import REGISTERED
from cl_bench.methods.registry import Registry
from cl_bench.methods.synthetic import each, synthetic_views
from cl_bench.predictors.measure import found_by, seen_of
from cl_bench.predictors.registry import Predictors
from cl_bench.spec import AugmentSpec, MeasureSpec, MethodSpec, PretrainSpec, ViewPolicy
from cl_bench.spec.profile import KINDS, Profile, Row
from cl_bench.spec.profile_files import PROFILES, load_profile
from cl_bench.train import view_batches
from cl_bench.train.pretrain import pretrain

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BATCH = 4
STRATEGIES = (
    "dense_emd:plan=hard",
    "dense_geometric:nearest=true",
    "dense_setsim:geometry=0.5",
    "dense_vicregl:features=projection,all_features=true",
)
"""Ways of the built-in methods that their defaults do not go."""
NO_AUTOCAST = pytest.mark.filterwarnings("ignore:CUDA is not available.*Disabling autocast")

pytestmark = [pytest.mark.usefixtures("forget_methods"), NO_AUTOCAST]


@pytest.fixture(autouse=True)
def _no_kept_views():
    """Forget views that are kept for the next encoder, which may be on the device of another test."""
    view_batches._kept.clear()
    yield
    view_batches._kept.clear()


def profiles() -> dict[str, Profile]:
    return {file.stem: load_profile(file.stem) for file in sorted(PROFILES.glob("*.toml"))}


def pretraining(profile: Profile, kind: str = "single_object", family: str = "info_nce", **optimiser) -> PretrainSpec:
    """Return a pre-training of a profile in steps of a few images with small views."""
    row = Row(MethodSpec(name="dense_index"), kind, "overlapping")
    spec = next(run.pretrain for run in profile.sweep(row) if run.pretrain.objective.family == family)
    small = {"batch": BATCH, "epochs": 1, "warmup": 0, "chunk": 2 if spec.optimiser.chunk else None, **optimiser}
    size = min(spec.augment.size, 32)
    return spec.model_copy(
        update={
            "optimiser": spec.optimiser.model_copy(update=small),
            "augment": spec.augment.model_copy(update={"size": size}),
        }
    )


def images(count: int = BATCH, kind: str = "single_object", split: str = "train", size: int = 32) -> Dataset:
    return drawn_scenes(kind, split, count, size)


def method(text: str = "dense_index") -> Method:
    return Registry().resolve(text)


every_strategy = pytest.mark.parametrize("text", [*Registry().names, *STRATEGIES])


@every_strategy
@pytest.mark.parametrize("policy", get_args(ViewPolicy))
def test_every_method_under_every_objective_is_the_cpus(text, policy):
    found = method(text)
    views = synthetic_views(found, CPU, policy)

    def terms(of: DenseViews) -> list[list[float]]:
        return [[t.alignment.item(), t.distribution.item()] for o in OBJECTIVES for t in [found.checked_loss(of, o)]]

    with pretended_gpu():
        there = terms(each(views, lambda t: t.to(GPU)))
    torch.testing.assert_close(torch.tensor(there), torch.tensor(terms(views)))


@pytest.mark.slow
@every_strategy
def test_every_method_keeps_the_contract(text):
    with pretended_gpu():
        for check in CHECKS:
            with suppress(SkipTest):
                check(method(text), GPU)


@pytest.mark.parametrize("family", ["info_nce", "align_uniform"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", profiles())
def test_every_profile_trains(name, kind, family):
    spec, data = pretraining(load_profile(name), kind, family), images(kind=kind)
    with pretended_gpu():
        there = pretrain(spec, method(), data, GPU)
        assert {p.device for p in there.encoder.state_dict().values()} == {GPU}
    if spec.optimiser.precision == "float32":
        here = pretrain(spec, method(), data, CPU)
        for part in ("loss", "alignment", "distribution"):
            assert there.history[0][part] == pytest.approx(here.history[0][part], rel=1e-4)
    assert there.decomposition_error < 1e-3


@pytest.mark.parametrize("text", Registry().names)
def test_every_method_trains(text):
    spec, data = pretraining(load_profile("smoke")), images()
    with pretended_gpu():
        there = pretrain(spec, method(text), data, GPU)
    here = pretrain(spec, method(text), data, CPU)
    assert there.history[0]["loss"] == pytest.approx(here.history[0]["loss"], rel=1e-4)
    assert there.matching_precision == pytest.approx(here.matching_precision, nan_ok=True)


def test_batches_in_chunks_and_images_of_several_sizes_train():
    spec = pretraining(load_profile("smoke"), chunk=2)
    data = Dataset(ragged([(30, 40), (44, 36), (32, 33), (50, 31)]), ())
    with pretended_gpu():
        there = pretrain(spec, method(), data, GPU)
    here = pretrain(spec, method(), data, CPU)
    assert there.history[0]["loss"] == pytest.approx(here.history[0]["loss"], rel=1e-2)


@pytest.mark.parametrize("name", profiles())
def test_every_linear_evaluation(name):
    spec = load_profile(name).linear
    spec = spec.model_copy(update={"epochs": 1, "batch": BATCH} | ({"size": 16, "resize": 20} if spec.size else {}))
    encoder, train, test = build_encoder("small_cnn").eval(), images(12), images(10, split="test")
    test = replace(test, classes=train.classes)
    with pretended_gpu():
        there = evaluate_linear(encoder.to(GPU), train, test, spec, MEAN, STD, GPU)
    assert 0 <= there["accuracy"] <= 100


def small_detection(profile: Profile, **changes):
    spec = profile.detection
    sizes = {"short_sides": (32, 40), "test_short_side": 40, "long_side": 60} if spec.short_sides else {}
    counts = {"rpn_samples": 16, "roi_samples": 8, "proposals_train": 32, "proposals_test": 16}
    update = {"iterations": 1, "batch": 2, "precise_norm": min(1, spec.precise_norm), "roi_size": 4}
    return spec.model_copy(update={**update, **sizes, **counts, "anchors": (12.0,), **changes})


@pytest.mark.parametrize("name", profiles())
def test_every_detection_evaluation(name):
    torch.manual_seed(0)
    encoder = build_encoder("small_cnn").eval()
    train, test = images(4, "multi_object"), images(2, "multi_object", "test")
    spec = small_detection(load_profile(name))
    with pretended_gpu():
        found = evaluate_detection(encoder.to(GPU), train, test, spec, MEAN, STD, GPU)
    assert 0 <= found["coco_ap"] <= 100


@pytest.mark.parametrize("kind", ["single_object", "multi_object"])
@pytest.mark.parametrize("name", ["smoke", "paper"])
def test_an_estimate_times_noise_of_every_data_set(name, kind):
    """Time scenes, STL-10, COCO and VOC: noise that is one image in memory many times must not be taken for many."""
    profile = load_profile(name)
    run = profile.sweep(Row(MethodSpec(name="dense_index"), kind, "disjoint"))[0]
    linear = run.linear.model_copy(update={"batch": BATCH, "epochs": 1})
    spec = run.model_copy(
        update={"pretrain": pretraining(profile, kind), "linear": linear, "detection": small_detection(profile)}
    )
    with pretended_gpu():
        found = estimate(spec, method(), GPU)
    assert all(seconds > 0 for seconds in found.values())


def test_measures_and_predictors_are_the_cpus():
    encoder, data = build_encoder("small_cnn").eval(), images(40, split="test")
    spec = MeasureSpec(data=load_profile("smoke").single_object.heldout)
    augment = AugmentSpec(size=16, flip=0.5)

    def figures(device: torch.device) -> dict[str, object]:
        moved = encoder.to(device)
        seen = seen_of(moved, data, spec, augment, "overlapping", device, 0.5, (3.0, 2.0))
        found = found_by(Predictors().built_in, seen)
        assert not [result.failed for result in found.values() if result.failed]
        values = {name: value for result in found.values() for name, value in result.values.items()}
        measured = measure(moved, data, spec, augment, "overlapping", device)
        return {**values, **measured["alignment"], **measured["probes"], **dict(measured["uniformity"])}

    here = figures(CPU)
    with pretended_gpu():
        there = figures(GPU)
    assert there == pytest.approx(here, rel=1e-3, abs=1e-4)


# ---- budgets


def loss_counts(objective: str) -> Counts:
    """Count a loss, forward and backward, of STL-10's size in the profile paper: 768 images, 2 x 2 cells, 128."""
    with pretended_gpu() as counts:
        z1, z2 = (normalize(torch.randn(768, 4, 128), dim=-1).to(GPU).requires_grad_() for _ in range(2))
        counts.clear()
        if objective == "info_nce":
            loss = info_nce(z1, z2, temperature=0.1).total
        else:
            loss = alignment(z1, z2) + (uniformity(z1) + uniformity(z2)) / 2
        loss.backward()
    return counts


@pytest.mark.parametrize("objective", ["info_nce", "align_uniform"])
def test_a_loss_launches_few_operations(objective):
    assert 50 < loss_counts(objective).operations.total() <= 250


@pytest.mark.parametrize(("kind", "images"), [("single_object", 768), ("multi_object", 64)])
def test_making_views_launches_few_operations(kind, images):
    """Make both views of a batch at once: STL-10's from a tensor on the GPU, COCO's from images of different sizes."""
    augment = getattr(load_profile("paper"), kind).augment.model_copy(update={"size": 16})
    drawn = torch.randint(256, (images, 3, 24, 30), dtype=torch.uint8)
    with pretended_gpu() as counts:
        batch = drawn.to(GPU) if kind == "single_object" else list(drawn)
        counts.clear()
        two_views(batch, augment, "overlapping", torch.Generator().manual_seed(0), GPU)
    assert 200 < counts.operations.total() <= 450


def counts_by_step(spec: PretrainSpec, data: Dataset, text: str = "dense_index") -> list[int]:
    """Return how often each step but the first, which also moves the networks, makes the CPU wait."""
    waits: list[int] = []
    with pretended_gpu() as counts:

        def on_step(done: int, steps: int) -> None:
            waits.append(counts.synchronisations.total())
            counts.clear()

        pretrain(spec, method(text), data, GPU, on_step)
    return waits[1:]


@pytest.mark.parametrize("family", ["info_nce", "align_uniform"])
@pytest.mark.parametrize("text", ["instance", "dense_index", "dense_cosine", "dense_geometric", "dense_vicregl"])
def test_a_training_step_waits_only_where_it_is_logged(text, family):
    spec = pretraining(load_profile("smoke"), family=family, epochs=2, log_every=3)
    waits = counts_by_step(spec, images(3 * BATCH), text)
    assert waits[:2] == [0, 0], "steps 1 and 2"
    assert 0 < waits[2] <= 4, "step 3, logged"


def test_a_detection_step_waits_a_few_times_for_all_images_together():
    profile = load_profile("paper")
    spec = small_detection(profile, batch=16, iterations=2, precise_norm=0)
    train, test = images(16, "multi_object"), images(2, "multi_object", "test")
    waits: list[int] = []
    with pretended_gpu() as counts:

        def on_step(done: int, steps: int) -> None:
            waits.append(counts.synchronisations.total())
            counts.clear()

        evaluate_detection(build_encoder("small_cnn").eval(), train, test, spec, MEAN, STD, GPU, on_step)
    assert 16 < waits[1] <= 60


# ---- checks that are read later


class BadHead(torch.nn.Module):
    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = torch.nn.Linear(channels, 8), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalize(self.linear(x), dim=-1) * self.scale


@pytest.mark.parametrize(
    ("scale", "error", "said"),
    [(math.nan, Diverged, "features not finite by step"), (2.0, MethodError, "bad_head.*z1 must be unit-norm")],
)
def test_features_that_fail_a_check_end_the_training_at_the_next_logged_step(scale, error, said):
    class Bad(Method, name="bad_head"):
        def head(self, encoder, spec):
            return BadHead(encoder.channels, scale)

        def match(self, views):
            return Match.identity(views)

    with pretended_gpu(), pytest.raises(error, match=said):
        pretrain(pretraining(load_profile("smoke")), Bad(), images(), GPU)


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda m: Match(index=m.index + 3), "index must lie in"),
        (lambda m: Match(weights=m.dense(torch.float32) * 2), "must sum to 1 or 0"),
        (lambda m: Match(weights=-m.dense(torch.float32)), "finite and non-negative"),
    ],
)
def test_a_match_that_fails_a_check_names_the_method(bad, said, device):
    @matching("wrong")
    def wrong(views):
        return bad(Match.identity(views))

    with pretended_gpu(), pytest.raises(MethodError, match=f"'wrong'.*{said}"):
        pretrain(pretraining(load_profile("smoke")), REGISTERED["wrong"](), images(), device)


def test_an_error_that_follows_from_features_that_are_not_finite_is_not_the_plugins():
    class Follows(Method, name="follows"):
        def head(self, encoder, spec):
            return BadHead(encoder.channels, math.nan)

        def loss(self, views, objective):
            assert bool(torch.isfinite(views.z1).all()), "a check of the plugin's own"
            return LossTerms(views.z1.sum(), views.z2.sum())

    with pretended_gpu(), pytest.raises(Diverged, match="features not finite; an error followed"):
        pretrain(pretraining(load_profile("smoke")), Follows(), images(), GPU)


def test_the_contract_checks_at_once():
    with pretended_gpu(), pytest.raises(ValueError, match="index must lie in"):
        Match(index=torch.full((1, 2), 7, device=GPU))
