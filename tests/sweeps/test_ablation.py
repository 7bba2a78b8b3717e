"""Ablations: means over seeds, what stands beside them, rank correlations, the figure."""

import io
import itertools
import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib import rc_context
from scipy.stats import rankdata

from ssl_jax.core.errors import UserError
from ssl_jax.sweeps import ablation, ablation_figure
from ssl_jax.sweeps.ablation import Curve, Point

LABELS = ("l2", "t", "seed")
CURVE = Curve(
    measure="knn/top1", measure_label="kNN, %", x="t", x_label="temperature", series="l2",
    names={True: "cosine", False: "dot product"}, published="simclr_table_5",
)  # fmt: skip


def rows(scores):
    """A row for each (l2, t, seed) of {(l2, t): scores by seed}."""
    return [
        {"l2": l2, "t": t, "seed": seed, "knn/top1": score}
        for (l2, t), of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
    ]


SCORES = {
    (True, 0.05): (0.5, 0.6),
    (True, 0.1): (0.9, 0.7),
    (True, 0.5): (0.65,),
    (False, 10.0): (0.2, math.nan),
    (True, 2.0): (0.1, 0.3),  # which the paper does not have
}


def test_means_are_over_seeds_alone_and_leave_out_what_is_missing():
    averaged = ablation.average_over_seeds(rows(SCORES), LABELS, ("knn/top1", "linear/top1"))
    assert [(row["l2"], row["t"]) for row in averaged] == list(SCORES)
    assert averaged[0]["knn/top1"] == (0.5, pytest.approx(0.0707107), 2)
    assert averaged[2]["knn/top1"] == (0.65, None, 1)
    assert averaged[3]["knn/top1"] == (0.2, None, 1)
    assert all("linear/top1" not in row and "seed" not in row for row in averaged)
    (first, *_), both = averaged, {key: SCORES[key] for key in list(SCORES)[:2]}
    averaged = ablation.average_over_seeds(rows(both), LABELS, ("knn/top1",))
    assert averaged[0]["knn/top1"] == (pytest.approx(0.55), first["knn/top1"][1], 2)
    alone = [
        {**row, "seed": int(row["t"] == 0.1)}
        for row in rows({key: v[:1] for key, v in both.items()})
    ]
    averaged = ablation.average_over_seeds(alone, LABELS, ("knn/top1",))  # no seed in common
    assert [row["knn/top1"] for row in averaged] == [(0.5, None, 1), (0.9, None, 1)]


def test_curves_that_are_ranked_together_are_means_over_the_same_seeds():
    measured = [
        {"length": length, "t": t, "seed": seed, "a": t + seed}
        for length, seeds in (("short", 3), ("long", 1))
        for t in (1.0, 2.0)
        for seed in range(seeds)
    ]
    short, long = (
        Curve(measure="a", measure_label="a", x="t", x_label="t", where={"length": length},
              percent=False)
        for length in ("short", "long")
    )  # fmt: skip
    labels = ("length", "t", "seed")
    assert [p.mean for p in ablation.points(measured, labels, short)] == [2.0, 3.0]
    ours = ablation.all_points(measured, labels, (short, long))
    assert [[p.mean for p in own] for own in ours] == [[1.0, 2.0], [1.0, 2.0]]
    assert [[p.std for p in own] for own in ours] == [[1.0, 1.0], [None, None]]
    assert ablation.seeds_said(measured, labels) == (
        "mean over 1 seed that all settings have, std over up to 3"
    )


def test_points_stand_beside_the_published_values_of_their_labels():
    points = ablation.points(rows(SCORES), LABELS, CURVE)
    found = {(point.series, point.x): (round(point.mean, 6), point.published) for point in points}
    assert found == {
        (True, 0.05): (50.0, 59.7),
        (True, 0.1): (90.0, 64.4),
        (True, 0.5): (65.0, 60.7),
        (False, 10.0): (20.0, 57.2),
        (True, 2.0): (10.0, None),
    }
    assert len(ablation.published_points(CURVE)) == 6


