"""Predictors: what each is in closed form, what is said of a bad one, and how they are found and stored."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import dense_row, rng, tiny
from torch import Tensor

from cl_bench.compute.record import lacking, load_record
from cl_bench.compute.runner import compute
from cl_bench.errors import PredictorError
from cl_bench.methods.registry import Registry, spec_of
from cl_bench.predictors import Predictor, Seen
from cl_bench.predictors.contract import CHECKS, synthetic
from cl_bench.predictors.measure import found_by, knob_of
from cl_bench.predictors.predictor import REGISTERED
from cl_bench.predictors.registry import Predictors
from cl_bench.spec import AlignUniform, InfoNCE, PredictorSpec
from cl_bench.store import Store

CPU = torch.device("cpu")
HEADER = "import torch\nfrom cl_bench import Seen, predictor\n\n"
BUILT_IN = {p.name: p for p in Predictors((), ()).built_in}


@pytest.fixture(autouse=True)
def forget_predictors() -> Iterator[None]:
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


def seen(x1: Tensor, x2: Tensor | None = None, labels: Tensor | None = None) -> Seen:
    """(N, P, C) or (N, C) features."""
    x1, x2 = (x if x.ndim == 3 else x[:, None] for x in (x1, x1 if x2 is None else x2))
    return Seen.of("dense" if x1.shape[1] > 1 else "instance", x1, x2, 0.5, labels)


def value(name: str, *given: Tensor | None) -> float:
    return BUILT_IN[name](seen(*given))  # type: ignore[arg-type]


def own(folder: Path, body: str, name: str = "mine", options: str = "") -> Predictor:
    """Write and load a predictor in a file of its own; its body begins in line 6."""
    file = folder / f"{name}.py"
    file.write_text(
        HEADER + f'@predictor("{name}", better="low"{options})\ndef figure(seen: Seen) -> float:\n    {body}\n'
    )
    return Predictors().select(f"{file}")[0]


# ---- closed forms


def orthogonal(*lengths: float) -> Tensor:
    """(k, k) features, one a direction."""
    return torch.diag(torch.tensor(lengths, dtype=torch.float64))


def test_rankme_is_the_number_of_equal_directions_and_the_entropy_of_others() -> None:
    assert value("rankme", orthogonal(2, 2, 2, 0)) == pytest.approx(3, abs=1e-4)
    shares = np.array([1, 2, 5]) / 8
    assert value("rankme", orthogonal(1, 2, 5)) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), abs=1e-4)
    x = torch.randn(20, 3, 6, generator=rng())
    s = np.linalg.svd(x.reshape(60, 6).numpy().astype(float), compute_uv=False)
    p = s / s.sum() + 1e-7
    assert value("rankme", x) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_stable_rank() -> None:
    assert value("stable_rank", orthogonal(3, 2, 1)) == pytest.approx(14 / 9)
    assert value("stable_rank", torch.zeros(4, 3)) == 0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_req_finds_a_power_law(alpha: float) -> None:
    """Pairs of points at plus and minus each axis have a covariance whose eigenvalues are those of the axes."""
    axes = torch.diag(torch.arange(1, 41, dtype=torch.float64) ** (-alpha / 2))
    assert value("alpha_req", torch.cat([axes, -axes])) == pytest.approx(abs(alpha - 1), abs=1e-6)


def test_wasserstein_uniformity_is_0_for_isotropic_and_root_2_for_constant_features() -> None:
    axes = torch.eye(5, dtype=torch.float64)
    assert value("wasserstein", torch.cat([axes, -axes])) == pytest.approx(0, abs=1e-6)
    assert value("wasserstein", torch.ones(7, 5, dtype=torch.float64)) == pytest.approx(2**0.5)
    half = torch.cat([axes[:2], -axes[:2]])  # tr S^(1/2) = 2 sqrt(1/2): 2 - 2 sqrt(2 / 5)
    assert value("wasserstein", half) == pytest.approx((2 - 2 * (2 / 5) ** 0.5) ** 0.5)


def test_lidar_is_the_rank_of_what_views_agree_on() -> None:
    centres = torch.randn(400, 3, generator=rng(), dtype=torch.float64)
    noise = torch.randn(400, 3, generator=rng(1), dtype=torch.float64)
    x1, x2 = (torch.cat([centres, sign * 100 * noise], -1) for sign in (1, -1))
    assert value("lidar", x1, x2) == pytest.approx(3, rel=0.02)
    assert value("rankme", x1) == pytest.approx(3, rel=0.1), "of the noise, which is larger"
    first, second = (torch.randn(30, 4, generator=rng(s), dtype=torch.float64) for s in (2, 3))
    samples = np.stack([first.numpy(), second.numpy()], 1)
    Sb = np.cov(samples.mean(1).T)
    Sw = np.mean([np.cov(c.T) for c in samples], 0) + 1e-4 * np.eye(4)
    lam = np.linalg.eigvals(np.linalg.inv(Sw) @ Sb).real
    p = lam / lam.sum() + 1e-7
    assert value("lidar", first, second) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_knn_counts_whose_class_the_neighbours_name() -> None:
    axes = torch.eye(2).repeat_interleave(30, 0) + 0.01 * torch.randn(60, 2, generator=rng())
    labels = torch.arange(2).repeat_interleave(30)
    assert value("knn", axes, None, labels) == 1
    wrong = labels.clone()
    wrong[0] = 1
    assert value("knn", axes, None, wrong) == pytest.approx(59 / 60)


def test_the_knob_is_the_grids_order_within_a_family() -> None:
    weights = [knob_of(AlignUniform(w_a=a, w_u=u)) for a, u in ((1, 0.1), (1, 1), (0.1, 1), (0, 1))]
    temperatures = [knob_of(InfoNCE(temperature=t)) for t in (5, 1, 0.1)]
    assert weights == sorted(weights) and weights[1] == temperatures[1] == 0.5 and weights[-1] == 1
    assert temperatures == sorted(temperatures)


def dse() -> object:
    return sys.modules[BUILT_IN["dse_separation"].module]


def test_k_means_finds_clusters_and_the_radius_is_the_nuclear_norm_of_each() -> None:
    k_means: Callable[..., tuple[Tensor, Tensor]] = dse().k_means  # type: ignore[attr-defined]
    mean_radius: Callable[..., Tensor] = dse().mean_radius  # type: ignore[attr-defined]
    centres = 50 * torch.eye(3, 4, dtype=torch.float64)
    x = (centres[:, None] + torch.randn(3, 5, 4, generator=rng(), dtype=torch.float64)).flatten(0, 1)
    order = torch.randperm(15, generator=rng(1))
    sets = torch.stack([x, x[order]])
    found, nearest = k_means(sets, 3)
    truth = torch.arange(3).repeat_interleave(5)
    for labels, expected in zip(nearest, (truth, truth[order]), strict=True):
        assert torch.equal(labels[:, None] == labels, expected[:, None] == expected)
    assert found[0].sum(0) == pytest.approx(x.unflatten(0, (3, 5)).mean(1).sum(0))
    groups = x.unflatten(0, (3, 5)).numpy()
    nuclear = [np.linalg.norm(g - g.mean(0), "nuc") / math.sqrt(4) for g in groups]  # max(n - 1, C) = 4
    assert float(mean_radius(sets, nearest, 3)) == pytest.approx(np.mean(nuclear))
    alone = torch.arange(3)[None]
    assert float(mean_radius(centres[None], alone, 3)) == 1, "no cluster of two: as the authors' code has it"


def test_dse_prefers_cells_in_tight_clusters() -> None:
    """Three kinds of cells an image, and twenty-four in eight images: as many as clusters are looked for."""
    centres = torch.randn(24, 16, generator=rng())
    which = 3 * (torch.arange(64) % 8)[:, None] + torch.arange(9) % 3
    noise = torch.randn(64, 9, 16, generator=rng(2))
    separations = [value("dse_separation", centres[which] + s * noise) for s in (0.05, 0.5, 5)]
    assert separations == sorted(separations, reverse=True)
    assert value("dse_separation", torch.ones(16, 9, 4)) == 0
    assert value("dse_dimension", torch.ones(16, 9, 4)) == pytest.approx(1 / 4)
    assert value("dse_dimension", torch.eye(4)[torch.arange(4)][:, None].expand(4, 9, 4)) == pytest.approx(1)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_built_in_predictors_keep_the_contract(check: Callable[[Predictor], None], name: str) -> None:
    check(BUILT_IN[name])


# ---- bad ones


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return float('nan')", "must return a finite number, got nan"),
        ("return seen.h1", "must return one number, got (32, 9, 16)"),
        ("raise RuntimeError('by nought\\nand more')", "RuntimeError: by nought"),
        ("seen.x1.mul_(2); return 1.0", "it writes to x1, which others read too: clone it first"),
        ("seen.h2.numpy()[0] = 0; return 1.0", "it writes to h2"),
        ("return float(seen.labels.sum())", 'reads labels, which it does not ask for: needs="labels"'),
        ("return seen.losses[-1]", 'reads losses, which it does not ask for: needs="losses"'),
    ],
)
def test_a_bad_predictor_is_one_line_with_its_place_and_costs_only_itself(tmp_path: Path, body: str, said: str) -> None:
    bad = own(tmp_path, body, "bad", ', level="dense"')
    features = synthetic("dense")
    before = features.x1.clone()
    found = found_by([bad, BUILT_IN["rankme"]], {"dense": features, "instance": synthetic("instance")})
    assert found["bad"].values == {} and said in found["bad"].failed and "\n" not in found["bad"].failed
    assert found["bad"].failed.startswith(f"predictor 'bad' ({tmp_path / 'bad.py'}:")
    if "raise" in body or "reads" in said:
        assert f"{tmp_path / 'bad.py'}:6)" in found["bad"].failed
    assert set(found["rankme"].values) == {"rankme@dense", "rankme@instance"}
    assert torch.equal(features.x1, before)


def test_what_a_predictor_asks_for_it_sees_and_where_there_is_none_it_is_not_computed(tmp_path: Path) -> None:
    mine = own(tmp_path, "return seen.losses[-1]", options=', level="encoder", needs="losses"')
    levels = {level: synthetic(level) for level in ("instance", "dense")}
    assert found_by([mine], levels)["mine"].values == {"mine": 1.0}  # type: ignore[arg-type]
    bare = {level: seen(s.x1) for level, s in levels.items()}
    assert found_by([mine, BUILT_IN["knn"]], bare)["mine"].values == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('better="lo"', "better is one of low, high, got 'lo'; did you mean 'low'?"),
        ('better="low", level="dens"', "level is one of instance, dense, encoder, got 'dens'; did you mean 'dense'?"),
        ('better="low", needs="label"', "needs is one of labels, losses, got 'label'; did you mean 'labels'?"),
        ('better="low", level=()', "level is one of instance, dense, encoder, got None"),
    ],
)
def test_a_declaration_that_makes_no_sense(tmp_path: Path, options: str, said: str) -> None:
    file = tmp_path / "odd.py"
    file.write_text(HEADER + f'@predictor("odd", {options})\ndef figure(seen):\n    return 1.0\n')
    with pytest.raises(PredictorError) as caught:
        Predictors().select(str(file))
    assert said in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rankm", "no predictor 'rankm'; did you mean 'rankme'?"),
        ("none.py", "no file"),
        ("empty.py", 'holds no predictor; mark a function with @predictor("its name", better="low")'),
        ("two.py:thre", "has no predictor 'thre'; did you mean 'three'?"),
    ],
)
def test_what_cannot_be_found(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "empty.py").write_text("")
    marks = "".join(f'@predictor("{n}", better="low")\ndef {n}(seen):\n    return 1.0\n' for n in ("three", "four"))
    (tmp_path / "two.py").write_text(HEADER + marks)
    with pytest.raises(PredictorError) as caught:
        Predictors().select(text, tmp_path)
    assert said in str(caught.value)


def test_a_file_gives_all_of_its_predictors_and_a_taken_name_is_told_of(tmp_path: Path) -> None:
    marks = "".join(f'@predictor("{n}", better="low")\ndef {n}(seen):\n    return 1.0\n' for n in ("five", "six"))
    (tmp_path / "pair.py").write_text(HEADER + marks)
    assert [p.name for p in Predictors().select("pair.py", tmp_path)] == ["five", "six"]
    assert [p.name for p in Predictors().select("pair.py:six", tmp_path)] == ["six"]
    own_rankme = tmp_path / "rankme.py"
    own_rankme.write_text(HEADER + '@predictor("rankme", better="low")\ndef rankme(seen):\n    return 1.0\n')
    with pytest.raises(PredictorError, match=r"two predictors are named 'rankme': .*built_in/rankme\.py:"):
        Predictors().select(str(own_rankme))


# ---- the store


def test_predictors_are_kept_by_their_source_and_nothing_else_is_done_again(tmp_path: Path) -> None:
    plain = tiny(tmp_path).sweep(dense_row(**spec_of(Registry().resolve("dense_index")).model_dump()))[0]
    store, known = Store(tmp_path / "store"), Predictors((), ())
    compute(plain, store, Registry(), CPU)
    folder = store.run(plain.pretrain.key).path
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    record = load_record(plain, store)
    assert record is not None and record.predictors == {}

    specs = tuple(known.spec_of(p) for p in known.built_in)
    spec = plain.model_copy(update={"predictors": specs})
    assert len(lacking(spec, store)) == len(specs)
    compute(spec, store, Registry((), ()), CPU)
    found = load_record(spec, store)
    assert found is not None and lacking(spec, store) == [] and found.failed_predictors == {}
    assert {"rankme@dense", "rankme@instance", "lidar@dense", "knob", "knn@instance"} <= set(found.predictors)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is trained or evaluated again"

    (file,) = folder.glob("evals/predictors-*.json")
    first = json.loads(file.read_text())["payload"]["found"]
    mine = own(tmp_path, "return float(seen.x1.mean())", options=', level="dense"')
    known = Predictors([mine.file])
    spec = plain.model_copy(update={"predictors": (*specs, known.spec_of(known.named("mine")))})
    assert [p.name for p in lacking(spec, store)] == ["mine"]
    compute(spec, store, Registry((), ()), CPU, predictors=known)
    second = json.loads(file.read_text())["payload"]["found"]
    assert set(second) == {*first, "mine"} and all(second[name] == first[name] for name in first)

    edited = [s.model_copy(update={"source": "0" * 64}) if s.name == "mine" else s for s in spec.predictors]
    spec = spec.model_copy(update={"predictors": tuple(edited)})
    assert [p.name for p in lacking(spec, store)] == ["mine"], "only the one whose source is another"
    stale = load_record(spec, store)
    assert stale is not None and "mine@dense" not in stale.predictors and "rankme@dense" in stale.predictors

    (folder / "encoder.safetensors").unlink()
    assert lacking(spec, store) == [], "without its encoder nothing is trained for a predictor"


def test_a_predictor_is_no_part_of_what_a_baseline_depends_on(tmp_path: Path) -> None:
    from cl_bench.claims.baseline import setting_of

    plain = tiny(tmp_path).sweep(dense_row())[0]
    more = plain.model_copy(update={"predictors": (PredictorSpec(name="p", source="0" * 64, better="low"),)})
    assert setting_of([plain], 0.05, 1) == setting_of([more], 0.05, 1)
