"""One self-contained HTML page a run, and the summary table that a command prints.

page = report.write(workdir, report.ReportInputs(config=..., rows=read_metrics(workdir), ...))
console.print(report.summary_table(results))
"""

from __future__ import annotations

from etils import epath

from ssl_jax.report.inputs import HiddenToken, Passage, ReportInputs
from ssl_jax.report.tables import summary_table
from ssl_jax.report.texts import held_out_table
from ssl_jax.storage import write_whole

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

PAGE_NAME = "report.html"


def render(inputs: ReportInputs) -> str:
    """The page as one HTML document that loads nothing from anywhere."""
    from ssl_jax.report import page  # matplotlib and scikit-learn load only where a page is made

    return page.render(inputs)


def write(workdir: epath.PathLike, inputs: ReportInputs) -> epath.Path:
    """Writes `<workdir>/report.html` and returns its path.

    Sections whose data are missing are left out. Takes seconds on two cores: the maps are drawn of
    1500 points at most.
    """
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / PAGE_NAME
    write_whole(path, render(inputs.named(workdir.name)))
    return path
