"""Output of a command that may be read to its end, or not: ``cl-bench plan | head``."""

from __future__ import annotations

import os
import sys

import rich.console

UNREAD = 141
"""Exit status where nobody reads the output any more, as a shell gives it to who ends by SIGPIPE."""


class Console(rich.console.Console):
    """A console that raises BrokenPipeError where nobody reads it any more, as ``print`` does."""

    def on_broken_pipe(self) -> None:
        """Raise the error again, where rich's own console would end the process with status 1."""
        raise


def unread() -> int:
    """Give up an output that nobody reads any more, and return the exit status that says so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes the output
    return UNREAD
