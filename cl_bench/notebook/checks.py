"""Checks of the arguments of the functions for a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import repr as shortened

from cl_bench.errors import SpecError
from cl_bench.spec.records import Record


def expect(name: str, value: object, kinds: type | tuple[type, ...], told: str) -> None:
    """Refuse an argument of another type, so that it is told by its name and not from deep within.

    Args:
        name: Name of the argument.
        value: What was given.
        kinds: Types that it may have; True and False are no numbers here.
        told: What the argument takes, in words.

    Raises:
        SpecError: The line names argument and value.
    """
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise SpecError(f"{name} takes {told}, got {shortened(value)}")


def expect_records(name: str, records: Iterable[object]) -> None:
    """Refuse anything but records.

    Raises:
        SpecError: The line names argument and value.
    """
    told = "records, as of cl_bench.run() or cl_bench.load_records()"
    expect(name, records, Iterable, told)
    for record in records:
        expect(name, record, Record, told)
