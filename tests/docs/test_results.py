"""The tables of results/README.md are those of the CSV files beside it."""

import csv
import decimal
import pathlib

import numpy as np
import pytest

from ssl_jax.data.kinds import shapes
from ssl_jax.evals.metric import find
from ssl_jax.evals.properties.metrics import METRICS, PROPERTIES
from tests.docs.test_readme import BASELINES, expected, rows_of

RESULTS = pathlib.Path(__file__).parents[2] / "results"
SHOTS = (1, 2, 4, 8)


def percent(score):
    tenth = decimal.Decimal("0.1")
    return str((100 * decimal.Decimal(score)).quantize(tenth, decimal.ROUND_HALF_UP))


def cells(run, prefix):
    """Few-shot accuracies ± their deviation over the draws, then kNN and linear."""
    few = [run[f"{prefix}few_shot/{n}"] for n in SHOTS]
    deviations = [run[f"{prefix}few_shot/{n}_std"] for n in SHOTS]
    shown = [f"{percent(a)} ± {percent(b)}" for a, b in zip(few, deviations, strict=True)]
    return [*shown, percent(run[f"{prefix}knn/top1"]), percent(run[f"{prefix}linear/top1"])]


def test_the_table_of_fashion_mnist_is_that_of_the_recorded_run():
    with (RESULTS / "simclr_fashion.csv").open(encoding="utf-8") as file:
        run = next(csv.DictReader(file))
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## Fashion-MNIST")
    expected = {label: cells(run, prefix) for label, prefix in BASELINES.items()}
    assert rows == {**expected, "SimCLR": cells(run, "")}


def test_the_table_of_newer_methods_is_that_of_the_recorded_runs():
    with (RESULTS / "methods_digits_newer.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## Newer methods")
    del rows["method"]
    columns = ["few_shot/1", "few_shot/8", "knn/top1", "linear/top1"]
    columns.append("untrained encoder/few_shot/1")
    names = list(dict.fromkeys(run["method"] for run in runs))
    for cells, name in zip(rows.values(), names, strict=True):
        own = [run for run in runs if run["method"] == name]
        assert cells == [*expected(own, name, columns), str(len(own))], name


def test_the_table_of_pretext_tasks_is_that_of_the_recorded_runs():
    with (RESULTS / "pretext_shapes.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## Pretext tasks")
    del rows["task"]
    scores = ("few_shot/8", "knn/top1", "linear/top1")
    columns = [prefix + score for score in scores for prefix in ("", "untrained encoder/")]
    names = list(dict.fromkeys(run["method"] for run in runs))
    for cells, name in zip(rows.values(), names, strict=True):
        seeds = len([run for run in runs if run["method"] == name])
        assert cells[1:] == [*expected(runs, name, columns), str(seeds)], name


def test_the_table_of_cpc_on_speech_is_that_of_the_recorded_runs():
    with (RESULTS / "cpc_speech.csv").open(encoding="utf-8") as file:
        runs = [{**run, "method": run["net"]} for run in csv.DictReader(file)]
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## CPC on synthetic")
    columns = ["phone/top1", "phone_mlp/top1", "speaker/top1"]
    for label, prefix in (
        ("untrained encoder", "untrained encoder/"),
        ("MFCC", "MFCC/"),
        ("CPC", ""),
    ):
        assert rows[label][:3] == expected(runs, "cpc", columns, prefix), label
    phone, _, speaker = rows["supervised"][:3]
    assert [phone] == expected(runs, "supervised_phone", columns[:1])
    assert [speaker] == expected(runs, "supervised_speaker", columns[2:])
    ahead = [f"held_out/step_{i}_accuracy" for i in range(1, 13)]
    falling = [float(cell.split(" ")[0]) for cell in expected(runs, "cpc", ahead)]
    assert falling == sorted(falling, reverse=True)


def test_the_table_of_cpc_on_shapes_is_that_of_the_recorded_runs():
    with (RESULTS / "cpc_images_shapes.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## CPC on drawn shapes")
    columns = ["few_shot/8", "few_shot/32", "few_shot/128", "knn/top1", "linear/top1"]
    for label, prefix in {**BASELINES, "CPC": ""}.items():
        assert rows[label] == expected(runs, "cpc_images", columns, prefix), label


