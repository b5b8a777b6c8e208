"""Parts about numbers: the installation, the contract of every method, a CPU's values against the device's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from unittest import SkipTest

import torch
from kernels import products_in
from timing import machine, medians
from torch import Tensor
from torch.nn.functional import normalize

from cl_bench import info_nce, uniformity
from cl_bench.compute.numerics import provenance, settled
from cl_bench.errors import first_line
from cl_bench.losses.types import DenseViews
from cl_bench.methods.checking import OBJECTIVES, dense_weights, has_own_match, name_of
from cl_bench.methods.contract import CHECKS
from cl_bench.methods.method import Method
from cl_bench.methods.registry import Registry
from cl_bench.methods.synthetic import each, synthetic_views
from gpu.running import Setting

CPU = torch.device("cpu")
PACKAGES = ("triton", "lightly", "numpy", "pytest", "ray")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
TEMPERATURES = (0.05, 0.2, 1.0)
GAUGES = ("clock_rate", "temperature", "power_draw", "utilization", "memory_usage")


def install(setting: Setting) -> dict[str, Any]:
    """Tell versions, the card and its clocks, and how fast it multiplies and copies."""
    device = setting.device
    found: dict[str, Any] = {"machine": machine(), "provenance": provenance(device)}
    found["packages"] = {name: _version(name) for name in PACKAGES}
    n, rounds = (256, 1) if setting.tiny else (8192, 10)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found["card"] = {
            "name": card.name,
            "memory": card.total_memory,
            "processors": card.multi_processor_count,
            "capability": f"{card.major}.{card.minor}",
        }
    rates = {}
    for precision in PRECISIONS:
        with products_in(precision) as dtype:
            x = torch.ones(n, n, dtype=dtype, device=device)
            rates[precision] = 2e-12 * n**3 / medians({"": lambda x=x: x @ x}, rounds)[""]
    found["products_tflops"] = rates
    x = torch.ones(n, n, device=device)
    found["copies_gb_per_s"] = 8e-9 * n**2 / medians({"": x.clone}, rounds)[""]
    if device.type == "cuda":  # right after work, while the clocks are up
        found["gauges"] = {name: _gauge(name) for name in GAUGES}
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _gauge(name: str) -> Any:
    """Read one of torch's gauges, which need NVIDIA's management library."""
    try:
        return getattr(torch.cuda, name)()
    except Exception as error:  # the library's own types, which need not be installed
        return first_line(error)


def contract(setting: Setting) -> dict[str, Any]:
    """Check every built-in method on the device, and compare its match and its losses with a CPU's.

    Returns:
        By method: checks passed, those that do not apply, what failed; the share of the cells whose match is the same
        on both devices; and the largest relative difference of a loss, each under its own match.
    """
    registry = Registry()
    return {name: _of_method(registry.resolve(name), setting.device) for name in registry.names}


def _of_method(method: Method, device: torch.device) -> dict[str, Any]:
    passed, skipped, failed = 0, [], []
    for check in CHECKS:
        try:
            check(method, device)
            passed += 1
        except SkipTest:
            skipped.append(check.__name__)
        except Exception as error:  # whatever fails on this device is what is looked for
            failed.append(f"{check.__name__}: {first_line(error)}")
    with settled(device):
        views = synthetic_views(method, CPU, images=16)
        there = each(views, lambda t: t.to(device))
        differences = {name_of(o): _difference(method, views, there, o) for o in OBJECTIVES}
    return {
        "passed": passed,
        "skipped": skipped,
        "failed": failed,
        "same_matches": _same_matches(method, views, there),
        "loss_difference": max(differences.values()),
    }


def _difference(method: Method, views: DenseViews, there: DenseViews, objective: Any) -> float:
    ours, theirs = (float(method.checked_loss(v, objective).total) for v in (views, there))
    return abs(ours - theirs) / max(1.0, abs(ours))


def _same_matches(method: Method, views: DenseViews, there: DenseViews) -> float | None:
    if not has_own_match(method):
        return None
    pairs = zip(method.matches(views), method.matches(there), strict=True)
    same = [(dense_weights(a) - dense_weights(b).cpu()).abs().amax(-1) < 1e-5 for a, b in pairs]
    return float(torch.cat(same).float().mean())


def values(setting: Setting) -> dict[str, Any]:
    """Compare losses and gradients of CPU and device with float64's, by loss, temperature and precision.

    L_u is taken at t = 1 / (2 temperature), where its exponents are InfoNCE's.

    Returns:
        Relative errors of the value and of the gradient (of its norm), for each device.
    """
    B, P, D = (4, 9, 16) if setting.tiny else (64, 49, 128)
    draws = torch.Generator().manual_seed(0)
    base, *noise = torch.randn(3, B, P, D, generator=draws, dtype=torch.float64)
    exact = [normalize(base + part, dim=-1) for part in noise]
    found: dict[str, Any] = {"sizes": [B, P, D], "errors": {}}
    for name, loss in _losses():
        value, gradients = _step(loss, exact, torch.float64, CPU)
        for device in {"cpu": CPU, setting.name: setting.device}.values():
            for precision in PRECISIONS:
                with products_in(precision) as dtype:
                    other, theirs = _step(loss, exact, dtype, device)
                apart = torch.cat(theirs) - torch.cat(gradients)
                found["errors"][f"{name}, {precision}, {device.type}"] = {
                    "value": abs(other - value) / abs(value),
                    "gradient": float(apart.norm() / torch.cat(gradients).norm()),
                }
    return found


def _losses() -> Iterator[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    for temperature in TEMPERATURES:
        t = 1 / (2 * temperature)
        yield f"info_nce {temperature}", lambda z1, z2, T=temperature: info_nce(z1, z2, temperature=T).total
        yield f"uniformity {temperature}", lambda z1, z2, t=t: (uniformity(z1, t) + uniformity(z2, t)) / 2


def _step(
    loss: Callable[[Tensor, Tensor], Tensor], z: list[Tensor], dtype: torch.dtype, device: torch.device
) -> tuple[float, list[Tensor]]:
    """Return a loss and its gradients, in float64 on the CPU."""
    inputs = [part.to(device=device, dtype=dtype).requires_grad_() for part in z]
    value = loss(*inputs)
    return value.item(), [g.double().cpu() for g in torch.autograd.grad(value, inputs)]
