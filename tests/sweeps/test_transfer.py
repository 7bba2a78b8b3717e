"""The transfer sweep: its grids, permutation tests, tables, parameters and absent data sets."""

import itertools

import numpy as np
import pytest
from etils import epath

from ssl_jax.cli import sweep as sweep_command
from ssl_jax.core.errors import UserError
from ssl_jax.run import outcomes
from ssl_jax.sweeps import ablation, grid, significance, tables
from ssl_jax.sweeps.grid import Cell, Curve, Sweep
from tests import commands

RNG = np.random.default_rng(0)


def test_the_grids_are_those_of_the_paper():
    sweep = grid.load("sweeps/transfer:paper")
    names = [cell.labels for cell in sweep.cells]
    finetuned = [labels for labels in names if labels["protocol"] == "finetuned"]
    for start in ("pretrained", "supervised", "random"):
        own = [
            (labels["rate"], labels["decay"])
            for labels in finetuned
            if labels["start"] == start and labels["set"] == "pets"
        ]
        assert len(own) == len(set(own)) == 7 * 8
    assert len(finetuned) == 12 * 3 * 56 and len(names) - len(finetuned) == 12 * 3
    metrics = {
        labels["set"]: labels["metric"] for labels in names if labels["protocol"] == "linear"
    }
    assert [name for name, metric in metrics.items() if metric == "linear/mean_class"] == [
        "aircraft", "pets", "caltech101", "flowers"
    ]  # fmt: skip
    assert metrics["voc2007"] == "linear_labels/map11"
    published = ablation.published()["simclr_table_8"].rows
    assert {row["set"] for row in published} == set(metrics) and len(published) == 5 * 12


def test_parameters_fill_in_the_overrides():
    sweep = grid.load("sweeps/transfer:linear")
    with pytest.raises(UserError, match="needs --set=pretrained=..., the self-supervised run"):
        sweep.with_overrides({})
    one = sweep.with_overrides({"pretrained": "runs/a", "seed": 3})
    assert {cell.labels["start"] for cell in one.cells} == {"pretrained", "random"}
    assert {cell.overrides["init_from"] for cell in one.cells} == {"runs/a"}
    assert {cell.overrides["seed"] for cell in one.cells} == {3}
    both = sweep.with_overrides({"pretrained": "runs/a", "supervised": "runs/b"})
    assert len(both.cells) == 36
    assert both.cells[1].overrides["init_from"] == "runs/b"


def exact_p(a, b, metric):
    """Over all exchanges of predictions, each as likely."""
    n = len(a["label"])
    observed = abs(significance.score(a, metric) - significance.score(b, metric))
    extreme = 0
    for swapped in itertools.product([False, True], repeat=n):
        first = {**a, "predicted": np.where(swapped, b["predicted"], a["predicted"])}
        second = {**b, "predicted": np.where(swapped, a["predicted"], b["predicted"])}
        difference = significance.score(first, metric) - significance.score(second, metric)
        extreme += abs(difference) >= observed - 1e-12
    return extreme / 2**n


@pytest.mark.parametrize("metric", ["top1", "mean_class"])
def test_permutation_tests_of_classes(metric):
    label = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    a = {"label": label, "predicted": label.copy()}
    b = {"label": label, "predicted": np.array([0, 1, 0, 1, 1, 1, 0, 0, 2, 0])}
    difference, p = significance.permutation_test(a, b, metric, permutations=20_000)
    assert difference == significance.score(a, metric) - significance.score(b, metric)
    assert p == pytest.approx(exact_p(a, b, metric), abs=0.01)
    assert significance.permutation_test(a, a, metric) == (0, 1)


def test_permutation_tests_of_several_labels():
    labels = (RNG.random((60, 2)) < 0.4).astype(int)
    good = {"labels": labels, "scores": labels + 0.3 * RNG.normal(size=(60, 2))}
    bad = {"labels": labels, "scores": RNG.normal(size=(60, 2))}
    difference, p = significance.permutation_test(good, bad, "map11", permutations=200)
    assert difference > 0.3 and p < 0.02
    _, p = significance.permutation_test(bad, bad, "map11", permutations=20)
    assert p == 1
    with pytest.raises(UserError, match="different test examples"):
        significance.permutation_test(good, {**bad, "labels": 1 - labels}, "map11")


def test_the_p_value_is_uniform_where_models_do_not_differ():
    rng = np.random.default_rng(1)
    label = np.zeros(200, int)
    values = [
        significance.permutation_test(
            {"label": label, "predicted": rng.integers(0, 2, 200)},
            {"label": label, "predicted": rng.integers(0, 2, 200)},
            "top1", permutations=400, seed=i,
        )[1]
        for i in range(200)
    ]  # fmt: skip
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.1


def test_outcomes_are_read_back(tmp_path):
    outcomes.write(
        tmp_path,
        {"linear": {"label": np.arange(3)}, "linear_labels": {"scores": RNG.random((2, 2))}},
    )
    assert outcomes.read(tmp_path, "linear")["label"].tolist() == [0, 1, 2]
    assert outcomes.read(tmp_path, "accuracy") is None
    assert outcomes.read(tmp_path / "other", "linear") is None


CURVE = Curve(
    measure="{metric}", measure_label="fine-tuned", x="set", x_label="set", series="start",
    best_over=("rate",), chosen_by="eval/{metric}", matrix=True, published="simclr_table_8",
    published_measure="score", where={"protocol": "finetuned"},
)  # fmt: skip
CELLS = tuple(
    Cell(dict(set=name, protocol="finetuned", start=start, metric="accuracy/top1", rate=rate), "x")
    for name in ("pets", "dtd") for start in ("pretrained", "random") for rate in (1, 2)
)  # fmt: skip