def test_a_small_setting_stands_for_a_published_one():
    curve = Curve(
        measure="a", measure_label="a", x="batch", x_label="batch", series="epochs",
        where={"scaling": "sqrt"}, published="simclr_table_b1",
        stands_for={"batch": {32: 256}, "epochs": {5: 800}},
    )  # fmt: skip
    measured = [
        {"scaling": scaling, "batch": batch, "epochs": 5, "a": 0.5}
        for scaling in ("linear", "sqrt")
        for batch in (32, 1024)
    ]
    points = ablation.points(measured, ("scaling", "batch", "epochs"), curve)
    assert [(point.x, point.published) for point in points] == [(32, 66.5), (1024, 68.3)]
    theirs = ablation.published_points(curve)
    assert len(theirs) == 24 and theirs[0] == Point(256, 100, 62.8)


def test_the_best_of_what_each_setting_may_choose_counts():
    measured = [
        {"loss": loss, "m": m, "seed": seed, "a": score}
        for loss, m, scores in (
            ("margin", 0.4, (0.2, 0.9)),
            ("margin", 0.8, (0.5, 0.5)),
            ("NT-Logi", 0.4, (0.3, 0.3)),
        )
        for seed, score in enumerate(scores)
    ]
    shared = dict(measure="a", measure_label="a", x="loss", x_label="loss")
    curve = Curve(best_over=("m",), **shared)
    points = ablation.points(measured, ("loss", "m", "seed"), curve)
    # By the mean over seeds, not by the best seed.
    assert [(p.x, round(p.mean, 6)) for p in points] == [("margin", 55.0), ("NT-Logi", 30.0)]
    with pytest.raises(UserError, match="several cells at 'margin', which differ in m"):
        ablation.points(measured, ("loss", "m", "seed"), Curve(**shared))


def test_the_average_is_a_point_of_the_series_that_have_all_positions():
    measured = [
        {"model": model, "task": task, "score": score, "seed": seed, f"task/{score}": value}
        for model, task, score, values in (
            ("BERT-base", "cola", "matthews", (0.5, 0.6)),
            ("BERT-base", "rte", "accuracy", (0.7, 0.7)),
            ("BERT-large", "cola", "matthews", (0.9, 0.9)),
        )
        for seed, value in enumerate(values)
    ]
    curve = Curve(
        measure="task/{score}", measure_label="score", x="task", x_label="task", series="model",
        average_of=("cola", "rte"), published="glue", published_measure="score",
    )  # fmt: skip
    points = ablation.points(measured, ("model", "task", "score", "seed"), curve)
    found = [(p.series, p.x, round(p.mean, 6), p.published) for p in points]
    assert found == [
        ("BERT-base", "cola", 55.0, 52.1),
        ("BERT-base", "rte", 70.0, 66.4),
        ("BERT-large", "cola", 90.0, 60.5),
        ("BERT-base", ablation.AVERAGE, 62.5, 79.6),
    ]
    assert points[-1].std is None


def test_the_published_average_of_glue_counts_mnli_twice():
    """Over the eight tasks and mismatched MNLI, which the table leaves out."""
    mismatched = {"BiLSTM+ELMo": 76.1, "GPT": 81.4, "BERT-base": 83.4, "BERT-large": 85.9}
    for model, more in mismatched.items():
        scores = {
            row["task"]: row["score"]
            for row in ablation.published()["glue"].rows
            if row["model"] == model
        }
        average = scores.pop(ablation.AVERAGE)
        assert len(scores) == 8
        assert (sum(scores.values()) + more) / 9 == pytest.approx(average, abs=0.06), model


