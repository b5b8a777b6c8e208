"""Inputs that the losses refuse, by name and value."""

from __future__ import annotations

import pytest
import torch
from loss_cases import NEGATIVES, SCOPES, vectors
from torch import Tensor
from torch.nn.functional import normalize

from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import Match

GOOD = vectors(3, 2, 4, dtype=torch.float32)


NAN, INF = float("nan"), float("inf")


def spoiled(value) -> Tensor:
    z = GOOD.clone()
    z[1, 0, 2] = value
    return z


BAD_FEATURES = [
    (torch.ones(4), r"NAME.*\(4,\)"),
    (torch.ones(1, 2, 3, 4), r"NAME.*\(1, 2, 3, 4\)"),
    (torch.ones(0, 2, 4), r"NAME.*\(0, 2, 4\)"),
    (torch.ones(2, 0), r"NAME.*\(2, 0\)"),
    (torch.ones(3, 2, 1, dtype=torch.int64), r"NAME.*int64"),
    (spoiled(NAN), r"NAME.*\(3, 2, 4\).*finite"),
    (spoiled(INF), r"NAME.*\(3, 2, 4\).*finite"),
    (spoiled(-INF), r"NAME.*\(3, 2, 4\).*finite"),
    (2 * GOOD, r"NAME.*unit-norm.*2"),
    (torch.zeros(3, 2, 4), r"NAME.*unit-norm.*0"),
    (1.002 * GOOD, r"NAME.*unit-norm.*1\.002"),
    ((1.05 * GOOD).bfloat16(), r"NAME.*unit-norm.*1\.0"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_FEATURES)
def test_bad_features_are_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=message.replace("NAME", r"\bz\b")):
        uniformity(bad)
    good = normalize(torch.ones_like(bad, dtype=torch.float32), dim=-1)
    for loss in (alignment, info_nce):
        with pytest.raises(ValueError, match=message.replace("NAME", r"\bz1\b")):
            loss(bad, good)
        if good.ndim in (2, 3) and good.numel():
            with pytest.raises(ValueError, match=message.replace("NAME", r"\bz2\b")):
                loss(good, bad)


@pytest.mark.parametrize("loss", [alignment, info_nce])
@pytest.mark.parametrize("other", [GOOD[:2], GOOD[:, :1], GOOD[:, 0]])
def test_unequal_shapes_are_refused(loss, other):
    with pytest.raises(ValueError, match=rf"z1 and z2.*\(3, 2, 4\).*\({', '.join(map(str, other.shape))}\)"):
        loss(GOOD, other)


@pytest.mark.parametrize("temperature", [0.0, -0.5, NAN, INF, -INF])
def test_a_temperature_that_makes_no_sense_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature.*{temperature}"):
        info_nce(GOOD, GOOD, temperature=temperature)


@pytest.mark.parametrize("t", [0.0, -0.5, NAN, INF, -INF])
def test_a_kernel_that_makes_no_sense_is_refused(t):
    with pytest.raises(ValueError, match=rf"\bt\b.*{t}"):
        uniformity(GOOD, t)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"negatives.*both_views.*cross_view.*ntxent.*'both'"):
        info_nce(GOOD, GOOD, negatives="both")
    with pytest.raises(ValueError, match=r"scope.*same_index.*other_images.*all_pairs.*'all'"):
        uniformity(GOOD, scope="all")


@pytest.mark.parametrize(
    ("shape", "scope"), [((1, 4), scope) for scope in SCOPES] + [((1, 3, 4), "same_index"), ((1, 3, 4), "other_images")]
)
def test_a_batch_without_pairs_is_refused(shape, scope):
    with pytest.raises(ValueError, match=rf"scope.*{scope}.*\({', '.join(map(str, shape))}\)|{scope}.*\(1, 1, 4\)"):
        uniformity(vectors(*shape), scope=scope)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("shape", [(1, 4), (1, 1, 4)])
def test_one_vector_has_no_negatives(shape, keep_positive, negatives):
    z1, z2 = vectors(2, *shape)
    with pytest.raises(ValueError, match=r"negatives.*z1.*\(1, 1, 4\)"):
        info_nce(z1, z2, negatives=negatives, positive_in_denominator=keep_positive)


@pytest.mark.parametrize("negatives", ["both_views", "cross_view"])
def test_one_image_whose_cells_are_all_positives_has_no_negatives(negatives):
    z1, z2 = vectors(2, 1, 2, 4)
    match = Match(weights=torch.full((1, 2, 2), 0.5))
    with pytest.raises(ValueError, match=rf"{negatives}.*z1.*\(1, 2, 4\)"):
        info_nce(z1, z2, match, negatives=negatives, positive_in_denominator=False)
    assert torch.isfinite(info_nce(z1, z2, match, negatives="ntxent", positive_in_denominator=False).total)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3, 1)])
def test_a_match_of_another_shape_is_refused(shape):
    match = Match(index=torch.zeros(shape, dtype=torch.int64))
    good = Match(index=torch.zeros(3, 2, dtype=torch.int64))
    message = rf"match.*\({shape[0]}, {shape[1]}\).*\(3, 2\)"
    for refuse in (
        lambda: alignment(GOOD, GOOD, match),
        lambda: info_nce(GOOD, GOOD, match),
        lambda: info_nce(GOOD, GOOD, (match, good)),
        lambda: info_nce(GOOD, GOOD, (good, match)),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()
