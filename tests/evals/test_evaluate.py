import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import evals
from ssl_jax.config import base_config
from ssl_jax.core.errors import UserError


def _split(seed, n=200, classes=6, noise=1.0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, 16))
    h = (centres[label] + noise * rng.normal(size=(n, 16))).astype(np.float32)
    return {
        "h": h, "z": h[:, :3], "logits": h @ centres.T, "label": label.astype(np.int32),
        "index": np.arange(n),
    }  # fmt: skip


CONFIG = ConfigDict(
    {
        "knn": {"k": 20},
        "linear": {"num_l2": 3},
        "few_shot": {"shots": (1, 2), "draws": 3},
        "names": ("knn",),
    }
)


def test_every_evaluation_by_its_name():
    train, test = _split(0), _split(1, n=80)
    assert evals.names() == ["accuracy", "collapse", "few_shot", "knn", "linear", "mlp"]
    got = evals.evaluate(evals.names(), train, test, num_classes=6, config=CONFIG)
    expected = {
        "accuracy/top1", "accuracy/top5",
        "knn/top1", "knn/top5", "knn/k",
        "linear/top1", "linear/top5", "linear/best_l2", "linear/val_top1", "linear/l2_at_edge",
        "linear/gradient_norm", "mlp/top1", "mlp/epochs",
        "few_shot/1", "few_shot/1_std", "few_shot/2", "few_shot/2_std",
        "collapse/rankme_h", "collapse/effective_rank_h", "collapse/std_h",
        "collapse/uniformity_h",
    }  # fmt: skip
    assert set(got) == expected
    assert all(type(value) is float and np.isfinite(value) for value in got.values())
    for name in ("knn/top1", "linear/top1", "mlp/top1", "few_shot/2"):
        assert 0.5 < got[name] <= 1.0
    again = evals.evaluate(["few_shot", "knn"], train, test, config=CONFIG)
    assert again == {name: got[name] for name in again}  # one at a time, classes inferred


def test_the_shared_config_is_understood():
    train, test = _split(2, n=400), _split(3, n=80)
    got = evals.evaluate(("knn", "few_shot"), train, test, config=base_config().eval)
    assert got["knn/k"] == 200.0 and "few_shot/8" in got
    options = base_config().eval.linear
    assert evals._options("linear", evals.load("linear"), options) == dict(options)


def test_seed_moves_the_draws():
    train, test = _split(4, noise=2.0), _split(5, noise=2.0)
    got = [evals.evaluate(["few_shot"], train, test, config=CONFIG, seed=s) for s in (0, 0, 1)]
    assert got[0] == got[1] != got[2]


def test_another_feature():
    train, test = _split(6), _split(7)
    cut = [{"h": rows["z"], "label": rows["label"]} for rows in (train, test)]
    assert evals.evaluate(["knn"], train, test, config=CONFIG, feature="z") == evals.evaluate(
        ["knn"], *cut, config=CONFIG
    )


def test_unlabelled_rows_are_left_out():
    train, test = _split(8), _split(9)
    known = np.random.default_rng(0).random(200) < 0.7
    partly = train | {"label": np.where(known, train["label"], -1)}
    cut = {name: array[known] for name, array in train.items()}
    names = ("knn", "few_shot")
    assert evals.evaluate(names, partly, test, config=CONFIG) == evals.evaluate(
        names, cut, test, config=CONFIG
    )


def test_an_evaluation_of_one_output_takes_it_whatever_the_others_are_asked_to_take():
    train, test = _split(6), _split(7)
    got = evals.evaluate(["accuracy", "knn"], train, test, config=CONFIG, feature="z")
    assert got["accuracy/top1"] == np.mean(test["logits"].argmax(1) == test["label"])
    assert (
        got["knn/top1"]
        == evals.evaluate(["knn"], train, test, config=CONFIG, feature="z")["knn/top1"]
    )
    assert evals.feature_of("accuracy", "z") == "logits" and evals.feature_of("knn", "z") == "z"


def test_only_what_fits_something_needs_the_train_split():
    test = _split(7)
    got = evals.evaluate(["accuracy"], None, test, num_classes=6)
    assert got == evals.evaluate(["accuracy"], _split(6), test, num_classes=6)
    assert [name for name in evals.names() if not evals.needs_train(name)] == ["accuracy"]
    with pytest.raises(ValueError, match="knn needs features of the train split"):
        evals.evaluate(["accuracy", "knn"], None, test, config=CONFIG)


def test_no_labels():
    train, test = _split(10), _split(11)
    blank = train | {"label": np.full(200, -1)}
    with pytest.raises(UserError, match="the train split has no labels and knn needs them"):
        evals.evaluate(["collapse", "knn"], blank, test, config=CONFIG)
    without = {"h": test["h"]}
    with pytest.raises(UserError, match="the test split has no labels"):
        evals.evaluate(["knn"], train, without, config=CONFIG)
    got = evals.evaluate(["collapse"], blank, without)
    assert 1 < got["collapse/rankme_h"] <= 16


def test_errors():
    train, test = _split(12), _split(13)
    with pytest.raises(
        UserError, match=r"'liner'; there are accuracy, collapse.*Did you mean 'linear'\?"
    ):
        evals.evaluate(["liner"], train, test)
    with pytest.raises(UserError, match="unknown evaluation 'online'"):  # not one of features
        evals.evaluate(["online"], train, test)
    with pytest.raises(UserError, match=r"eval.knn.temprature.*Did you mean 'temperature'\?"):
        evals.evaluate(["knn"], train, test, config={"knn": {"temprature": 0.1}})
    with pytest.raises(UserError, match="no features 'y'; it has h, index, label, logits, z"):
        evals.evaluate(["knn"], train, test, feature="y")
    with pytest.raises(UserError, match=r"shape \(200,\)"):
        evals.evaluate(["knn"], train, test, feature="index")
    with pytest.raises(UserError, match="16 dimensions on the train split and 8 on the test"):
        evals.evaluate(["knn"], train, test | {"h": test["h"][:, :8]})
    with pytest.raises(UserError, match="label 5 is outside num_classes 4"):
        evals.evaluate(["knn"], train, test, num_classes=4)
    with pytest.raises(UserError, match="200 features and 199 labels"):
        evals.evaluate(["knn"], train | {"label": train["label"][1:]}, test)
    broken = train["h"].copy()
    broken[[3, 7], 0] = np.nan
    with pytest.raises(UserError, match="2 of 200 train examples are not finite"):
        evals.evaluate(["knn"], train | {"h": broken}, test)
