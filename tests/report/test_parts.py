"""The parts of a report against plain oracles."""

import base64
import io
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ssl_jax import report
from ssl_jax.report import curves, figures, images, maps, tables
from ssl_jax.report.plain_text import short

# ---------------------------------------------------------------------------------------- tables

RESULTS = {
    "raw pixels": {"few_shot/8": 0.881, "few_shot/8_std": 0.012, "few_shot/1": 0.603,
                   "few_shot/1_std": 0.039, "knn/top1": 0.938, "knn/k": 200.0},
    "[bold]odd": {"few_shot/1": 0.48, "linear/top1": 0.99},
    "SimCLR": {"eval/few_shot/1": 0.752, "eval/few_shot/1_std": 0.031, "knn/top1": 0.968},
}  # fmt: skip


def printed(table, width=80):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return out.getvalue()


def test_summary_table():
    lines = printed(report.summary_table(RESULTS)).splitlines()
    (head,) = [line for line in lines if "kNN" in line]
    assert head.split() == ["in", "%", "1-shot", "8-shot", "kNN", "linear"]
    assert "k-shot: k labels a class; mean ± std over draws" in "".join(lines)
    (pixels,) = [line for line in lines if "raw pixels" in line]
    assert pixels.split()[2:] == ["60.3±3.9", "88.1±1.2", "93.8", "–"]
    (trained,) = [line for line in lines if "SimCLR" in line]
    assert trained.split()[1:] == ["75.2±3.1", "–", "96.8", "–"]
    assert any("[bold]odd" in line for line in lines)


def test_summary_table_fits_eighty_columns():
    scores = {f"few_shot/{k}{s}": 0.123 for k in (1, 2, 4, 8) for s in ("", "_std")}
    scores |= {"knn/top1": 0.9, "linear/top1": 0.9}
    lines = printed(report.summary_table({"untrained encoder": scores})).splitlines()
    (row,) = [line for line in lines if "untrained" in line]
    assert row.split() == ["untrained", "encoder", *["12.3±12.3"] * 4, "90.0", "90.0"]


def test_summary_marks_the_best_of_a_column():
    summary = tables.summarise(RESULTS)
    assert summary.best("few_shot/1") == 0.752
    assert summary.best("linear/top1") is None  # one alone is not the best of anything
    assert summary.family() == {1: "few_shot/1", 8: "few_shot/8"} and summary.in_percent
    assert str(summary.rows["SimCLR"]["few_shot/1"]) == "75.2 ± 3.1"


def test_what_is_not_shown_has_no_column():
    rows = {"x": {"knn/top1": 0.5, "knn/k": 200.0, "knn/top5": 0.9, "train/loss": 1.0}}
    assert list(tables.summarise(rows).columns) == ["knn/top1"]


def test_units_stand_in_the_headings_where_columns_have_several():
    rows = {
        "unigram": {"held_out/accuracy": 0.063, "held_out/perplexity": 471.1},
        "BERT": {"held_out/accuracy": 0.193, "held_out/perplexity": 152.6, "held_out/loss": 5.03},
    }
    lines = [line.split() for line in printed(report.summary_table(rows)).splitlines()]
    assert lines[0] == ["held-out", "accuracy,", "%", "perplexity"]
    assert lines[2:] == [["unigram", "6.3", "471.1"], ["BERT", "19.3", "152.6"]]
    summary = tables.summarise(rows)
    assert summary.best("held_out/perplexity") == 152.6  # lower is better
    section = {"phones": {"evaluation": "linear", "target": "phone"}}
    rows = {"CPC": {"phones/top1": 0.6, "linear/top1": 0.9}}
    headings = [m.heading for m in tables.summarise(rows, section).columns.values()]
    assert headings == ["phones linear", "linear"]


def test_summary_of_nothing():
    assert not tables.summarise({}).columns
    printed(report.summary_table({}))


# ---------------------------------------------------------------------------------------- curves


def test_series_keeps_the_last_row_of_a_step():
    rows = [
        {"step": 2, "a": 1.0},
        {"step": 1, "a": 5.0},
        {"step": 2, "a": 3.0},
        {"step": 3, "b": 1.0},
        {"step": 4, "a": "text"},
    ]
    x, y = curves.series(rows, "a")
    assert x.tolist() == [1, 2] and y.tolist() == [5, 3]
    assert curves.numeric_keys(rows) == ["a", "b"]


