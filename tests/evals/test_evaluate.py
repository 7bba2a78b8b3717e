import types

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
        "svm": {"shots": (1, 2), "draws": 2, "costs": (1.0,)},
        "names": ("knn",),
    }
)


def test_every_evaluation_by_its_name():
    train, test = _split(0), _split(1, n=80)
    loaded = evals.load_all(evals.names())
    of_models = [one.name for one in loaded if one.of_model]
    assert of_models == [
        "analogies", "anomaly", "attentive", "corruptions", "feature_map", "held_out", "iwae",
        "lidar", "probe_grid", "prompting", "properties", "retrieval", "reuse", "segmentation",
        "streamed_knn", "task", "transformations", "verification", "word_similarity",
    ]  # fmt: skip
    others = {"factors", "labels"}  # which these splits do not have
    chosen = [one.name for one in loaded if not (one.of_model or others.intersection(one.needs))]
    got = evals.evaluate(chosen, train, test, num_classes=6, config=CONFIG)
    expected = {
        "accuracy/top1", "accuracy/top5", "accuracy/mean_class",
        "knn/top1", "knn/top5", "knn/k",
        "linear/top1", "linear/top5", "linear/mean_class", "linear/best_l2", "linear/val_top1",
        "linear/l2_at_edge", "linear/gradient_norm", "mlp/top1", "mlp/epochs",
        "grades/auc", *(f"grades/from_{grade}" for grade in range(1, 6)),
        "few_shot/1", "few_shot/1_std", "few_shot/2", "few_shot/2_std",
        "svm/1", "svm/1_std", "svm/cost_1", "svm/2", "svm/2_std", "svm/cost_2",
        "collapse/rankme_h", "collapse/effective_rank_h", "collapse/std_h",
        "collapse/uniformity_h", "active_units/count", "active_units/share",
        "boosted_trees/top1",
        "alpha_req/alpha", "clid/clid", "clid/learnability", "clid/dimension",
    }  # fmt: skip
    assert set(got) == expected
    assert all(type(value) is float and np.isfinite(value) for value in got.values())
    assert all(evals.describe(key.removesuffix("_std")) for key in got)  # declared, see METRICS
    for name in ("knn/top1", "linear/top1", "mlp/top1", "few_shot/2"):
        assert 0.5 < got[name] <= 1.0
    again = evals.evaluate(["few_shot", "knn"], train, test, config=CONFIG)
    assert again == {name: got[name] for name in again}  # one at a time, classes inferred


def test_the_shared_config_is_understood():
    train, test = _split(2, n=400), _split(3, n=80)
    got = evals.evaluate(("knn", "few_shot"), train, test, config=base_config().eval)
    assert got["knn/k"] == 200.0 and "few_shot/8" in got
    options = base_config().eval.linear.to_dict()
    assert (options.pop("target"), options.pop("feature")) == ("label", None)
    assert evals.load("linear", base_config().eval).options == options


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
    assert evals.load("accuracy").feature_of("z") == "logits"
    assert evals.load("knn").feature_of("z") == "z"


def test_only_what_fits_something_needs_the_train_split():
    test = _split(7)
    got = evals.evaluate(["accuracy"], None, test, num_classes=6)
    assert got == evals.evaluate(["accuracy"], _split(6), test, num_classes=6)
    assert not evals.load("accuracy").fits and evals.load("knn").fits
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
        UserError, match=r"'liner'; use one of accuracy, active_units.*Did you mean 'linear'\?"
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


def test_options_are_checked_where_they_are_declared():
    for section, message in (
        ({"knn": {"temperature": -1.0}}, "eval.knn.temperature is -1.0; use a number above 0"),
        ({"knn": {"k": "many"}}, "eval.knn.k is 'many'; use a whole number"),
        ({"few_shot": {"shots": ()}}, r"eval.few_shot.shots is \(\); use a tuple"),
        ({"linear": {"val_fraction": 1.5}}, "eval.linear.val_fraction is 1.5"),
    ):
        with pytest.raises(UserError, match=message):
            evals.load(next(iter(section)), section)
    with pytest.raises(UserError, match="l2_min 10.0 is above l2_max 1.0"):
        evals.evaluate(
            ["linear"], _split(0), _split(1), config={"linear": {"l2_min": 10.0, "l2_max": 1.0}}
        )


