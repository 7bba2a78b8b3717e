import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import few_shot


@pytest.fixture(scope="module")
def digits():
    pixels, label = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    is_test = np.zeros(len(label), bool)
    is_test[order[::5]] = True  # a fifth of each class
    pixels = (pixels / 16.0).astype(np.float32)
    return tuple({"h": pixels[rows], "label": label[rows]} for rows in (~is_test, is_test))


def _sklearn(train, test, shots, draw, seed=0):
    """One draw of the protocol in float64."""
    mean = train["h"].astype(np.float64).mean(axis=0)

    def normalised(h):
        centred = h.astype(np.float64) - mean
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    index = few_shot.draw_labels(train["label"], shots, draw, seed).ravel()
    model = LogisticRegression(C=10.0, tol=1e-9, max_iter=10000)
    model.fit(normalised(train["h"][index]), train["label"][index])
    return model.score(normalised(test["h"]), test["label"])


OPTIONS = {"num_classes": 10, "shots": (1, 8), "draws": 5}


@pytest.fixture(scope="module")
def plain(digits):
    return few_shot.evaluate(*digits, **OPTIONS)


def test_whole_protocol_matches_sklearn_on_digits(digits, plain):
    train, test = digits
    for shots in (1, 8):
        expected = [_sklearn(train, test, shots, draw) for draw in range(5)]
        assert plain[str(shots)] == pytest.approx(np.mean(expected), abs=2 / len(test["label"]))
        assert plain[f"{shots}_std"] == pytest.approx(np.std(expected, ddof=1), abs=0.006)


def test_raw_digits_reach_what_is_known_of_them(digits):
    got = few_shot.evaluate(*digits, num_classes=10)
    assert 0.55 < got["1"] < 0.68 and 0.85 < got["8"] < 0.91
    assert got["1"] < got["2"] < got["4"] < got["8"]
    assert set(got) == {f"{k}{end}" for k in (1, 2, 4, 8) for end in ("", "_std")}


def test_rotation_scale_and_offset_of_features_do_not_matter(digits, plain):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0]
    moved = [
        rows | {"h": (300.0 * (rows["h"] @ rotation + 2.0)).astype(np.float32)} for rows in digits
    ]
    got = few_shot.evaluate(*moved, **OPTIONS)
    for name in plain:
        assert got[name] == pytest.approx(plain[name], abs=0.003)


_fit = jax.jit(few_shot.fit, static_argnames=("num_classes", "max_iterations"))


@pytest.mark.parametrize("weighted", [False, True])
def test_fit_matches_sklearn(weighted):
    rng = np.random.default_rng(2)
    label = np.tile(np.arange(5), 8)
    x = rng.normal(size=(40, 20)).astype(np.float32) + 0.5 * np.eye(5, 20, dtype=np.float32)[label]
    weight = (rng.random(40) < 0.6 if weighted else np.ones(40)).astype(np.float32)
    kernel, bias, norm = _fit(
        x, label, weight, 0.3, num_classes=5, max_iterations=5000, tolerance=1e-6
    )
    assert norm < 1e-6
    kept = weight > 0
    model = LogisticRegression(C=1 / 0.3, tol=1e-10, max_iter=10000).fit(x[kept], label[kept])
    np.testing.assert_allclose(kernel, model.coef_.T, atol=1e-3)
    probability = jax.nn.softmax(x @ kernel + bias)
    np.testing.assert_allclose(probability, model.predict_proba(x), atol=5e-4)


def test_draws_are_nested_balanced_and_a_function_of_their_arguments():
    rng = np.random.default_rng(3)
    label = rng.integers(-1, 6, 300)
    most = few_shot.draw_labels(label, 8, draw=2, seed=5)
    assert most.shape == (6, 8) and len(np.unique(most)) == 48
    np.testing.assert_array_equal(label[most], np.repeat(np.arange(6)[:, None], 8, axis=1))
    np.testing.assert_array_equal(few_shot.draw_labels(label, 3, draw=2, seed=5), most[:, :3])
    for other in (few_shot.draw_labels(label, 8, 3, 5), few_shot.draw_labels(label, 8, 2, 6)):
        assert (other != most).any()


def test_test_labels_only_score(digits, plain):
    train, test = digits
    shifted = test | {"label": (test["label"] + 1) % 10}
    got = few_shot.evaluate(train, shifted, **OPTIONS)
    # A digit counts when it was taken for its predecessor: the predictions have not moved along.
    assert got["8"] < 0.1 < plain["8"]


def test_impossible_shots_are_left_out(caplog):
    rng = np.random.default_rng(4)
    label = np.repeat([0, 1, 3], [10, 3, 5])  # class 2 does not occur
    train = {"h": rng.normal(size=(18, 4)).astype(np.float32), "label": label}
    got = few_shot.evaluate(train, train, num_classes=4, shots=(1, 2, 4, 8), draws=1)
    assert set(got) == {"1", "2"}  # no deviation of a single draw
    assert "class 1 has only 3 labelled train examples; shots [4, 8]" in caplog.text
    with pytest.raises(UserError, match="class 1 has only 3"):
        few_shot.evaluate(train, train, num_classes=4, shots=(4, 8))


def test_draws_one_after_the_other_agree(digits, plain, monkeypatch):
    monkeypatch.setattr(few_shot, "_FLOATS", 1)
    assert few_shot.evaluate(*digits, **OPTIONS) == pytest.approx(plain, abs=2e-3)


def test_constant_features_and_another_ambient_mesh(digits):
    train, test = ({"h": np.ones_like(rows["h"]), "label": rows["label"]} for rows in digits)
    mesh = jax.make_mesh((8, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        got = few_shot.evaluate(train, test, **OPTIONS, devices=jax.devices()[3:4])
    assert got["1"] == pytest.approx(0.1, abs=0.005)  # chance, and not NaN


def test_options_have_bounds():
    for key, value in {"shots": (), "draws": 0, "l2": 0.0}.items():
        with pytest.raises(UserError, match=f"eval.few_shot.{key} is"):
            evals.load("few_shot", {"few_shot": {key: value}})