def test_the_rank_correlation_is_that_of_the_definition():
    points = ablation.points(rows(SCORES), LABELS, CURVE)
    ours, theirs = [55.0, 80.0, 65.0, 20.0], [59.7, 64.4, 60.7, 57.2]
    d = rankdata(ours) - rankdata(theirs)
    found = ablation.correlation(points)
    assert found.count == 4 and found.rho == pytest.approx(1 - 6 * (d @ d) / (4 * 15))
    assert str(ablation.Correlation(-0.5, 4)) == "−0.50 over 4 settings"
    # With ties, Pearson's correlation of the mean ranks.
    tied = [Point(i, None, mean, published=value)
            for i, (mean, value) in enumerate([(1, 2), (1, 3), (2, 1), (0, 3)])]  # fmt: skip
    ranks = [rankdata([1, 1, 2, 0]), rankdata([2, 3, 1, 3])]
    assert ablation.correlation(tied).rho == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert ablation.correlation(points[:2]) is None
    assert ablation.correlation([Point(i, None, i, published=7.0) for i in range(4)]) is None


def test_curves_of_one_table_rank_together():
    shared = dict(
        measure="a", measure_label="a", x="batch", x_label="", published="simclr_table_b1"
    )
    linear, root = (Curve(where={"scaling": s}, series="epochs", **shared)
                    for s in ("linear", "sqrt"))  # fmt: skip
    measured = [
        {"scaling": s, "batch": b, "epochs": 100, "a": score}
        for s, b, score in (
            ("linear", 256, 0.1), ("linear", 512, 0.2), ("sqrt", 256, 0.3), ("sqrt", 512, 0.4),
        )
    ]  # fmt: skip
    (line,) = ablation.summary(measured, ("scaling", "batch", "epochs"), (linear, root))
    assert line.endswith("Table B.1, Fig. 9: Spearman 1.00 over 4 settings")
    (line,) = ablation.summary(measured[:2], ("scaling", "batch", "epochs"), (linear, root))
    assert line.endswith("too few settings in common to rank")


def test_a_published_order_without_values_ranks_too():
    curve = Curve(
        measure="a", measure_label="a", x="dim", x_label="dim", series="head",
        published="simclr_figure_8", published_measure="order",
    )  # fmt: skip
    measured = [
        {"head": head, "dim": dim, "a": score + dim / 1e4}
        for head, score in (("none", 0.1), ("linear", 0.2), ("nonlinear", 0.3))
        for dim in (32, 128)
    ]
    found = ablation.correlation(ablation.points(measured, ("head", "dim"), curve))
    assert found.count == 6 and found.rho > 0.95
    assert ablation.published_points(curve) == []


def test_a_table_that_does_not_exist_is_named():
    curve = Curve(measure="a", measure_label="", x="t", x_label="", published="simclr_table5")
    with pytest.raises(UserError, match="no published table 'simclr_table5'.*'simclr_table_5'"):
        ablation.table_of(curve)


def test_published_tables_say_where_they_are_from():
    for name, table in ablation.published().items():
        assert table.paper and table.place and table.setting, name
        assert table.url.startswith(("https://arxiv.org/abs/", "https://github.com/")), name
        assert table.rows or table.claim, name
        # What was written from memory once is compared with the paper, or said not to be.
        assert table.checked or not name.startswith(("simclr_table", "transfusion")), name


def test_values_of_simclr_that_the_paper_prints():
    """Sums of rows and columns of Tables 7 and 8, as a transcript of the paper has them."""
    rows = ablation.published()["simclr_table_8"].rows
    sums = {}
    for row in rows:
        key = row["protocol"], row["start"]
        sums[key] = round(sums.get(key, 0) + row["score"], 1)
    assert sums == {
        ("linear", "pretrained"): 929.1, ("linear", "supervised"): 949.1,
        ("finetuned", "pretrained"): 1050.6, ("finetuned", "supervised"): 1050.6,
        ("finetuned", "random"): 954.2,
    }  # fmt: skip
    tables = (ablation.published()[f"simclr_table_7{end}"].rows for end in ("", "_comparators"))
    few = {(row["method"], row["fraction"]): row["top5"] for table in tables for row in table}
    assert round(sum(value for (_, share), value in few.items() if share == 0.01), 1) == 522.2
    assert round(sum(value for (_, share), value in few.items() if share == 0.1), 1) == 683.2


def drawn(*curves, measured, labels=LABELS):
    with rc_context(ablation_figure._STYLE):
        return ablation_figure.figure("Title", "setting", measured, labels, curves)


