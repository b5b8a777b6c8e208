"""Built-in methods with a network: finite losses and gradients, and the norms that a strategy sees."""

from __future__ import annotations

import pytest
import torch
from helpers import rng
from matching_batches import every_strategy

from cl_bench.data.views import two_views
from cl_bench.encoders import build_encoder, cells
from cl_bench.methods.registry import Registry
from cl_bench.spec import AlignUniform, AugmentSpec, EncoderSpec, InfoNCE
from cl_bench.train.forward import forward

OBJECTIVES = (
    InfoNCE(temperature=0.2),
    InfoNCE(temperature=0.1, positive_in_denominator=False),
    AlignUniform(w_a=1, w_u=1),
)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.config)
@pytest.mark.parametrize("policy", ["overlapping", "disjoint"])
@every_strategy
def test_a_network_gets_a_finite_loss_and_gradient(text, policy, objective):
    method = Registry().resolve(text)
    torch.manual_seed(0)
    encoder = build_encoder("small_cnn")
    head = method.head(encoder, EncoderSpec(name="small_cnn", hidden=16, projection=8))
    pictures = torch.randint(256, (6, 3, 40, 40), generator=rng(), dtype=torch.uint8)
    augmented = two_views(pictures, AugmentSpec(size=32, flip=0.5), policy, rng())
    views = forward(encoder, head, method, augmented)
    assert views.grid == (4, 4)
    anchors = torch.cat([m.anchors for m in method.matches(views)])
    if text in ("dense_setsim", "dense_geometric", "dense_vicregl"):
        assert not anchors.all()
    loss = method.checked_loss(views, objective).total
    loss.backward()
    gradients = [p.grad for p in (*encoder.parameters(), *head.parameters())]
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)
    moved = any(g.abs().max() > 0 for g in gradients)
    if policy == "disjoint" and text.startswith("dense_geometric"):  # these six happen to lie too far apart
        assert not anchors.any() and moved == isinstance(objective, AlignUniform)
    else:
        assert anchors.any() and moved


def test_the_norms_a_strategy_sees_are_the_features_lengths_before_they_were_normalised():
    method = Registry().resolve("dense_setsim")
    encoder = build_encoder("small_cnn").eval()  # so that the features below can be had again
    head = method.head(encoder, EncoderSpec(name="small_cnn", hidden=16, projection=8))
    pictures = torch.randint(256, (3, 3, 40, 40), generator=rng(), dtype=torch.uint8)
    augmented = two_views(pictures, AugmentSpec(size=32), "overlapping", rng())
    views = forward(encoder, head, method, augmented)
    assert not views.norm1.requires_grad and not views.norm2.requires_grad
    for (x, _), h, norm in zip(augmented, (views.h1, views.h2), (views.norm1, views.norm2), strict=True):
        features = cells(encoder(x)).detach()
        torch.testing.assert_close(norm, features.norm(dim=-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(h * norm.unsqueeze(-1), features, rtol=1e-4, atol=1e-4)