def rows():
    """The validation score prefers rate 1, the test score rate 2."""
    out = []
    for cell in CELLS:
        rate, better = cell.labels["rate"], cell.labels["start"] == "pretrained"
        scores = {"accuracy/top1": 0.1 * rate + 0.5 * better, "eval/accuracy/top1": -rate}
        out.append({**cell.labels, **scores})
    return out


def test_hyper_parameters_are_chosen_on_validation_data():
    found = {(p.x, p.series): p for p in ablation.points(rows(), list(CELLS[0].labels), CURVE)}
    assert found["pets", "pretrained"].mean == pytest.approx(60)
    assert found["dtd", "random"].mean == pytest.approx(10)
    assert found["pets", "pretrained"].published == 92.1


def test_tables_and_comparisons(tmp_path):
    sweep = Sweep("t", CELLS, curves=(CURVE,), compares="start")
    text = tables.text("t", rows(), sweep.labels, sweep.curves)
    assert "| pretrained | **60.0** | **60.0** |" in text and "| random | 10.0 | 10.0 |" in text
    assert "## fine-tuned: published" in text and "Table 8" in text and "| **89.4** |" in text
    label = RNG.integers(0, 3, 50)
    for cell in CELLS:
        right = cell.labels["start"] == "pretrained"
        (tmp_path / cell.name).mkdir()
        predicted = label if right else (label + 1) % 3
        outcomes.write(tmp_path / cell.name, {"accuracy": {"label": label, "predicted": predicted}})
    tests = significance.compare(sweep, rows(), tmp_path)
    assert [(row["set"], row["first"], row["other"]) for row in tests] == [
        ("pets", "pretrained", "random"), ("dtd", "pretrained", "random")
    ]  # fmt: skip
    assert all(row["difference"] == 1 and row["p"] < 0.001 for row in tests)


def test_a_curve_over_several_columns():
    curve = Curve(
        columns={"edema": "m/auc_edema", "both": "m/auc"}, measure="", measure_label="AUC",
        x="finding", x_label="", series="start", where={"epochs": 2}, matrix=True,
    )  # fmt: skip
    settings = [(e, s, seed) for e in (1, 2) for s in ("a", "b") for seed in (0, 1)]
    cells = [Cell(dict(epochs=e, start=s, seed=seed), "x") for e, s, seed in settings]
    values = [
        {**cell.labels, "m/auc": 0.5 + 0.1 * seed, "m/auc_edema": 0.2 * epochs}
        for cell, (epochs, _, seed) in zip(cells, settings, strict=True)
    ]
    sweep = Sweep("t", tuple(cells), curves=(curve,))  # `finding` is no label
    found = {(p.x, p.series): p for p in ablation.points(values, sweep.labels, curve)}
    assert found["edema", "a"].mean == pytest.approx(40)
    assert found["both", "b"].mean == pytest.approx(55)
    assert found["both", "a"].std == pytest.approx(100 * np.std([0.5, 0.6], ddof=1))
    text = tables.text("t", values, sweep.labels, sweep.curves)
    assert "| a | **40.0 ± 0.0** | **55.0 ± 7.1** |" in text


def test_absent_sets_are_named_and_left_out(capsys):
    cells = [Cell({"set": name}, "supervised:digits", {"data.name": name})
             for name in ("digits", "folder:nowhere")]  # fmt: skip
    sweep = sweep_command._with_present_data(Sweep("t", tuple(cells)))
    assert [cell.labels["set"] for cell in sweep.cells] == ["digits"]
    assert (
        "left out: folder:nowhere: folder:nowhere: nowhere does not exist"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="none of the 1 data sets"):
        sweep_command._with_present_data(Sweep("t", tuple(cells[1:])))


@pytest.mark.slow
def test_cells_of_both_protocols_end_in_tables(tmp_path):
    pretrained, swept = tmp_path / "pretrained", tmp_path / "transfer"
    commands.run(
        pretrained, "--config=configs/simclr.py:small_shapes", "--config.steps=2",
        "--config.epochs=None", "--config.batch_size=16", "--config.model.widths=(4,8)",
        "--config.data.options.num_generated=64", "--config.eval.final_names=()",
        "--config.eval.every_epochs=0.0", "--config.eval.baselines=()", "--config.log.report=False",
        "--config.log.tensorboard=False", "--config.optimizer.warmup_epochs=0.0",
    )  # fmt: skip
    values = {"pretrained": str(pretrained), "batch_size": "16", "eval.linear.num_l2": "3"}
    loaded = grid.load("configs/sweeps/transfer.py:embedded").with_overrides(values)
    chosen = [
        cell
        for cell in loaded.cells
        if cell.labels["set"] == "digits" and cell.labels["rate"] in (0.0, 0.03)
    ]
    assert [(c.labels["protocol"], c.labels["start"]) for c in chosen] == [
        ("linear", "pretrained"), ("linear", "random"),
        ("finetuned", "pretrained"), ("finetuned", "random"),
    ]  # fmt: skip
    settings = [f"--set={key}={value}" for key, value in values.items()]
    for cell in chosen:
        done = commands.run(
            swept, "--config=configs/sweeps/transfer.py:embedded", f"--cell={cell.name}",
            *settings, module="sweep", check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    rows = sweep_command.collect(loaded, epath.Path(swept))
    assert len(rows) == 4 and all(0 < row[row["metric"]] <= 1 for row in rows)
    assert all("eval/accuracy/top1" in row for row in rows[2:])
    text = (swept / "results.md").read_text()
    assert "## linear evaluation: measured" in text and "## fine-tuned: published" in text
    tests = (swept / "significance.csv").read_text().splitlines()
    assert tests[0] == "protocol,set,first,other,difference,p" and len(tests) == 3
    assert (swept / "results.png").stat().st_size > 10_000