def test_thin_averages_equal_bins():
    x = np.arange(1000.0)
    y = x**2
    y[5] = np.nan
    thin_x, thin_y = curves.thin(x, y)
    assert len(thin_x) == 250
    np.testing.assert_allclose(thin_x, x.reshape(250, 4).mean(1))
    np.testing.assert_allclose(thin_y, np.nanmean(y.reshape(250, 4), axis=1))


def test_thin_leaves_gaps_where_nothing_is_finite():
    y = np.ones(900)
    y[300:306] = np.nan
    assert np.isnan(curves.thin(np.arange(900.0), y)[1]).sum() == 2


def test_charts_take_what_there_is():
    rows = [{"step": s, "train/loss": 1.0 / s, "train/lr_x": 2.0, "train/steps_per_s": 3.0,
             "collapse/rankme_h": 4.0, "collapse/rankme_z": 5.0, "collapse/std_z": 0.5,
             "train/images_per_s": 10.0 * s} for s in range(1, 5)]  # fmt: skip
    charts = {chart.title: chart for chart in curves.training_charts(rows)}
    assert list(charts) == ["Loss", "Images a second", "Lr x"]
    assert charts["Loss"].last == "0.25"
    assert charts["Images a second"].last == "median 25"
    rank, spread = curves.collapse_charts(rows)
    assert [label for label, _, _ in rank.key] == ["h", "z"]
    assert spread.last == "0.5"


def test_charts_of_a_language_model():
    rows = [{"step": s, "train/accuracy": 0.1, "train/perplexity": 4096.0 / s,
             "train/tokens_per_s": 1e4, "train/padding_share": 0.25, "train/mfu": 0.5}
            for s in range(1, 41)]  # fmt: skip
    rows[-1] |= {"eval/held_out/accuracy": 0.2, "eval/held_out/perplexity": 100.0}
    charts = {chart.title: chart for chart in curves.training_charts(rows)}
    assert list(charts) == [
        "Accuracy", "Perplexity", "Tokens a second", "Share of padding", "Model FLOP utilisation",
    ]  # fmt: skip
    assert [label for label, _, _ in charts["Accuracy"].key] == ["held out", "train"]
    assert charts["Share of padding"].last == "median 25.0%"
    ticks = re.findall(r"<text[^>]*>(\d+)</text>", charts["Perplexity"].svg)
    assert {"100", "1000"} <= set(ticks) and "2000" not in ticks


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([2.0, 9.0, 40.0], True), ([0.0, 9.0, 40.0], False), ([3.0, 3.0, 3.0], False), ([], False)],
)
def test_a_logarithmic_axis_where_there_is_a_logarithm(values, logarithmic):
    line = figures.Line("a", np.arange(float(len(values))), np.array(values))
    svg = figures.line_chart("x", "t", [line], log=True)
    ticks = re.findall(r"<text[^>]*>(\d+)</text>", svg)
    assert ({"5", "10", "20"} <= set(ticks)) == logarithmic


def test_probe_charts_compare_with_the_baselines():
    rows = [{"step": s, "eval/knn/top1": 0.8, "train/online/accuracy": 0.7, "eval/few_shot/2": 0.5,
             "eval/few_shot/10": 0.6, "eval/few_shot/10_std": 0.1} for s in (10, 20)]  # fmt: skip
    scores, shots = curves.evaluation_charts(rows, RESULTS)
    assert [label for label, _, _ in scores.key] == [
        "kNN", "online probe, training batches", "kNN, raw pixels",
    ]  # fmt: skip
    assert shots.title == "Few-shot accuracy, mean ± std"
    assert [label for label, _, _ in shots.key] == ["2-shot", "10-shot"]


def test_charts_of_a_task_over_time():
    rows = [{"step": s, "eval/task/accuracy": 0.8, "eval/task/macro_f1": 0.4,
             "eval/task/rmse": 2.5} for s in (1, 2)]  # fmt: skip
    shares, rmse = curves.evaluation_charts(rows, {})
    assert shares.title == "Score"
    assert [label for label, _, _ in shares.key] == ["accuracy", "macro F1"]
    assert (rmse.title, rmse.last) == ("Root mean square error", "2.5")
    assert "%" in shares.svg and "%" not in rmse.svg  # of another unit


