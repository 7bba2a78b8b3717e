"""When a run stops early, what it decides again after an interruption, and what it reports."""

import json
import math
import shutil

import pytest

from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError
from ssl_jax.run import metrics
from ssl_jax.run.early_stopping import EarlyStopping
from tests.commands import TINY, run

ACCURACY = "eval/knn/top1"


def rows(*values):
    """Logged rows of which every second one has the metric."""
    found = []
    for i, value in enumerate(values):
        found += [{"step": 2 * i, "train/loss": 1.0}, {"step": 2 * i + 1, ACCURACY: value}]
    return found


@pytest.mark.parametrize(
    ("options", "values", "stops"),
    [
        ({}, (0.5, 0.4, 0.3), True),
        ({}, (0.5, 0.4), False),
        ({}, (0.5, 0.4, 0.6, 0.5), False),
        ({}, (0.5, 0.4, 0.6, 0.5, 0.6), True),  # the same again is not better
        ({}, (0.5, math.nan, 0.6, math.nan, math.nan), True),
        ({}, (math.nan, math.nan), True),
        ({"min_delta": 0.05}, (0.5, 0.54, 0.545), True),
        ({"min_delta": 0.05}, (0.5, 0.54, 0.56), False),
        ({"mode": "min"}, (0.5, 0.4, 0.3), False),
        ({"mode": "min"}, (0.5, 0.6, 0.7), True),
        ({"patience": 0}, (0.5, 0.4, 0.3), False),
    ],
)
def test_it_waits_for_a_better_value(options, values, stops):
    stopping = EarlyStopping(ACCURACY, **{"patience": 2, **options})
    assert stopping.stops(rows(*values)) == stops
    # It would have stopped at the same row whichever rows follow.
    assert stopping.stops(rows(*values, 0.9)) == stops


def load(**changes):
    config = config_lib.base_config()
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config = config_lib.apply(config, {"epochs": 1.0, **changes})
    return config_lib.resolve(config)


CHOICE = dict(early_stopping__patience=2, eval__every_epochs=1.0, eval__validation_split="v")


def test_what_the_config_says():
    assert EarlyStopping.of(load()) == EarlyStopping(ACCURACY)
    assert EarlyStopping.of(load(**CHOICE)) == EarlyStopping(ACCURACY, patience=2, best=True)
    best = load(**{**CHOICE, "early_stopping__patience": 0, "eval__final_checkpoint": "best"})
    assert EarlyStopping.of(best) == EarlyStopping(ACCURACY, best=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint__best_metric": ""}, "early_stopping.patience needs checkpoint.best_metric"),
        ({"eval__every_epochs": 0.0}, "needs evaluations to choose by; set eval.every_epochs"),
        ({"checkpoint__keep_best": 0}, "needs the best checkpoint; set checkpoint.keep_best=1"),
        ({"eval__validation_split": None}, "which is None; name a split that is neither"),
        ({"eval__validation_split": "test"}, "which is 'test'; name a split"),
        ({"eval__validation_split": "train"}, "which is 'train'; name a split"),
    ],
)
def test_what_it_cannot_choose_by_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        EarlyStopping.of(load(**{**CHOICE, **changes}))


STOPS = (
    *(flag for flag in TINY if "every_epochs" not in flag and "every_steps=4" not in flag),
    "--config.data.split=train[:80%]",  # 1150 images: 17 steps an epoch
    "--config.eval.every_epochs=0.2",  # every third step
    "--config.eval.validation_split=train[80%:]",
    "--config.eval.train_split=train[:80%]",
    "--config.checkpoint.every_steps=100",
    # Better by more than there is to gain: the first evaluation is the best, the third the last.
    "--config.early_stopping.patience=2",
    "--config.early_stopping.min_delta=1.0",
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stopped")
    return workdir, run(workdir, *STOPS).stdout


@pytest.mark.slow
def test_a_run_stops_and_its_results_are_those_of_the_best_checkpoint(stopped):
    workdir, said = stopped
    assert "2 evaluations without a better eval/knn/top1" in said
    looked = [row for row in metrics.read_metrics(workdir) if ACCURACY in row]
    assert [row["step"] for row in looked] == [3, 6, 9]
    best = max(looked, key=lambda row: (row[ACCURACY], row["step"]))
    results = json.loads((workdir / "results.json").read_text())
    assert results["step"] == 9 and results["stopped_early"]
    assert results.get("best_step", 9) == best["step"]
    if best["step"] != 9:
        assert f"the results are those of step {best['step']}, the best by {ACCURACY}" in said
    assert "nothing to do" in run(workdir, *STOPS).stdout


@pytest.mark.slow
def test_an_interrupted_run_decides_the_same(stopped, tmp_path):
    """Its last checkpoint is there, its results are not: it ends without another step."""
    workdir, _ = stopped
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    before = json.loads((copy / "results.json").read_text())
    (copy / "results.json").unlink()
    run(copy, *STOPS)
    after = json.loads((copy / "results.json").read_text())
    assert after["results"] == before["results"] and after["step"] == before["step"]
    # From an earlier one, with the rows that it has promised.
    shutil.rmtree(copy / "checkpoints" / "9")
    (copy / "results.json").unlink()
    said = run(copy, *STOPS).stdout
    assert "continuing from step 6" in said and "without a better" in said
    after = json.loads((copy / "results.json").read_text())
    assert after["results"] == before["results"] and after["step"] == before["step"]


@pytest.mark.slow
def test_more_patience_goes_on(stopped, tmp_path):
    workdir, _ = stopped
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    patient = [flag.replace("patience=2", "patience=4") for flag in STOPS]
    assert "continuing from step 9" in run(copy, *patient).stdout
    assert json.loads((copy / "results.json").read_text())["step"] == 15
