"""File descriptors that belong to one process: in a forked child they are replaced by the null device.

A child that kept them would hold its parent's locks and pipes open after the parent has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_OWN: set[int] = set()


@contextmanager
def own(*descriptors: int) -> Iterator[None]:
    """Hide open descriptors from children that are forked within the context."""
    _OWN.update(descriptors)
    try:
        yield
    finally:
        _OWN.difference_update(descriptors)


def _let_go() -> None:
    if _OWN:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in _OWN:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        _OWN.clear()


os.register_at_fork(after_in_child=_let_go)
