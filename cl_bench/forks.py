"""Descriptors that are one process's alone: a child that is forked from it finds the null device in their place.

A child that kept them would hold its parent's locks and pipes open after the parent has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_OWN: set[int] = set()


@contextmanager
def own(*descriptors: int) -> Iterator[None]:
    """Keep open descriptors from children that are forked meanwhile."""
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
