"""Records of one or several rows, as a notebook has them: a sequence, a table, and what else was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

from cl_bench.errors import SpecError, nearest
from cl_bench.report.records_csv import flat_record
from cl_bench.spec import RunSpec
from cl_bench.spec.profile import Profile
from cl_bench.spec.records import RANDOM_INIT, Record

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Records(Sequence[Record]):
    """Records in the order of the paper's tables, untrained encoders last; indexing gives a ``Record``.

    Attributes:
        records: The records that there are.
        specs: What was asked for, with or without a record; each can be given to ``cl_bench.run`` again.
        profile: The setting that they belong to; None where it is not known.
        failures: A line for each encoder that could not be computed.
    """

    records: tuple[Record, ...]
    specs: tuple[RunSpec, ...] = ()
    profile: Profile | None = None
    failures: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...

    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        rows = Counter(row_name(record) for record in self.records)
        told = ", ".join(f"{name} ({count})" for name, count in rows.items())
        failed = f"; {len(self.failures)} failed" if self.failures else ""
        return f"<{len(self)} records{': ' if told else ''}{told}{failed}>"

    def where(self, *, method: str | None = None, data: str | None = None, views: str | None = None) -> Records:
        """Select the rows of a method, of some data, of a policy of views; untrained encoders always stay.

        Args:
            method: The method with its options, as ``Record.method`` has it.
            data: Pre-training data, as ``Record.data`` has it.
            views: ``overlapping`` or ``disjoint``.

        Raises:
            SpecError: No record has that value; the message names the nearest.
        """
        kept = self
        for name, value in {"method": method, "data": data, "views": views}.items():
            if value is None:
                continue
            known = sorted({getattr(record, name) for record in self.records if record.family != RANDOM_INIT})
            if value not in known:
                raise SpecError(f"no records of {name} {value!r}{nearest(value, known)}; there are: {', '.join(known)}")
            kept = replace(
                kept,
                records=tuple(r for r in kept.records if r.family == RANDOM_INIT or getattr(r, name) == value),
                specs=tuple(s for s in kept.specs if s.pretrain.method.name == RANDOM_INIT or _of(s)[name] == value),
            )
        return kept

    def to_frame(self) -> DataFrame:
        """Return a pandas ``DataFrame``, one line a record, with the columns of the report's ``records.csv``.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_frame() needs pandas: pip install 'cl-bench[notebook]'") from None
        return pandas.DataFrame([{"row": row_name(record), **flat_record(record)} for record in self.records])

    def expected(self, record: Record) -> list[str]:
        """Return the case ids that were asked for of a record's row."""
        row = {name: getattr(record, name) for name in ("method", "data", "views")}
        return [spec.case for spec in self.specs if _of(spec) == row]


def row_name(record: Record) -> str:
    """Return the name of a record's row, as ``single_object-overlapping-dense_index``."""
    return RANDOM_INIT if record.family == RANDOM_INIT else f"{record.data}-{record.views}-{record.method}"


def _of(spec: RunSpec) -> dict[str, str]:
    """Return the fields of a spec's record that name its row."""
    pretrain = spec.pretrain
    return {"method": str(pretrain.method), "data": pretrain.data.label, "views": pretrain.views}