@pytest.mark.parametrize("page", ["results/README.md", "docs/fine-tuning.md"])
def test_the_table_of_adapters_is_that_of_the_recorded_runs(page):
    with (RESULTS / "adapters_pydoc.csv").open(encoding="utf-8") as file:
        runs = [{**run, "method": run["way"]} for run in csv.DictReader(file)]
    table = rows_of((RESULTS.parent / page).read_text(encoding="utf-8"), "sweeps/adapters")
    rows = [table[name] for name in list(table)[1:5]]  # the head of the table has a digit
    for way, (parameters, mib, *scores) in zip(
        ("full", "lora", "prompt", "frozen"), rows, strict=True
    ):
        sizes = {
            (run["trained_parameters"], run["state_bytes"]) for run in runs if run["way"] == way
        }
        ((count, state),) = sizes
        assert (parameters, mib) == (f"{int(count):,}", f"{int(state) / 2**20:.2f}")
        assert scores == expected(runs, way, ["task/accuracy", "task/macro_f1"]), way


@pytest.mark.parametrize(
    ("name", "heading"),
    [("digits", "## On unseen digits"), ("shapes", "## On unseen combinations")],
)
def test_the_tables_of_metric_learning_are_those_of_the_recorded_runs(name, heading):
    with (RESULTS / f"metric_learning_{name}.csv").open(encoding="utf-8") as file:
        runs = [{**run, "method": run["loss"]} for run in csv.DictReader(file)]
    page = RESULTS.parent / "docs" / "metric-learning.md"
    rows = rows_of(page.read_text(encoding="utf-8"), heading)
    columns = ["retrieval/recall_1", "retrieval/map_r", "z/retrieval/recall_1", "z/retrieval/map_r"]
    for loss in dict.fromkeys(run["loss"] for run in runs):
        label = "SimCLR" if loss == "simclr" else f"`{loss}`"
        assert rows[label] == expected(runs, loss, columns), loss
    assert rows["raw pixels"][:2] == expected(runs, "simclr", columns[:2], "raw pixels/")


def test_the_table_of_desiderata_is_that_of_the_recorded_runs():
    with (RESULTS / "properties_shapes.csv").open(encoding="utf-8") as file:
        runs = {run["method"]: run for run in csv.DictReader(file)}
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## Desiderata")
    columns = [(runs["simclr"], "raw pixels/")]
    columns += [(run, prefix) for run in runs.values() for prefix in ("untrained encoder/", "")]
    names = {one.heading: one.name for one in PROPERTIES}
    names |= {factor: f"depth_features_{factor}" for factor in shapes.FACTORS}
    assert len(columns) == 7 and {*shapes.FACTORS} < {*rows} and len(rows) == 18 + 7
    for heading, cells in rows.items():
        name = names[heading.strip(" ↑↓")]
        metric, values = find(METRICS, name), [run[f"{q}properties/{name}"] for run, q in columns]
        expected = [metric.with_unit(float(value)) if value else "–" for value in values]
        assert cells == expected, heading


def test_every_picture_of_the_gallery_is_of_a_recorded_run_and_small():
    with (RESULTS / "methods_fashion.csv").open(encoding="utf-8") as file:
        recorded = {run["method"] for run in csv.DictReader(file) if run["seed"] == "0"}
    pictures = sorted((RESULTS / "gallery").glob("*.png"))
    assert pictures and {path.stem for path in pictures} <= recorded
    assert sum(path.stat().st_size for path in pictures) < 1_500_000


def test_the_table_of_probes_is_that_of_the_recorded_runs():
    with (RESULTS / "probe_grid_digits.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## A grid of probes")
    columns = ("test_h", "test_stage3_mean", "test_last2_mean", "test_last1_patches", "top1",
               "val_top1")  # fmt: skip
    for column, shown in zip(columns, rows.values(), strict=True):
        for encoder, text in zip(("simclr", "untrained"), shown, strict=True):
            scores = [100 * float(run[column]) for run in runs if run["encoder"] == encoder]
            assert len(scores) == 3
            assert text == f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}", column


def test_the_table_of_transfer_is_that_of_the_recorded_runs():
    with (RESULTS / "transfer_embedded.csv").open(encoding="utf-8") as file:
        runs = {(run["set"], run["start"]): run for run in csv.DictReader(file)}
    rows = rows_of((RESULTS / "README.md").read_text(encoding="utf-8"), "## Transfer")
    assert {(name, start) for name in rows for start in ("pretrained", "random")} == set(runs)
    for name, cells in rows.items():
        both = [runs[name, start] for start in ("pretrained", "random")]
        assert cells[:2] == [percent(run[run["metric"]]) for run in both], name
