"""What can go wrong in a way the user is told about in one line."""

import difflib
from collections.abc import Sequence


class Diverged(ArithmeticError):
    """A loss or a feature left the finite numbers; the run ends as ``diverged`` and is left out of tau by name."""


class MethodError(ValueError):
    """A method that cannot be found, loaded or used; the message names it, and its file and line where it has one."""


class NameTakenError(MethodError):
    """Two plugins want one name; both places are named."""

    def __init__(self, name: str, one: str, other: str) -> None:
        super().__init__(f"two methods are named {name!r}: {one} and {other}")
        self.name = name


class OutOfMemory(RuntimeError):
    """The device cannot hold what a stage needs; the message says what to try."""


class SpecError(ValueError):
    """A profile, option or setting that makes no sense; its message is one line for the user."""


class DataError(SpecError):
    """A data set that is not there, is not what it should be, or cannot be decoded; its message is one line."""


class DataWarning(UserWarning):
    """Images that were left out of a data set, by name."""


def nearest(name: str, known: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` when something is near, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
