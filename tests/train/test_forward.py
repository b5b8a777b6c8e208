"""Half precision, and a batch in chunks: the loss and the gradient of the whole."""

from __future__ import annotations

import pytest
import torch
from helpers import rng
from torch import nn

from cl_bench import LossTerms, Method
from cl_bench.data.views import two_views
from cl_bench.encoders import build_encoder
from cl_bench.losses.terms import alignment, uniformity
from cl_bench.losses.types import DenseViews
from cl_bench.methods.registry import Registry
from cl_bench.spec import AlignUniform, AugmentSpec, EncoderSpec, InfoNCE
from cl_bench.train.forward import InChunks, forward

NCE, AU = InfoNCE(temperature=0.2), AlignUniform(w_a=1, w_u=1)
BATCH = 12

pytestmark = pytest.mark.usefixtures("forget_methods")


class Setting:
    """Encoder, head and a batch in float64, the same at each call; batch norm on its running statistics."""

    def __init__(self, method="dense_index", dropout=0.0):
        self.method = method() if isinstance(method, type) else Registry().resolve(method)
        torch.manual_seed(0)
        self.encoder = build_encoder("small_cnn").double().eval()
        head = self.method.head(self.encoder, EncoderSpec(name="small_cnn", hidden=16, projection=8)).double()
        self.head = nn.Sequential(nn.Dropout(dropout), head)
        images = torch.randint(256, (BATCH, 3, 40, 40), generator=rng(), dtype=torch.uint8)
        pair = two_views(images, AugmentSpec(size=32, flip=0.5), "overlapping", rng())
        self.pair = tuple((view.double(), place) for view, place in pair)

    def through(self, pair):
        return forward(self.encoder, self.head, self.method, pair)

    def step(self, objective=NCE, chunk=None):
        """Terms, and the gradient of every parameter."""
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        for parameter in parameters:
            parameter.grad = None
        chunks = InChunks(self.through, (self.encoder, self.head), chunk) if chunk else None
        views = chunks.forward(self.pair) if chunks else self.through(self.pair)
        terms = self.method.checked_loss(views, objective)
        terms.total.backward()
        if chunks:
            chunks.backward(views)
        assert all(p.grad is not None and p.grad.any() for p in parameters)
        return [terms.alignment.detach(), terms.distribution.detach(), *(p.grad for p in parameters)]


def close(one, other, tolerance=1e-10):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def own_loss():
    class Own(Method, name="f_own"):
        def loss(self, views, objective):
            spread = uniformity(torch.cat([views.z1, views.z2]), scope="all_pairs")
            return LossTerms(alignment(views.z1, views.z2), spread * views.z1.std())

    return Own


@pytest.mark.parametrize("chunk", [2, 4, 6, 12])
@pytest.mark.parametrize("objective", [NCE, AU], ids=lambda o: o.family)
@pytest.mark.parametrize("method", ["dense_index", "dense_emd", "instance", own_loss])
def test_loss_terms_and_gradients_are_the_whole_batch_s(method, objective, chunk):
    setting = Setting(method() if callable(method) else method)
    close(setting.step(objective, chunk), setting.step(objective))


def test_the_losses_of_the_chunks_do_not_add_up_to_that_of_the_batch():
    setting = Setting()
    whole = setting.step()
    parts = []
    (x1, g1), (x2, g2) = setting.pair
    for start in range(0, BATCH, 4):
        rows = slice(start, start + 4)
        setting.pair = (x1[rows], g1[rows]), (x2[rows], g2[rows])
        parts.append(setting.step())
    mean = [sum(part) / 3 for part in zip(*parts, strict=True)]
    assert abs(mean[1] - whole[1]) > 0.1  # a third of the negatives
    assert max((a - b).norm() / b.norm() for a, b in zip(mean[2:], whole[2:], strict=True)) > 0.05


def test_a_strategy_and_a_loss_see_the_same_views():
    setting = Setting()
    chunked = InChunks(setting.through, (setting.encoder, setting.head), 4).forward(setting.pair)
    whole = setting.through(setting.pair)
    assert isinstance(chunked, DenseViews) and chunked.grid == whole.grid
    assert chunked.z1.requires_grad and chunked.z2.requires_grad and not chunked.h1.requires_grad
    names = [name for name in vars(whole) if name != "grid"]
    close(*([vars(views)[name].detach() for name in names] for views in (chunked, whole)))


def test_a_loss_of_one_view_alone():
    class OneSided(Method, name="f_one_sided"):
        def loss(self, views, objective):
            return LossTerms(views.z1.sum() * 0, uniformity(views.z1))

    setting = Setting(OneSided)
    close(setting.step(chunk=4), setting.step())