def panels(figure):
    return [axes for part in figure.subfigs for axes in part.axes]


def test_the_figure_shows_ours_and_the_published_points():
    ours, theirs = panels(drawn(CURVE, measured=rows(SCORES)))
    assert [tick.get_text() for tick in ours.get_xticklabels()] == ["0.05", "0.1", "0.5", "2", "10"]
    assert [tick.get_text() for tick in theirs.get_xticklabels()] == [
        "0.05", "0.1", "0.5", "1", "10", "100",
    ]  # fmt: skip
    assert "rank correlation" in ours.get_title(loc="left")
    for axes in (ours, theirs):  # one colour a series on both sides
        texts = {text.get_text(): text.get_color() for text in axes.texts}
        assert texts == {"cosine": "#0072B2", "dot product": "#D55E00"}
    heights = np.concatenate([line.get_ydata() for line in theirs.lines])
    assert {59.7, 64.4, 60.7, 58.0, 57.2, 57.0} == set(heights)
    (mean, *_), low_high = ours.containers[0].lines[0].get_ydata(), ours.get_ylim()
    assert mean == pytest.approx(50.0) and low_high[0] < 20 and low_high[1] > 80


def test_names_of_lines_that_end_together_do_not_overlap():
    """Also where another panel of the measure has a much wider range."""
    curves = [
        Curve(measure="a", measure_label="a, %", x="x", x_label="x", series="s", where={"side": s})
        for s in ("wide", "narrow")
    ]
    measured = [
        {"side": side, "s": s, "x": x, "a": 0.5 + scale * (s + x) / 100}
        for side, scale in (("wide", 10), ("narrow", 0.1))
        for s in (1, 2, 3)
        for x in (0, 1)
    ]
    with rc_context(ablation_figure._STYLE):
        figure = ablation_figure.figure("t", "s", measured, ("side", "s", "x"), curves)
        figure.canvas.draw()
        for axes in panels(figure):
            boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda b: b.y0)
            assert len(boxes) == 3
            assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))


def test_a_setting_that_fails_and_one_without_values():
    curve = Curve(measure="a", measure_label="a, %", x="m", x_label="m", published="moco_momentum")
    measured = [{"m": m, "a": 0.1 + m / 2} for m in (0.0, 0.9, 0.99)]
    _, theirs = panels(drawn(curve, measured=measured, labels=("m",)))
    assert [text.get_text() for text in theirs.texts] == ["fails"]
    with pytest.raises(ValueError, match="no finished cell has a point"):
        drawn(CURVE, measured=[{"l2": True, "t": 0.1, "seed": 0}])


def test_a_matrix_has_a_number_a_cell_and_the_papers_claim_below():
    curve = Curve(
        measure="a", measure_label="a, %", x="second", x_label="second", series="first",
        matrix=True, published="simclr_figure_5",
    )  # fmt: skip
    measured = [
        {"first": a, "second": b, "a": (i + 2 * j) / 10}
        for i, a in enumerate(("crop", "blur"))
        for j, b in enumerate(("crop", "blur"))
        if (a, b) != ("blur", "blur")  # not finished
    ]
    figure = drawn(curve, measured=measured, labels=("first", "second"))
    (axes,) = panels(figure)
    assert [text.get_text() for text in axes.texts] == ["0", "20", "10"]
    assert "no single change suffices" in " ".join(figure.get_supxlabel().split())


def test_the_figure_is_a_picture(tmp_path):
    path = tmp_path / "results.png"
    second = Curve(
        measure="knn/top1", measure_label="again, %", x="t", x_label="t", series="l2",
        published="simclr_table_5", published_measure="entropy", published_label="entropy",
    )  # fmt: skip
    ablation_figure.save(path, "Title", "setting", rows(SCORES), LABELS, (CURVE, second))
    picture = matplotlib.image.imread(io.BytesIO(path.read_bytes()))
    assert picture.shape[0] > 800 and picture.shape[1] > 1000
    assert np.ptp(picture[..., :3]) > 0.5 and (picture[:10, :, :3] == 1).mean() > 0.5
