"""The tables of results/README.md are those of the CSV files beside it."""

import decimal
import pathlib

import numpy as np
import pytest

from ssl_jax.data.kinds import shapes
from ssl_jax.evals.metric import find
from ssl_jax.evals.properties.metrics import METRICS, PROPERTIES
from tests.docs.test_readme import BASELINES, expected, recorded, rows_of

RESULTS = pathlib.Path(__file__).parents[2] / "results"
README = (RESULTS / "README.md").read_text(encoding="utf-8")
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
    (run,) = recorded("simclr_fashion.csv")
    rows = rows_of(README, "## Fashion-MNIST")
    expected = {label: cells(run, prefix) for label, prefix in BASELINES.items()}
    assert rows == {**expected, "SimCLR": cells(run, "")}


def test_the_table_of_newer_methods_is_that_of_the_recorded_runs():
    runs = recorded("methods_digits_newer.csv")
    rows = rows_of(README, "## Newer methods")
    del rows["method"]
    columns = ["few_shot/1", "few_shot/8", "knn/top1", "linear/top1"]
    columns.append("untrained encoder/few_shot/1")
    names = list(dict.fromkeys(run["method"] for run in runs))
    for cells, name in zip(rows.values(), names, strict=True):
        own = [run for run in runs if run["method"] == name]
        assert cells == [*expected(own, name, columns), str(len(own))], name


def test_the_table_of_pretext_tasks_is_that_of_the_recorded_runs():
    runs = recorded("pretext_shapes.csv")
    rows = rows_of(README, "## Pretext tasks")
    del rows["task"]
    scores = ("few_shot/8", "knn/top1", "linear/top1")
    columns = [prefix + score for score in scores for prefix in ("", "untrained encoder/")]
    names = list(dict.fromkeys(run["method"] for run in runs))
    for cells, name in zip(rows.values(), names, strict=True):
        seeds = len([run for run in runs if run["method"] == name])
        assert cells[1:] == [*expected(runs, name, columns), str(seeds)], name


def test_the_table_of_cpc_on_speech_is_that_of_the_recorded_runs():
    runs = recorded("cpc_speech.csv")
    rows = rows_of(README, "## CPC on synthetic")
    columns = ["phone/top1", "phone_mlp/top1", "speaker/top1"]
    for label, prefix in (
        ("untrained encoder", "untrained encoder/"),
        ("MFCC", "MFCC/"),
        ("CPC", ""),
    ):
        assert rows[label][:3] == expected(runs, "cpc", columns, prefix, by="net"), label
    phone, _, speaker = rows["supervised"][:3]
    assert [phone] == expected(runs, "supervised_phone", columns[:1], by="net")
    assert [speaker] == expected(runs, "supervised_speaker", columns[2:], by="net")
    ahead = [f"held_out/step_{i}_accuracy" for i in range(1, 13)]
    falling = [float(cell.split(" ")[0]) for cell in expected(runs, "cpc", ahead, by="net")]
    assert falling == sorted(falling, reverse=True)


def test_the_table_of_cpc_on_shapes_is_that_of_the_recorded_runs():
    runs = recorded("cpc_images_shapes.csv")
    rows = rows_of(README, "## CPC on drawn shapes")
    columns = ["few_shot/8", "few_shot/32", "few_shot/128", "knn/top1", "linear/top1"]
    for label, prefix in {**BASELINES, "CPC": ""}.items():
        assert rows[label] == expected(runs, "cpc_images", columns, prefix), label


@pytest.mark.parametrize("page", ["results/README.md", "docs/fine-tuning.md"])
def test_the_table_of_adapters_is_that_of_the_recorded_runs(page):
    runs = recorded("adapters_pydoc.csv")
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
        assert scores == expected(runs, way, ["task/accuracy", "task/macro_f1"], by="way"), way


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("digits", "## On unseen digits"),
        ("shapes", "## On unseen combinations"),
        ("fashion", "## On unseen clothes"),
    ],
)
def test_the_tables_of_metric_learning_are_those_of_the_recorded_runs(name, heading):
    runs = recorded(f"metric_learning_{name}.csv")
    page = RESULTS.parent / "docs" / "metric-learning.md"
    rows = rows_of(page.read_text(encoding="utf-8"), heading)
    columns = ["retrieval/recall_1", "retrieval/map_r", "z/retrieval/recall_1", "z/retrieval/map_r"]
    for loss in dict.fromkeys(run["loss"] for run in runs):
        label = "SimCLR" if loss == "simclr" else f"`{loss}`"
        assert rows[label] == expected(runs, loss, columns, by="loss"), loss
    assert rows["raw pixels"][:2] == expected(runs, "simclr", columns[:2], "raw pixels/", by="loss")


def test_the_table_of_few_labels_is_that_of_the_recorded_runs():
    runs = recorded("few_labels_fashion.csv")
    rows = rows_of(README, "### Rotations on Fashion-MNIST")
    assert set(rows) == {run["labels"] for run in runs}
    for labels, cells in rows.items():
        own = [run for run in runs if run["labels"] == labels]
        for start, cell in zip(("pretrained", "scratch"), cells, strict=True):
            assert [cell] == expected(own, start, ["accuracy/top1"], by="start"), labels


def test_the_table_of_desiderata_is_that_of_the_recorded_runs():
    runs = {run["method"]: run for run in recorded("properties_shapes.csv")}
    rows = rows_of(README, "## Desiderata")
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
    methods = {run["method"] for run in recorded("methods_fashion.csv") if run["seed"] == "0"}
    pictures = sorted((RESULTS / "gallery").glob("*.png"))
    assert pictures and {path.stem for path in pictures} <= methods
    assert sum(path.stat().st_size for path in pictures) < 1_500_000


def test_the_table_of_probes_is_that_of_the_recorded_runs():
    runs = recorded("probe_grid_digits.csv")
    rows = rows_of(README, "## A grid of probes")
    columns = ("test_h", "test_stage3_mean", "test_last2_mean", "test_last1_patches", "top1",
               "val_top1")  # fmt: skip
    for column, shown in zip(columns, rows.values(), strict=True):
        for encoder, text in zip(("simclr", "untrained"), shown, strict=True):
            scores = [100 * float(run[column]) for run in runs if run["encoder"] == encoder]
            assert len(scores) == 3
            assert text == f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}", column


def test_the_table_of_transfer_is_that_of_the_recorded_runs():
    runs = {(run["set"], run["start"]): run for run in recorded("transfer_embedded.csv")}
    rows = rows_of(README, "## Transfer")
    starts = ("pretrained", "supervised", "random")
    assert {(name, start) for name in rows for start in starts} == set(runs)
    for name, cells in rows.items():
        own = [runs[name, start] for start in starts]
        assert cells[:3] == [percent(run[run["metric"].replace("_map11", "/map11")]) for run in own]
