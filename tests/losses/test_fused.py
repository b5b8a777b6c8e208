"""The log-sum-exp by Triton's kernels: their numbers, where they are used, and what happens where they fail."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
import torch
from helpers import ROOT, environment
from pretended_gpu import GPU, pretended_gpu
from trainings import train

from cl_bench.losses import fused, pairwise
from cl_bench.losses.distributed import ALONE
from cl_bench.losses.types import Match
from cl_bench.methods.method import Method


@pytest.mark.slow
def test_kernels_in_the_interpreter_agree_with_blocks():
    pytest.importorskip("triton", reason="triton comes with torch for CUDA")
    command = [sys.executable, str(ROOT / "tests" / "losses" / "interpreted.py")]
    surroundings = environment(PYTHONPATH=str(ROOT), TRITON_INTERPRET="1")
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if "InterpreterError" in done.stderr:
        pytest.skip(f"Triton's interpreter cannot run: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["trials"] == {"tf32x3": "", "float16": ""}
    largest = {"tf32x3": 1e-5, "float16": 1e-3}  # of gradients, whose weights are halves where the vectors are
    for products, cases in told["errors"].items():
        assert len(cases) > 20
        for name, (value, gradient) in cases.items():
            assert value < 1e-4, (products, name)
            assert gradient < largest[products], (products, name)
        assert any(gradient > 1e-5 for _, gradient in cases.values()) == (products == "float16")


@pytest.mark.slow
@pytest.mark.parametrize("products", ["float16", "tf32x3"])
@pytest.mark.parametrize("name", ["values", "gradient"])
def test_kernels_compile_for_an_h100(name, products, monkeypatch, tmp_path):
    """Without one: it has 227 KiB of shared memory for a program, and multiplies by the instruction wgmma."""
    triton = pytest.importorskip("triton", reason="triton comes with torch for CUDA")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cl_bench.losses import triton_kernels as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, tile = {
        "values": (kernels.values_kernel, kernels.VALUES_TILE),
        "gradient": (kernels.gradient_kernel, kernels.GRADIENT_TILES[products]),
    }[name]
    vectors = "*fp16" if products == "float16" else "*fp32"
    constants = {"D": 128, "WIDTH": 128, "GROUP": 49, "SHIFTED": True, "ROWS": tile.rows, "COLUMNS": tile.columns}
    constants["PRECISION"] = "ieee" if products == "float16" else products
    kinds = {"x": vectors, "y": vectors, "n": "i32", "m": "i32", "scale": "fp32", "shift": "fp32"}
    kinds |= dict.fromkeys(constants, "constexpr")
    signature = {argument: kinds.get(argument, "*fp32") for argument in kernel.arg_names}
    places = {argument: (i,) for i, argument in enumerate(kernel.arg_names)}
    aligned = {places[a]: [["tt.divisibility", 16]] for a, k in signature.items() if a in "nm" or k[0] == "*"}
    source = ASTSource(kernel, signature, {places[a]: value for a, value in constants.items()}, aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "wgmma" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 227 * 2**10


def by_blocks(x, y, scale, group, shift, products):
    return pairwise._LogSumExp.apply(x, y, scale, group, shift, ALONE)


def off_by(difference):
    return lambda *given: by_blocks(*given) + difference


@pytest.fixture
def hopper(monkeypatch):
    """Pretend that the GPU is one on which the kernels were measured; what they compute is set by each test."""
    fused.works_on.cache_clear()
    yield lambda: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fused.works_on.cache_clear()


def test_a_card_that_was_not_measured_has_blocks(hopper):
    with pretended_gpu(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused.works_on(GPU, "tf32x3")


@pytest.mark.parametrize("products", ["tf32x3", "float16"])
def test_right_numbers_in_the_trial_let_the_kernels_serve(products, hopper, monkeypatch):
    monkeypatch.setattr(fused, "logsumexp", by_blocks)
    with pretended_gpu():
        hopper()
        with torch.inference_mode():
            assert fused.works_on(GPU, products)


def test_wrong_numbers_or_an_error_in_the_trial_leave_the_blocks(hopper, monkeypatch):
    def no_compiler(*given):
        raise RuntimeError("Failed to find C compiler.\nPlease set CC")

    for broken, reason in (
        (off_by(0.01), "in a trial they were off by 0.01 in a value and .* in a gradient"),
        (off_by(torch.nan), "in a trial they were off by nan in a value"),
        (no_compiler, "RuntimeError: Failed to find C compiler"),
    ):
        fused.works_on.cache_clear()
        monkeypatch.setattr(fused, "logsumexp", broken)
        with pretended_gpu():
            hopper()
            with pytest.warns(UserWarning, match=f"without Triton's kernels on cuda:0: {reason}"):
                assert not fused.works_on(GPU, "tf32x3")
            with warnings.catch_warnings():  # once is enough
                warnings.simplefilter("error")
                assert not fused.works_on(GPU, "tf32x3")


def test_what_the_kernels_serve(monkeypatch):
    monkeypatch.setattr(fused, "works_on", lambda device, products: True)
    with pretended_gpu():
        assert fused.serves(torch.zeros(2, 5, 128, device=GPU))
        for shape, dtype in (
            ((2, 5, 129), torch.float32),
            ((2, 0, 8), torch.float32),
            ((0, 5, 8), torch.float32),
            ((2**16, 1, 8), torch.float32),
            ((2, 5, 8), torch.float64),
            ((2, 5, 8), torch.float16),
        ):
            assert not fused.serves(torch.zeros(shape, dtype=dtype, device=GPU))
    assert not fused.serves(torch.zeros(2, 5, 8))


def test_losses_take_the_kernels_where_they_serve(monkeypatch):
    taken = []

    def recorded(x, y, scale, group, shift, products):
        taken.append((tuple(x.shape), y is None, shift, products))
        return by_blocks(x, y, scale, group, shift, products)

    x = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
    expected = pairwise.logsumexp(x, 2.0, 1, 1.0), *pairwise.logsumexp_between(x, x[:4], 100.0, 0, (1.0, 1.0))
    assert not taken
    monkeypatch.setattr(fused, "serves", lambda x: True)
    monkeypatch.setattr(fused, "logsumexp", recorded)
    found = [pairwise.logsumexp(x, 2.0, 1, 1.0)]
    with fused.in_halves("bfloat16"):
        found += pairwise.logsumexp_between(x, x[:4], 100.0, 0, (1.0, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert taken == [((1, 6, 4), True, 2.0, "tf32x3"), ((1, 6, 4), False, None, "float16")]


def test_rounding_to_half_keeps_dtype_and_gradient():
    x = torch.tensor([1 / 3, -1e-7, 0.0, 1e5, 65519.0], requires_grad=True)
    y = fused.rounded_to_half(x)
    assert torch.equal(y[:3], x[:3].half().float()) and torch.equal(y[3:], x[3:])
    (gradient,) = torch.autograd.grad((y * 1e-12).sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 1e-12))
    assert not torch.isfinite(fused.rounded_to_half(torch.tensor([torch.nan, torch.inf]))).any()


@pytest.mark.parametrize(("precision", "products"), [("float32", "tf32x3"), ("bfloat16", "float16")])
def test_training_says_which_products(precision, products):
    seen = set()

    class Watching(Method, name=f"watching-{precision}"):
        def match(self, views):
            return Match.identity(views)

        def loss(self, views, objective):
            halves = all(torch.equal(z, z.half().float()) for z in (views.z1, views.z2))
            seen.add((fused.products(), halves, views.z1.dtype))
            return Method.loss(self, views, objective)

    train(Watching, precision=precision)
    assert seen == {(products, precision == "bfloat16", torch.float32)}
    assert fused.products() == "tf32x3"
