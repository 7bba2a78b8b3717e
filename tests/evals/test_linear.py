import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from sklearn.linear_model import LogisticRegression

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import linear
from ssl_jax.evals.scores import row_mesh


def _data(n, seed, d=12, classes=6, noise=1.5, offset=3.0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    scale = np.logspace(-0.5, 0.5, d)
    h = (centres[label] + noise * rng.normal(size=(n, d))) * scale + offset
    return {"h": h.astype(np.float32), "label": label.astype(np.int32)}


def _fit(data, l2, devices=1, standardize=False, **options):
    mesh = row_mesh(len(data["h"]), jax.devices()[:devices])
    with jax.set_mesh(mesh):
        layout = linear.layout_of(data["h"], 6, mesh)
        rows = linear.place(data["h"], data["label"], np.ones(len(data["h"])), layout)
        mean, std = (
            np.asarray(part) for part in linear.moments(rows, standardize=standardize)
        )  # fmt: skip
        rows = rows._replace(x=linear.rescale(rows.x, mean, std))
        probe = linear.fit(rows, 6, l2, mesh=mesh, **options)
        measured = linear.score(probe, rows, mesh=mesh)
    return probe, mean, std, measured


def _objective(kernel, bias, x, label, l2):
    """The module's objective and the norm of its gradient, both over n, in float64."""
    logits = x @ kernel + bias
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    n = len(x)
    value = -log_p[np.arange(n), label].sum() + l2 / 2 * (kernel**2).sum()
    residual = np.exp(log_p) - np.eye(kernel.shape[1])[label]
    gradient = np.concatenate([(x.T @ residual + l2 * kernel).ravel(), residual.sum(axis=0)])
    return value / n, np.linalg.norm(gradient) / n, log_p


@pytest.mark.parametrize("devices, l2", [(1, 100.0), (1, 1.0), (1, 1e-2), (8, 1.0)])
def test_matches_sklearn(devices, l2):
    data = _data(203, seed=0)  # 203: blocks and devices are padded
    probe, mean, _, _ = _fit(data, l2, devices, tolerance=1e-6, max_iterations=1000)
    assert probe.gradient_norm < 1e-4
    x = data["h"].astype(np.float64) - mean
    reference = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=20000).fit(x, data["label"])
    expected = _objective(reference.coef_.T, reference.intercept_, x, data["label"], l2)
    got = _objective(probe.kernel, probe.bias, x, data["label"], l2)
    assert got[1] < 1e-4  # in float64 as well
    assert got[0] == pytest.approx(expected[0], abs=1e-6)
    np.testing.assert_allclose(np.exp(got[2]), np.exp(expected[2]), atol=2e-3)
    # scikit-learn's bias is one of many (only differences count), the kernel is unique.
    np.testing.assert_allclose(
        probe.kernel, reference.coef_.T, atol=5e-3 * np.abs(probe.kernel).max()
    )


def test_score_matches_numpy():
    data = _data(203, seed=1, noise=4.0)
    probe, mean, std, measured = _fit(data, 1.0, devices=8, standardize=True)
    x = (data["h"].astype(np.float64) - mean) / std
    np.testing.assert_allclose(x.std(axis=0), 1.0, atol=1e-5)
    log_p = _objective(probe.kernel, probe.bias, x, data["label"], 0.0)[2]
    order = np.argsort(-log_p, axis=1, kind="stable")
    assert measured["top1"] == pytest.approx((order[:, 0] == data["label"]).mean())
    assert measured["top5"] == pytest.approx((order[:, :5] == data["label"][:, None]).any(1).mean())
    cross_entropy = -log_p[np.arange(len(x)), data["label"]].mean()
    assert measured["cross_entropy"] == pytest.approx(cross_entropy, rel=1e-5)


def test_separable_features_reach_everything():
    train, test = _data(300, seed=2, noise=0.02), _data(200, seed=3, noise=0.02)
    got = linear.evaluate(train, test, num_classes=6)
    assert got["top1"] == got["top5"] == got["val_top1"] == 1.0
    assert got["gradient_norm"] < 1e-4


def test_test_labels_cannot_reach_the_choice():
    train, test = _data(240, seed=4, noise=3.0), _data(120, seed=5, noise=3.0)
    got = linear.evaluate(train, test, num_classes=6, num_l2=6)
    shuffled = test | {"label": np.random.default_rng(0).permutation(test["label"])}
    other = linear.evaluate(train, shuffled, num_classes=6, num_l2=6)
    assert got["top1"] > other["top1"] + 0.2
    same = ("best_l2", "val_top1", "l2_at_edge", "gradient_norm")
    assert {k: got[k] for k in same} == {k: other[k] for k in same}
    features_too = linear.evaluate(train, _data(120, seed=6), num_classes=6, num_l2=6)
    assert {k: got[k] for k in same} == {k: features_too[k] for k in same}


