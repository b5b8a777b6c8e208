"""Redirection of output that is printed while an encoder is computed, to a file that does not grow without end."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cl_bench.store import Run

HEAD = TAIL = 2**19
"""Bytes that are kept of the beginning and of the end of what is printed."""
COPIES = 3
EVERY = 0.1  # seconds between two looks at the size of the file
_LEFT_OUT = re.compile(rb"\n\[ *([\d,]{1,24}) bytes are left out here\]\n")


@contextmanager
def output_to(run: Run) -> Iterator[None]:
    """Redirect everything printed within the context, also by compiled code, to the run's ``output.txt``.

    What is printed goes to the file itself, not through a pipe, so that printing never waits for a reader, and what was
    printed before a kill is there. A thread cuts the middle out of the file as it grows.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    target = os.open(run.path / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    cutting = os.open(run.path / "output.txt", os.O_RDWR)  # in one for appending no place can be written to
    over = threading.Event()
    trimming = threading.Thread(target=_trim_until, args=(over, cutting), daemon=True)
    trimming.start()
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            for fd, old in zip((1, 2), kept, strict=True):
                os.dup2(old, fd)
                os.close(old)
            over.set()
            trimming.join()
            os.close(target)
            os.close(cutting)


def _trim_until(over: threading.Event, file: int) -> None:
    while not over.wait(EVERY):
        _try_to_trim(file)
    _try_to_trim(file)


def _try_to_trim(file: int) -> None:
    with suppress(OSError):  # of the disk; the next look tries again
        trim(file)


def trim(file: int) -> None:
    """Cut the middle out of a file that is larger than ``HEAD + TAIL``, and say there how many bytes it had.

    The tail is copied to its new place before the file is cut, so that a kill at any moment loses none of it. Others
    may append meanwhile; only what comes between the last copy and the cut, mere microseconds, is lost.

    Args:
        file: Descriptor of the file, open for reading and writing, but not for appending.
    """
    size = os.fstat(file).st_size
    if size <= HEAD + TAIL + len(_line(0)):
        return
    before = _LEFT_OUT.match(os.pread(file, len(_line(0)), HEAD))
    left_out = size - TAIL - HEAD
    if before:
        left_out += int(before[1].replace(b",", b"")) - len(before[0])
    begin, end = size - TAIL, HEAD + len(_line(0))
    for _ in range(COPIES):  # the first is the tail, the others what was appended meanwhile
        piece = os.pread(file, TAIL, begin)
        os.pwrite(file, piece, end)
        begin, end = begin + len(piece), end + len(piece)
    os.pwrite(file, _line(left_out + os.fstat(file).st_size - begin), HEAD)
    os.ftruncate(file, end)


def _line(left_out: int) -> bytes:
    """Return the line that stands for what is left out, of one length for every number."""
    return b"\n[%24s bytes are left out here]\n" % f"{left_out:,}".encode()