def test_a_section_may_name_an_evaluation_and_its_target():
    """One evaluation on several targets; frames are flattened, those without a target left out."""
    rng = np.random.default_rng(0)
    config = {"phones": {"evaluation": "knn", "k": 3, "target": "phone", "feature": "frames"}}

    def rows(n):
        phone = rng.integers(-1, 4, (n, 5))
        frames = 4 * np.eye(4)[phone] + 0.1 * rng.normal(size=(n, 5, 4))
        return _split(n, n=n) | {"frames": frames.astype(np.float32), "phone": phone}

    train, test = rows(40), rows(20)
    got = evals.evaluate(["phones", "knn"], train, test, config=config)
    assert got["phones/k"] == 3 and 0.99 < got["phones/top1"] <= 1.0
    flat = [
        {"h": split["frames"][split["phone"] >= 0], "label": split["phone"][split["phone"] >= 0]}
        for split in (train, test)
    ]
    same = evals.evaluate(["knn"], *flat, config={"knn": {"k": 3}})
    assert {key.replace("phones", "knn"): got[key] for key in got if "phones" in key} == same
    assert got["knn/top1"] == evals.evaluate(["knn"], train, test)["knn/top1"]
    heading = evals.describe("phones/top1", config).heading
    assert heading == "phones kNN" and evals.describe("phones/top1") is None


def test_frames_and_vectors_do_not_mix():
    train = _split(0, n=20) | {"frames": np.zeros((20, 5, 4), np.float32)}
    with pytest.raises(UserError, match="'label' is one value an example, and features 'frames'"):
        evals.evaluate(["knn"], train, train, feature="frames")
    train["phone"] = np.zeros((20, 5), int)
    with pytest.raises(UserError, match="'phone' is one value a frame, and features 'h' are one"):
        evals.evaluate(["knn"], train, train, config={"knn": {"target": "phone"}})
    train["phone"] = np.zeros((20, 6), int)
    config = {"knn": {"target": "phone", "feature": "frames"}}
    with pytest.raises(UserError, match="20 x 5 features and 20 x 6 phone"):
        evals.evaluate(["knn"], train, train, config=config)


def test_factors_reach_an_evaluation_that_needs_them(monkeypatch):
    seen = {}

    def evaluate(train, test, *, factor_names, seed):
        seen.update(train=train, test=test, names=factor_names, seed=seed)
        return {"mig": 0.25}

    module = types.SimpleNamespace(
        NEEDS=("factors",), METRICS={"mig": evals.Metric("MIG", unit="")}, evaluate=evaluate,
        __name__="mig",
    )  # fmt: skip
    evaluation = evals.Evaluation("mig", module, {})
    train, test = _split(0, n=30), _split(1, n=10)
    factors = np.arange(60, dtype=np.float32).reshape(30, 2)
    got = evals.evaluate(
        [evaluation], train | {"factors": factors}, test | {"factors": factors[:10]},
        factor_names=("size", "angle"), seed=5,
    )  # fmt: skip
    assert got == {"mig/mig": 0.25} and seen["names"] == ("size", "angle") and seen["seed"] == 5
    assert sorted(seen["train"]) == ["factors", "h"]
    np.testing.assert_array_equal(seen["train"]["factors"], factors)
    with pytest.raises(UserError, match="mig needs factors, which the train split does not have"):
        evals.evaluate([evaluation], train, test)


def test_an_undeclared_metric_is_a_mistake_of_the_evaluation():
    module = types.SimpleNamespace(
        NEEDS=(), METRICS={"a": evals.Metric("A")}, evaluate=lambda test: {"b": 1.0}, __name__="x"
    )
    with pytest.raises(ValueError, match="evaluation x does not declare 'b'"):
        evals.evaluate([evals.Evaluation("x", module, {})], None, _split(0))


def test_one_evaluation_that_fails_costs_its_own_metrics_only():
    train, test = _split(12), _split(13)
    few = train | {"label": np.where(np.arange(200) < 1, train["label"], -1)}
    errors = []
    got = evals.evaluate(
        ["mlp", "accuracy", "knn"], few, test, num_classes=6, config=CONFIG,
        on_error=lambda name, error: errors.append((name, str(error))),
    )  # fmt: skip
    accuracies = {f"accuracy/{name}" for name in ("top1", "top5", "mean_class")}
    assert got.keys() == {*accuracies, "knn/top1", "knn/top5", "knn/k"}
    assert [name for name, _ in errors] == ["mlp"] and "10 train examples" in errors[0][1]
    broken = test | {"h": np.full_like(test["h"], np.nan)}
    errors.clear()
    got = evals.evaluate(
        ["knn", "accuracy"], train, broken, num_classes=6, config=CONFIG,
        on_error=lambda name, error: errors.append(name),
    )  # fmt: skip
    assert errors == ["knn"] and set(got) == accuracies
