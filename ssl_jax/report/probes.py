"""The section on a grid of probes: held-out accuracy over learning rates, for each output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ssl_jax.core.method import hyper_parameters
from ssl_jax.methods.probe_grid import HyperParameters
from ssl_jax.report import figures
from ssl_jax.report.curves import Chart, KeyEntry
from ssl_jax.report.figures import Line
from ssl_jax.report.inputs import ReportInputs

_PROBE = "probe_grid/head_"
_SIZE = (360, 230)


@dataclasses.dataclass(frozen=True)
class Probes:
    """A chart for each output, and how to read them."""

    charts: list[Chart]
    note: str


def section(inputs: ReportInputs) -> Probes | None:
    """The charts; None if the evaluation `probe_grid`, which only such runs have, has no scores."""
    values = next(
        (scores for scores in inputs.results.values() if any(_PROBE in key for key in scores)), None
    )
    if values is None:
        return None
    hyper = hyper_parameters(HyperParameters, inputs.config["method"], "method")
    charts, first = [], 0
    for number, feature in enumerate(hyper.features):
        count = len(hyper.heads(feature))
        charts.append(_chart(f"probes{number}", feature, hyper, _scores(values, first, count)))
        first += count
    note = (
        "Accuracy on the examples that were held out of the training split, by which the probes "
        "are chosen. A best rate at an end of its axis asks for a wider grid. Gaps: diverged."
    )
    return Probes(charts, note)


def _scores(values: Mapping[str, float], first: int, count: int) -> np.ndarray:
    """Held-out accuracies of the probes from number `first` on; nan for those that diverged."""
    keys = [f"{_PROBE}{i}" for i in range(first, first + count)]
    return np.array([values.get(key, np.nan) for key in keys], float)


def _chart(name: str, feature: str, hyper: HyperParameters, scores: np.ndarray) -> Chart:
    """Accuracy over learning rates, a line for each weight decay."""
    heads = hyper.heads(feature)
    rates = np.array(sorted({head.learning_rate for head in heads}))
    decays = list(dict.fromkeys(head.weight_decay for head in heads))
    lines = []
    for slot, decay in enumerate(decays):
        own = {
            head.learning_rate: score
            for head, score in zip(heads, scores, strict=True)
            if head.weight_decay == decay
        }
        y = np.array([own[rate] for rate in rates])
        lines.append(Line(f"decay {decay:g}", rates, y, slot=slot, dots=True))
    shown = {rate: f"{rate:g}" for rate in rates[:: max(1, len(rates) // 5)]}
    svg = figures.line_chart(
        name, f"Accuracy of probes of {feature}", lines, percent=True, x_label="learning rate",
        x_ticks=shown, size=_SIZE,
    )  # fmt: skip
    best = np.nanmax(scores) if np.isfinite(scores).any() else np.nan
    last = f"best {100 * best:.1f}%" if np.isfinite(best) else ""
    return Chart(feature, svg, tuple(KeyEntry(line.label, line.slot) for line in lines), last)