def test_label_efficiency_needs_two_numbers_of_labels():
    (chart,) = curves.family_charts(tables.summarise(RESULTS))
    assert chart.title == "Few-shot accuracy" and "labels a class" in chart.svg
    assert not curves.family_charts(tables.summarise({"a": {"few_shot/1": 0.5}}))
    assert not curves.family_charts(tables.summarise({}))


def test_every_family_has_a_chart_and_a_table():
    svm = {"SimCLR": {"svm/1": 0.4, "svm/2": 0.5, "svm/2_std": 0.01}}
    results = {name: {**scores, **svm.get(name, {})} for name, scores in RESULTS.items()}
    charts = curves.family_charts(tables.summarise(results))
    assert [chart.title for chart in charts] == [
        "Few-shot accuracy",
        "Mean average precision of linear SVMs",
    ]
    first, second = (printed(table) for table in report.tables_of(results))
    assert "few_shot" not in second and "SVM" not in first
    assert "50.0±1.0" in second and "positives a label" in second
    assert [line.split()[0] for line in second.splitlines() if "50.0" in line] == ["SimCLR"]


# --------------------------------------------------------------------------------------- figures


def test_line_chart_draws_the_values():
    line = figures.Line("a", np.array([0.0, 10.0]), np.array([0.0, 1.0]))
    svg = figures.line_chart("x", "t", [line])
    path = re.search(
        r'd="M ([\d.]+) ([\d.]+) L ([\d.]+) ([\d.]+) " [^>]*style="fill: none; stroke: var\(--s0',
        svg,
    )
    x0, y0, x1, y1 = map(float, path.groups())
    assert x1 > x0 + 200 and y1 < y0 - 100  # rightwards and, in SVG, upwards


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-9, 1e12])
def test_flat_and_single_valued_lines(value):
    for n in (1, 5):
        line = figures.Line("a", np.arange(float(n)), np.full(n, value))
        svg = figures.line_chart("x", "t", [line], percent=True, from_zero=True)
        assert "nan" not in svg.lower()


def test_ids_carry_the_name_of_the_figure():
    line = figures.Line("a", np.arange(3.0), np.arange(3.0))
    for name in ("one", "two"):
        svg = figures.line_chart(name, "t", [line])
        ids = re.findall(r' id="([^"]*)"', svg)
        assert ids and all(i.startswith(f"{name}-") for i in ids)
        assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg))


def test_map_puts_every_point_in_its_group():
    points = np.random.default_rng(0).normal(size=(40, 2))
    labels = np.arange(40) % 4
    svg = figures.scatter_map("m", "t", points, [("a", labels == 0), ("b", labels == 1)])
    groups = re.split(r'<g id="m-class-', svg)
    assert len(groups) == 3
    assert groups[0].count("<use") == 20  # without a colour, drawn first
    assert groups[1].count("<use") == 10


def test_class_slots_beyond_ten_have_another_shape():
    assert figures.class_colour(3) == figures.class_colour(13)
    assert figures.class_marker(3) != figures.class_marker(13)


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (0.5, "0.5"), (1234, "1234"), (12000, "12k"), (1234567, "1.235M"),
     (2.5e9, "2.5G"), (-3.2, "−3.2"), (3.1e-5, "3.1e−5")],
)  # fmt: skip
def test_short_number(value, text):
    assert figures.short_number(value) == text


def test_short():
    assert short("a  b\nc", 10) == "a b c"
    assert short("abcdefgh", 5) == "abcd…"


# ------------------------------------------------------------------------------------------ maps


def clusters(n, classes=3, d=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return 8 * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)), labels


@pytest.mark.parametrize("cosine", [False, True])
def test_neighbours_against_loops(cosine):
    x = np.random.default_rng(0).normal(size=(30, 5))
    queries = np.array([3, 17, 29])
    found = maps.neighbours(x, queries, 4, cosine=cosine)
    for query, nearest in zip(queries, found.nearest, strict=True):
        distance = []
        for i in range(30):
            a, b = x[query], x[i]
            if cosine:
                a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
            distance.append(np.inf if i == query else float(np.sum((a - b) ** 2)))
        assert nearest.tolist() == np.argsort(distance)[:4].tolist()


