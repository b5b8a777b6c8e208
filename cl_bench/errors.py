"""Errors and warnings that are reported to the user in one line."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

LONGEST_LINE = 2000
"""Most characters of a line that is quoted from an error."""


def plain(text: str) -> str:
    r"""Return a text with its control characters written out, as ``\x1b``, so that a terminal does not obey them.

    So are those that turn the direction of writing, and lone surrogates, which cannot be encoded; newlines stay.
    """
    if text.isprintable():
        return text
    unseen = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        c.encode("unicode_escape").decode() if c != "\n" and unicodedata.category(c) in unseen else c for c in text
    )


class PlainError(Exception):
    """An error whose message may quote what a plugin or a file says, which the terminal must not obey."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class Diverged(PlainError, ArithmeticError):
    """A loss or a feature that is not finite; the run ends as ``diverged`` and is left out of tau by name."""


class PluginError(PlainError, ValueError):
    """A plugin, of any kind, that cannot be found, loaded or used."""


class MethodError(PluginError):
    """A method that cannot be found, loaded or used; the message names it, and its file and line where it has one."""


class PredictorError(PluginError):
    """A predictor that cannot be found, loaded or used; the message names it, and its place where it has one."""


class NameTakenError(MethodError, PredictorError):
    """Two plugins of a kind with the same name; the message has both places."""

    def __init__(self, name: str, one: str, other: str, noun: str = "method") -> None:
        super().__init__(f"two {noun}s are named {name!r}: {one} and {other}")
        self.name = name


class OutOfMemory(RuntimeError):
    """A stage that needs more memory than the device has; the message says what to try."""


class SpecError(PlainError, ValueError):
    """A profile, option or setting that is not valid; its message is one line for the user."""


class DataError(SpecError):
    """A data set that is missing, is not what it should be, or cannot be decoded; its message is one line."""


class EncoderError(SpecError):
    """An encoder that is not there, cannot be built or loaded, or gives no features; its message is one line."""


class DataWarning(UserWarning):
    """Images that were left out of a data set, by name, or boxes, by their number."""


def check_folder(option: str, path: Path | str) -> None:
    """Refuse a file, or what lies under one, as the folder that an option names; it need not be there yet.

    Raises:
        SpecError: The line names the option and the file.
    """
    for place in (Path(path), *Path(path).parents):
        if place.exists():
            if not place.is_dir():
                what = "is a file" if place == Path(path) else f"{place} is a file"
                raise SpecError(f"{option} {path}: {what}; it takes a folder")
            return


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty text if none is near."""
    close = closest(name, known, 0.5)
    return f"; did you mean {close!r}?" if close else ""


def closest(name: str, known: Iterable[str], cutoff: float) -> str | None:
    """Return the known name that is most alike, or None if none is alike by ``cutoff`` (0 to 1) or more."""
    return next(iter(difflib.get_close_matches(name, [*known], n=1, cutoff=cutoff)), None)


def no_file(path: Path, suffixes: Sequence[str]) -> str:
    """Say that a file is not there, with the nearest of such a suffix in its folder, where one is near."""
    try:
        beside = {f.stem: f.name for f in path.absolute().parent.iterdir() if f.suffix in suffixes}
    except OSError:
        beside = {}
    close = closest(path.stem, beside, 0.6)
    return f"no file {path}" + (f"; did you mean {beside[close]!r}?" if close else "")


def listed(names: Iterable[str], shown: int = 5) -> str:
    """Return the first names as text, and the number of the others: ``"a, b and 3 more"``."""
    every = list(names)
    more = f" and {len(every) - shown:,} more" if len(every) > shown else ""
    return f"{', '.join(every[:shown])}{more}"


def of_file(error: OSError) -> str:
    """Return the file of an error and what is wrong with it, without the system's number for it."""
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if error.filename else why


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, in plain characters and not without end."""
    said = first_line_of(str(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def first_line_of(text: str) -> str:
    """Return the first line of a text that says something, as ``first_line``."""
    lines = text.strip().splitlines()
    line = plain(lines[0]) if lines else ""
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}\u2026"


def line_in(error: BaseException, file: str) -> int | None:
    """Return the innermost line of a file in which an error happened; None if it happened elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines = []
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else None
