"""Settings of torch that change numbers: equal before each stage, and recorded with the results."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, NamedTuple

import torch

from cl_bench import __version__
from cl_bench.losses.fused import products, works_on

THREADS = torch.get_num_threads()
"""Number of threads that torch uses by default, read at import, which in a worker comes before any plugin."""

MIXED = "mixed"
"""Precision of matrix products when backends differ, for which torch has no single value."""


class Switch(NamedTuple):
    """A setting of torch: how to read it, how to set it, and the value that it gets."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]
    value: Any


def switches(device: torch.device) -> list[Switch]:
    """Return all settings, in the order in which they are set.

    The values are torch's defaults, made explicit, except on a CPU. There one thread per process is faster on small
    networks, and deterministic algorithms keep the order of sums, and so the result, the same every time.
    """
    on_cpu = device.type == "cpu"
    return [
        Switch("default_dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        Switch("grad", torch.is_grad_enabled, torch.set_grad_enabled, True),
        Switch("threads", torch.get_num_threads, torch.set_num_threads, 1 if on_cpu else THREADS),
        Switch(
            "deterministic",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
            on_cpu,
        ),
        # torch keeps this value apart from the backends' precisions, and refuses to read it where they contradict it.
        Switch("matmul_precision", _matmul_precision, _set_matmul_precision, "highest"),
        _backend("cuda.matmul.fp32_precision", "ieee"),
        _backend("cuda.matmul.allow_fp16_reduced_precision_reduction", True),
        _backend("cuda.matmul.allow_bf16_reduced_precision_reduction", True),
        _backend("cudnn.conv.fp32_precision", "tf32"),
        _backend("cudnn.rnn.fp32_precision", "tf32"),
        _backend("cudnn.enabled", True),
        _backend("cudnn.benchmark", False),
        _backend("cudnn.deterministic", False),
        _backend("mkldnn.matmul.fp32_precision", "ieee"),
        _backend("mkldnn.conv.fp32_precision", "ieee"),
        _backend("mkldnn.rnn.fp32_precision", "ieee"),
        _backend("mkldnn.enabled", True),
    ]


@contextmanager
def settled(device: torch.device) -> Iterator[None]:
    """Set every switch to its value in ``switches`` within the context, and restore the previous values after it."""
    every = switches(device)
    found = [switch.get() for switch in every]
    try:
        for switch in every:
            switch.set(switch.value)
        yield
    finally:
        for switch, value in zip(every, found, strict=True):
            switch.set(value)


@contextmanager
def unchanged(device: torch.device) -> Iterator[None]:
    """Put every switch back to where it was found; unlike ``settled``, set nothing where none was moved."""
    every = switches(device)
    found = [switch.get() for switch in every]
    try:
        yield
    finally:
        for switch, value in zip(every, found, strict=True):
            if switch.get() != value:
                switch.set(value)


def provenance(device: torch.device) -> dict[str, Any]:
    """Return machine, versions and settings of a computation as plain values."""
    import torchvision  # slow to import

    gpu = {}
    if device.type == "cuda":
        gpu = {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        gpu["log_sum_exp"] = "kernels" if works_on(device, products()) else "blocks"
    return {
        "cl_bench": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": str(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **gpu,
        **{switch.name: _plain(switch.get()) for switch in switches(device)},
    }


def _backend(name: str, value: object) -> Switch:
    """Make a switch of ``torch.backends``."""
    owner, _, attribute = name.rpartition(".")
    holder = attrgetter(owner)(torch.backends)
    return Switch(name, lambda: getattr(holder, attribute), lambda new: setattr(holder, attribute, new), value)


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return MIXED


def _set_matmul_precision(value: str) -> None:
    if value != MIXED:  # then it follows the backends' values, which are set one by one
        torch.set_float32_matmul_precision(value)


def _plain(value: object) -> object:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