def test_neighbours_of_few_and_of_zero_vectors():
    found = maps.neighbours(np.zeros((3, 2)), np.array([0, 1]), 8, cosine=True)
    assert found.nearest.tolist() == [[1, 2], [0, 2]]


def test_agreement():
    found = maps.Neighbours(np.array([0, 1]), np.array([[1, 2], [0, 2]]))
    shares = found.agreement(np.array([5, -1, 5]))
    assert shares[0] == 0.5 and np.isnan(shares[1])


def test_projection_keeps_clusters_apart_and_is_reproducible():
    x, labels = clusters(90)
    y, again = maps.project_all([x, x], how="tsne", seed=0)
    assert y.shape == (90, 2)
    np.testing.assert_array_equal(y, again)
    near = maps.neighbours(y, np.arange(90), 5, cosine=False)
    assert near.agreement(labels).mean() > 0.95
    assert y[:, 0].std() >= y[:, 1].std()


@pytest.mark.parametrize("shape", [(5, 1), (6, 3), (40, 300)])
def test_projection_of_odd_shapes(shape):
    y = maps.project(np.random.default_rng(0).normal(size=shape) * 1e20)
    assert y.shape == (shape[0], 2) and np.isfinite(y).all()


def test_umap_is_called_where_it_is_installed(monkeypatch):
    class Umap:
        def __init__(self, n_neighbors, random_state, n_jobs):
            assert (n_neighbors, random_state, n_jobs) == (9, 7, 1)

        def fit_transform(self, x):
            return x[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    x = np.random.default_rng(0).normal(size=(10, 3))
    y = maps.project(x, how="umap", seed=7)
    distances = [np.linalg.norm(a[:, None] - a[None], axis=-1) for a in (x[:, :2], y)]
    ratio = distances[1][0, 1:] / distances[0][0, 1:]  # turned and scaled, no more
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_pixel_vectors_average_large_images():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 70, 64, 3), dtype=np.uint8)
    x = maps.pixel_vectors(pixels)
    expected = pixels[:, :69].reshape(3, 23, 3, 32, 2, 3).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(x, expected.reshape(3, -1), rtol=1e-5)
    small = pixels[:, :8, :8]
    np.testing.assert_allclose(maps.pixel_vectors(small), small.reshape(3, -1) / 255, rtol=1e-6)


def test_coloured_classes():
    assert maps.coloured_classes(np.array([3, -1, 1, 3])) == [1, 3]
    many = np.repeat(np.arange(30), np.arange(1, 31))
    assert maps.coloured_classes(many) == list(range(20, 30))


def test_points_of_coloured_classes_come_first():
    labels = np.arange(5000) % 100
    coloured = list(range(10))
    points = maps.choose_points(labels, coloured, seed=0)
    assert len(points) == maps.MAX_POINTS == len(set(points.tolist()))
    assert np.isin(labels[points], coloured).sum() == 500
    assert len(maps.choose_points(labels[:50], coloured, seed=0)) == 50


def test_queries_are_one_a_class():
    labels = np.repeat([4, 2, 9], 20)
    queries = maps.choose_queries(labels, 60, 10, seed=0)
    assert labels[queries].tolist() == [2, 4, 9]
    assert len(maps.choose_queries(np.arange(50), 50, 10, seed=0)) == 10
    assert len(set(maps.choose_queries(None, 50, 10, seed=0).tolist())) == 10


# ---------------------------------------------------------------------------------------- images


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_kept_exactly(channels):
    image = np.random.default_rng(0).integers(0, 256, (16, 12, channels), dtype=np.uint8)
    uri = images.data_uri(image, 64)
    assert uri.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(decoded(uri).reshape(image.shape), image)


def test_large_images_shrink():
    image = np.zeros((100, 200, 3), np.uint8)
    uri = images.data_uri(image, 64)
    assert uri.startswith("data:image/jpeg;base64,") and decoded(uri).shape == (32, 64, 3)


def test_float_images():
    image = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]).reshape(1, 6, 1)
    assert images.as_uint8(image).ravel().tolist() == [0, 0, 128, 255, 255, 0]
