"""What can go wrong in a way the user is told about in one line."""

import difflib
from collections.abc import Sequence


class Diverged(ArithmeticError):
    """A loss or a feature left the finite numbers; the run ends as ``diverged`` and is left out of tau by name."""


class PluginError(ValueError):
    """A plugin that cannot be found, loaded or used, of whichever kind."""


class MethodError(PluginError):
    """A method that cannot be found, loaded or used; the message names it, and its file and line where it has one."""


class PredictorError(PluginError):
    """A predictor that cannot be found, loaded or used; the message names it, and its place where it has one."""


class NameTakenError(MethodError, PredictorError):
    """Two plugins of a kind want one name; both places are named."""

    def __init__(self, name: str, one: str, other: str, noun: str = "method") -> None:
        super().__init__(f"two {noun}s are named {name!r}: {one} and {other}")
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


def line_in(error: BaseException, file: str) -> int | None:
    """The line of a file where an error happened, the innermost; None where it happened elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = []
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else None
