"""Presentation of records as tables, figures and files, by pure functions; results are computed in other packages."""

from cl_bench.report.files import write_report
from cl_bench.report.plan import looks_table, origins_table, plan_table
from cl_bench.report.row import RowResult
from cl_bench.report.tables import summary_table

__all__ = ["RowResult", "looks_table", "origins_table", "plan_table", "summary_table", "write_report"]
