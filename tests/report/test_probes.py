"""The charts of a grid of probes, from the numbers of its results."""

import numpy as np

from ssl_jax.report import page, probes
from ssl_jax.report.inputs import ReportInputs

METHOD = dict(
    name="probe_grid", features=("h", "last1/patches"), learning_rates=(0.1, 1.0),
    weight_decays=(0.0, 0.01), attentive_learning_rates=(0.001, 0.01, 0.1),
    attentive_weight_decays=(0.05,),
)  # fmt: skip


def inputs(scores):
    return ReportInputs(config={"method": METHOD}, results={"probe grid": scores})


def test_each_output_has_a_chart_of_its_own_probes(monkeypatch):
    drawn = {}

    def record(name, title, lines, **options):
        drawn[name] = lines
        return ""

    monkeypatch.setattr(probes.figures, "line_chart", record)
    scores = {f"probe_grid/head_{i}": i / 10 for i in range(7) if i != 3}  # 3 has diverged
    section = probes.section(inputs(scores))
    assert [(chart.title, chart.last) for chart in section.charts] == [
        ("h", "best 20.0%"), ("last1/patches", "best 60.0%")
    ]  # fmt: skip
    first, second = drawn["probes0"]
    np.testing.assert_array_equal(first.y, [0.0, 0.2])  # decay 0 at both rates
    np.testing.assert_array_equal(second.y, [0.1, np.nan])
    (attentive,) = drawn["probes1"]
    np.testing.assert_array_equal(attentive.y, [0.4, 0.5, 0.6])
    np.testing.assert_array_equal(attentive.x, [0.001, 0.01, 0.1])


def test_the_section_is_on_the_page_of_such_runs_only():
    scores = {f"probe_grid/head_{i}": 0.5 for i in range(7)}
    text = page.render(inputs(scores | {"probe_grid/top1": 0.5}))
    assert "held out of the training split" in text and "decay 0.01" in text
    assert probes.section(inputs({"knn/top1": 0.5})) is None
