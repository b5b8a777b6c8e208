"""Records as people read them: tables, figures, files. Pure functions of records; nothing here computes science."""

from cl_bench.report.files import write_report
from cl_bench.report.plan import plan_table
from cl_bench.report.tables import RowResult, summary_table

__all__ = ["RowResult", "plan_table", "summary_table", "write_report"]
