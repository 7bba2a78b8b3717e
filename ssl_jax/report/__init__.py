"""One self-contained HTML page a run, and the summary table that a command prints.

page = report.write(workdir, report.ReportInputs(config=..., rows=read_metrics(workdir), ...))
console.print(report.summary_table(results))
"""

from ssl_jax.report.inputs import HiddenToken, Passage, ReportInputs
from ssl_jax.report.tables import summary_table
from ssl_jax.report.texts import held_out_table
from ssl_jax.report.write import PAGE_NAME, render, write

__all__ = [
    "PAGE_NAME",
    "HiddenToken",
    "Passage",
    "ReportInputs",
    "held_out_table",
    "render",
    "summary_table",
    "write",
]