def test_what_a_loss_learns_of_its_own_gets_its_gradient_once():
    class Scaled(Method, name="f_scaled"):
        def head(self, encoder, spec):
            self.scale = nn.Parameter(torch.ones(()))
            head = super().head(encoder, spec)
            head.register_parameter("scale", self.scale)
            return head

        def loss(self, views, objective):
            scale = dict(setting.head.named_parameters())["1.scale"]
            return LossTerms(alignment(views.z1, views.z2) * scale, uniformity(views.z1))

    setting = Setting(Scaled)
    close(setting.step(chunk=4), setting.step())


def test_dropout_drops_the_same_in_both_passes_and_what_follows_is_drawn_after_the_loss():
    def run(chunk):
        setting = Setting(dropout=0.5)
        torch.manual_seed(7)
        return setting.step(chunk=chunk), torch.rand(3)

    one, other, whole = run(4), run(4), run(None)
    close(one[0], other[0], 0)
    assert torch.equal(one[1], other[1]) and not torch.equal(one[1], torch.rand(3, generator=rng(7)))
    assert torch.equal(run(12)[1], whole[1])  # one chunk: drawn as the whole batch
    close(run(12)[0], whole[0])
    # Numerically: the gradient is that of the dropout that gave the loss.
    setting = Setting(dropout=0.5)
    bias = setting.head[1].net[2].bias
    terms = []
    for shift in (0.0, 1e-6, -1e-6):
        with torch.no_grad():
            bias[0] += shift
        torch.manual_seed(7)
        found = setting.step(chunk=4)
        terms.append((float(found[0] + found[1]), float(bias.grad[0])))
        with torch.no_grad():
            bias[0] -= shift
    assert terms[0][1] == pytest.approx((terms[1][0] - terms[2][0]) / 2e-6, rel=1e-4)


def statistics(setting):
    norm = setting.encoder.trunk[0][1]
    return norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()


def test_batch_norm_counts_each_chunk_once():
    setting = Setting()
    setting.encoder.train()
    setting.step(chunk=4)
    mean, var, tracked = statistics(setting)
    assert tracked == BATCH // 4
    by_hand = nn.BatchNorm2d(32, dtype=torch.float64)
    (x1, _), (x2, _) = setting.pair
    with torch.no_grad():
        for start in range(0, BATCH, 4):
            rows = slice(start, start + 4)
            by_hand(setting.encoder.trunk[0][0](torch.cat([x1[rows], x2[rows]])))
    close([mean, var], [by_hand.running_mean, by_hand.running_var])


def test_one_chunk_with_batch_norm_is_the_plain_step():
    plain, chunked = Setting(), Setting()
    for setting in (plain, chunked):
        setting.encoder.train()
    close(chunked.step(chunk=BATCH), plain.step())
    close(statistics(chunked), statistics(plain), 0)


# Half precision


def test_encoder_and_head_are_in_bfloat16_and_what_leaves_them_is_not():
    setting = Setting()
    setting.encoder.float(), setting.head.float()
    setting.pair = tuple((view.float(), place) for view, place in setting.pair)
    seen = {}
    for name, module in (("encoder", setting.encoder.last[0][0]), ("head", setting.head[1].net[0])):
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out.dtype}))
    half = forward(setting.encoder, setting.head, setting.method, setting.pair, "bfloat16")
    assert seen == {"encoder": torch.bfloat16, "head": torch.bfloat16}
    exact = setting.through(setting.pair)
    assert seen == {"encoder": torch.float32, "head": torch.float32}
    for name, x in vars(half).items():
        if name != "grid":
            assert x.dtype == torch.float32, name
    for x, off in ((half.z1, 5e-4), (half.z2, 5e-4), (half.h1, 1e-6), (half.h2, 1e-6)):
        torch.testing.assert_close(x.norm(dim=-1), torch.ones(x.shape[:2]), rtol=0, atol=off)
    assert torch.equal(half.z1, half.z1.half().float())
    assert 1e-6 < (half.z1 - exact.z1).abs().max() < 0.1
    terms = setting.method.loss(half, NCE)
    assert terms.total.dtype == torch.float32
    terms.total.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in setting.encoder.parameters())


def test_a_head_of_a_plugin_that_leaves_bfloat16_is_widened():
    class Linear(Method, name="f_linear"):
        def head(self, encoder, spec):
            return nn.Linear(encoder.channels, 8)

        def match(self, views):
            raise AssertionError

    setting = Setting(Linear)
    setting.encoder.float(), setting.head.float()
    setting.pair = tuple((view.float(), place) for view, place in setting.pair)
    assert forward(setting.encoder, setting.head, setting.method, setting.pair, "bfloat16").z1.dtype == torch.float32
