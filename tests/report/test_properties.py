"""The desiderata on the page: one table, a radar, curves, and the images that excite units."""

import re

import numpy as np
import pytest
from etils import epath
from rich.console import Console

from ssl_jax import report
from ssl_jax.report import properties
from ssl_jax.report.inputs import ReportInputs
from tests.report.pages import HOSTILE, check

VALUES = {
    "lipschitz": 1.0, "invariance": 0.5, "nmi": 0.1, "knn_purity": 0.3, "hoyer": 0.4, "rank": 12.0,
    "cosine_shift_50": 0.8, "cosine_shift_100": 0.4, "depth_features_shape": 0.2,
}  # fmt: skip
DEPTH = {"depth_stage1_shape": 0.1, "depth_stage2_shape": 0.5}


def results(**rows):
    named = {"raw pixels": VALUES, "untrained encoder": {**VALUES, **DEPTH, "nmi": 0.05}}
    named["SimCLR"] = {**VALUES, **DEPTH, "lipschitz": 0.5, "invariance": 0.9, "hoyer": 0.2}
    return {
        name: {f"properties/{key}": value for key, value in values.items()} | {"knn/top1": 0.5}
        for name, values in {**named, **rows}.items()
    }


def test_the_table_marks_the_best_where_a_direction_is_better():
    section = properties.Desiderata.from_results(results())
    assert section.names == ("raw pixels", "untrained encoder", "SimCLR")
    assert section.trained == "SimCLR"
    rows = {row.property.name: row for row in section.rows}
    best = {name: [cell.is_best for cell in row.cells] for name, row in rows.items()}
    assert best["lipschitz"] == [False, False, True] and rows["lipschitz"].arrow == "↓"
    assert best["nmi"] == [True, False, True]  # equal values
    assert best["hoyer"] == [False] * 3 and rows["hoyer"].arrow == ""
    assert rows["knn_purity"].cells[0].text == "30.0%"
    assert "ari" not in rows and "mig" not in rows
    assert [row.begins_group for row in section.rows[:3]] == [True, True, True]


def test_missing_values_are_dashes_and_nan_is_missing():
    section = properties.Desiderata.from_results(results(PCA={"nmi": np.nan, "rank": 3.0}))
    (nmi,) = [row for row in section.rows if row.property.name == "nmi"]
    assert nmi.cells[-1] is None
    assert properties.Desiderata.from_results({"SimCLR": {"knn/top1": 0.5}}) is None
    alone = properties.Desiderata.from_results({"a": {"properties/rank": 3.0}})
    assert alone.trained == "" and alone.radar is None and not alone.depths


def test_curves_over_strength_and_depth():
    section = properties.Desiderata.from_results(results())
    (shift,) = section.strengths
    assert shift.title == "Shift" and not shift.key and len(section.key) == 3
    (shape,) = section.depths
    assert shape.title == "Shape" and section.depth_note
    assert {"1", "2", "h"} <= set(re.findall(r">([^<>]+)<", shape.svg))
    # Nets of different depth share an axis from 0 to 1.
    other = {**VALUES, **DEPTH, "depth_stage3_shape": 0.3}
    both = properties.Desiderata.from_results(results(VAE=other), of_run=False)
    assert "share of the depth" in both.depths[0].svg and both.trained == ""


def page_inputs(**more):
    rng = np.random.default_rng(0)
    return ReportInputs(
        config={}, results=results(), pixels=rng.integers(0, 255, (40, 8, 8, 3)).astype(np.uint8),
        embedding=rng.normal(size=(40, 6)), labels=np.arange(40) % 3, class_names=("a", "b", "c"),
        split="40 images", **more,
    )  # fmt: skip


def test_the_page():
    text = report.render(page_inputs())
    page = check(text)
    assert {"properties", "units"} <= set(page.ids)
    words = " ".join(page.text)
    assert "Local Lipschitz" not in words and "local Lipschitz quotient" in words
    assert "What excites a unit most" in words and re.search(r"unit \d: \d/9 [abc]", words)
    # The table of results shows the probes, and not these again.
    assert "invariance" not in text[text.index('id="results"') : text.index('id="properties"')]


def test_units_need_images_and_the_evaluation():
    inputs = page_inputs()
    item = properties.gallery(inputs)
    assert item.pixels.shape == (6, 9, 8, 8, 3) and len(item.rows) == 6
    top = np.argsort(-inputs.embedding, axis=0)
    unit = int(re.match(r"unit (\d+)", item.rows[0])[1])
    np.testing.assert_array_equal(item.pixels[0], inputs.pixels[top[:9, unit]])
    for missing in ({"pixels": None}, {"embedding": None}, {"results": {}}):
        kept = {**vars(inputs), **missing}
        assert properties.gallery(ReportInputs(**kept)) is None
    few = {name: getattr(inputs, name)[:5] for name in ("pixels", "embedding", "labels")}
    assert properties.gallery(ReportInputs(**{**vars(inputs), **few})) is None


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_are_text(hostile, tmp_path):
    rows = results(**{hostile: VALUES | DEPTH | {"depth_stage1_<b>": 0.5}})
    path = epath.Path(tmp_path) / "properties.html"
    assert report.write_comparison(path, hostile, rows)
    check(path.read_text())


def test_without_desiderata_nothing_is_written(tmp_path):
    path = epath.Path(tmp_path) / "properties.html"
    assert not report.write_comparison(path, "x", {"SimCLR": {"knn/top1": 0.5}})
    assert not path.exists()
    assert report.properties_table({"SimCLR": {"knn/top1": 0.5}}) is None


def test_the_table_of_the_console_fits_eighty_columns():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.properties_table(results()))
    lines = console.export_text().splitlines()
    (line,) = [line for line in lines if "cosine under augmentation" in line]
    assert line.split()[-3:] == ["0.500", "0.500", "0.900"]
    assert max(map(len, lines)) <= 80
