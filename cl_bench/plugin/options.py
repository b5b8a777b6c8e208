"""What is typed, made sense of or refused."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from cl_bench.errors import PluginError, SpecError

T = TypeVar("T")


def seed_settings(text: str) -> list[str]:
    """What ``--seeds N`` or ``--seeds FIRST:END`` sets in a profile."""
    first, colon, end = text.rpartition(":")
    try:
        begin, stop = int(first) if colon else 0, int(end)
    except ValueError:
        begin, stop = 0, 0
    if not 0 <= begin < stop:
        raise pytest.UsageError(f"--seeds takes a number N (seeds 0 to N - 1) or FIRST:END, as 3:8, got {text!r}")
    return [f"seeds={stop - begin}", f"first_seed={begin}"]


def renewing_command(typed: Sequence[object], path: str) -> str:
    """A command as typed, that keeps a new baseline instead of reading one."""
    words, last = ["pytest"], ""
    for word in map(str, typed):
        name, _, value = word.partition("=")
        options = ("--baseline", "--save-baseline")
        if not (name in options and (value or word in options)) and last not in options:
            words.append(word)
        last = word
    return shlex.join([*words, "--save-baseline", path])


def or_usage_error(make: Callable[[], T], what: str = "") -> T:
    """What an option asks for; one that makes no sense ends the session before anything trains (exit status 4)."""
    try:
        return make()
    except (SpecError, PluginError) as error:
        raise pytest.UsageError(str(error)) from None
    except OSError as error:
        raise pytest.UsageError(f"{what}: {error.strerror or error}") from None
