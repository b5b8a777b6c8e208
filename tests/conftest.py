"""What every test may rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cl_bench.method import REGISTERED
from cl_bench.registry import Registry


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As the workers have: small nets gain nothing from more, and a busy machine loses much."""
    torch.set_num_threads(1)


@pytest.fixture
def forget_methods() -> Iterator[None]:
    """What a test registers is gone after it; the built-in methods stay, for a module is imported once."""
    Registry()
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)