def test_choice_and_refit_follow_the_protocol(monkeypatch):
    """The whole protocol again with scikit-learn in float64."""
    train, test = _data(240, seed=7, noise=3.0), _data(200, seed=8, noise=3.0)
    held_out = linear.hold_out(train["label"], 0.2, seed=0)
    split = lambda rows, mask: (rows["h"].astype(np.float64)[mask], rows["label"][mask])  # noqa: E731
    x, y = split(train, ~held_out)
    mean, std = x.mean(axis=0), x.std(axis=0)
    best = None
    for l2 in np.geomspace(1e4, 1e-2, 4):
        model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=5000).fit((x - mean) / std, y)
        val_x, val_y = split(train, held_out)
        log_p = model.predict_log_proba((val_x - mean) / std)
        accuracy = (log_p.argmax(axis=1) == val_y).mean()
        key = (accuracy, log_p[np.arange(len(val_y)), val_y].mean())
        best = max(best, (key, l2)) if best else (key, l2)
    (val_top1, _), l2 = best
    x, y = split(train, np.ones(240, bool))
    mean, std = x.mean(axis=0), x.std(axis=0)
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=5000).fit((x - mean) / std, y)
    top1 = model.score((test["h"].astype(np.float64) - mean) / std, test["label"])
    scored, score = [], linear.score
    monkeypatch.setattr(
        linear, "score", lambda *args, **kw: (scored.append(args[1]), score(*args, **kw))[1]
    )
    for devices in (1, 8):
        got = linear.evaluate(
            train, test, num_classes=6, l2_min=1e-2, l2_max=1e4, num_l2=4,
            tolerance=1e-6, devices=jax.devices()[:devices],
        )  # fmt: skip
        assert got["best_l2"] == pytest.approx(l2)
        assert got["val_top1"] == pytest.approx(val_top1)
        assert got["top1"] == pytest.approx(top1, abs=0.006)  # one test example
        assert got["l2_at_edge"] == float(l2 in (1e4, 1e-2))
        x = np.asarray(scored[-1].x).reshape(-1, 12)[:200]
        np.testing.assert_allclose(x, (test["h"] - mean) / std, atol=1e-4)


def test_edge_of_the_grid_is_reported():
    train, test = _data(200, seed=9), _data(50, seed=10)
    for limits, edge in (({"l2_min": 1e5, "l2_max": 1e9}, 1.0), ({"l2_min": 1, "l2_max": 1}, 0.0)):
        num = 3 if edge else 1
        got = linear.evaluate(train, test, num_classes=6, num_l2=num, **limits)
        assert got["l2_at_edge"] == edge


def test_scale_and_offset_of_features_do_not_matter_when_standardised():
    train, test = _data(200, seed=11, noise=3.0), _data(100, seed=12, noise=3.0)
    scale = np.logspace(-3, 3, 12)
    moved = [
        rows | {"h": (scale * rows["h"] + 5 * scale).astype(np.float32)} for rows in (train, test)
    ]
    got, other = (
        linear.evaluate(*rows, num_classes=6, num_l2=4) for rows in ((train, test), moved)
    )  # fmt: skip
    assert other["best_l2"] == got["best_l2"]
    assert other["top1"] == pytest.approx(got["top1"], abs=0.011)


def test_constant_features_stay_out():
    train, test = _data(200, seed=13), _data(100, seed=14)
    plain = linear.evaluate(train, test, num_classes=6, num_l2=3)
    rng = np.random.default_rng(0)

    def widened(rows):
        n = len(rows["h"])
        rounding = 1000.0 * (1 + 1e-7 * rng.normal(size=(n, 2)))
        return rows | {
            "h": np.hstack([rows["h"], np.full((n, 2), 7.0), rounding]).astype(np.float32)
        }

    got = linear.evaluate(widened(train), widened(test), num_classes=6, num_l2=3)
    assert got["top1"] == pytest.approx(plain["top1"], abs=0.011)


def test_hold_out_is_stratified_and_a_function_of_its_arguments():
    label = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    label = np.random.default_rng(0).permutation(label)
    held_out = linear.hold_out(label, 0.2, seed=3)
    np.testing.assert_array_equal(np.bincount(label[held_out], minlength=4), [20, 2, 1, 0])
    np.testing.assert_array_equal(held_out, linear.hold_out(label, 0.2, seed=3))
    assert (held_out != linear.hold_out(label, 0.2, seed=4)).any()
    with pytest.raises(UserError, match="at least two"):
        linear.hold_out(np.arange(5), 0.2, seed=0)


def test_without_standardisation_and_under_another_ambient_mesh():
    train, test = _data(200, seed=15), _data(100, seed=16)
    expected = linear.evaluate(train, test, num_classes=6, num_l2=3, standardize=False)
    mesh = jax.make_mesh((8, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        got = linear.evaluate(train, test, num_classes=6, num_l2=3, standardize=False)
    assert got == expected and got["top1"] > 0.5


def test_unfinished_fit_is_reported(caplog):
    train, test = _data(200, seed=17), _data(50, seed=18)
    got = linear.evaluate(train, test, num_classes=6, num_l2=1, l2_max=1e-6, max_iterations=1)
    assert got["gradient_norm"] > 1e-3
    assert "raise max_iterations" in caplog.text


def test_few_classes_have_no_top5():
    train, test = (_data(60, seed, classes=3) for seed in (19, 20))
    assert "top5" not in linear.evaluate(train, test, num_classes=3, num_l2=2)


def test_errors():
    train = _data(60, seed=21)
    with pytest.raises(UserError, match="val_fraction is 1.0"):
        linear.evaluate(train, train, num_classes=6, val_fraction=1.0)
    with pytest.raises(UserError, match="num_l2 is 0"):
        evals.load("linear", {"linear": {"num_l2": 0}})
    with pytest.raises(UserError, match="l2_min 1.0 is above l2_max 0.1"):
        linear.evaluate(train, train, num_classes=6, l2_min=1.0, l2_max=0.1)
