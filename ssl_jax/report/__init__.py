"""One self-contained HTML page a run, and the summary table that a command prints.

page = report.write(workdir, report.ReportInputs(config=..., rows=read_metrics(workdir), ...))
console.print(report.summary_table(results))
"""

from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.tables import summarise, summary_table
from ssl_jax.report.write import (
    PAGE_NAME,
    properties_table,
    render,
    tables_of,
    write,
    write_comparison,
)

__all__ = [
    "PAGE_NAME",
    "ReportInputs",
    "properties_table",
    "render",
    "summarise",
    "summary_table",
    "tables_of",
    "write",
    "write_comparison",
]
