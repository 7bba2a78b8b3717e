"""Scores of disentanglement: known cases, and independent definitions of each."""

import numpy as np
import pytest
import scipy.stats
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import active_units, dci, mig, sap
from ssl_jax.evals.factors import as_classes

LEVELS = (3, 2, 2)


def grid(n, seed=0):
    """Independent factors of a few levels."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, k, n) for k in LEVELS], axis=1).astype(np.float32)


def rotated(factors):
    """Every code a mixture of all three factors, of two of them to equal parts."""
    scaled = (factors - factors.mean(0)) / factors.std(0)
    return (scaled @ (np.eye(3) - 2 / 3)).astype(np.float32)


def split(factors, h, noise=0.0, seed=9):
    h = h + noise * np.random.default_rng(seed).normal(size=h.shape)
    return {"h": h.astype(np.float32), "factors": factors}


def noisy(n, seed):
    """Codes of which each tells something of several factors."""
    factors = grid(n, seed)
    h = factors @ np.array([[1.0, 0.3, 0, 0.2], [0.2, 0.8, 0.4, 0], [0, 0.1, 1.5, 0.1]])
    return split(factors, h, noise=0.3, seed=seed)


# -------------------------------------------------------------------------------------------- MIG


def mig_oracle(h, classes, bins=20):
    """By scikit-learn's mutual information of columns of bins."""
    gaps = []
    for factor in classes.T:
        told = []
        for code in h.T:
            edges = np.histogram(code, bins)[1]
            told.append(mutual_info_score(factor, np.digitize(code, edges[:-1])))
        first, second = sorted(told)[-1:-3:-1]
        gaps.append((first - second) / mutual_info_score(factor, factor))
    return np.mean(gaps)


def test_mig_matches_the_oracle():
    test = noisy(500, 0)
    score = mig.evaluate(test)["score"]
    np.testing.assert_allclose(score, mig_oracle(test["h"], test["factors"]), rtol=1e-9)
    assert 0.1 < score < 0.9
    few = {name: array[:100] for name, array in test.items()}
    np.testing.assert_allclose(
        mig.evaluate(few, bins=5)["score"], mig_oracle(few["h"], few["factors"], 5), rtol=1e-9
    )


def test_mig_of_known_codes():
    factors = grid(4000)
    perfect = mig.evaluate(split(factors, -2 * factors[:, ::-1] + 1))
    assert perfect["score"] > 0.99 and perfect["information"] == pytest.approx(1)
    twice = mig.evaluate(split(factors, np.concatenate([factors, factors], axis=1)))
    assert twice["score"] == 0 and twice["information"] == pytest.approx(1)
    noise = np.random.default_rng(1).normal(size=(4000, 5))
    assert mig.evaluate(split(factors, noise))["score"] < 0.01
    assert mig.evaluate(split(factors, rotated(factors)))["score"] < 0.35
    # One code only, that of the first factor: the others are told by none.
    alone = mig.evaluate(split(factors, factors[:, :1]))["score"]
    np.testing.assert_allclose(alone, 1 / 3, atol=0.01)


def test_mig_names_the_gap_of_each_factor():
    """The first two codes tell the first two factors; nothing tells the third; one never varies."""
    factors = np.insert(grid(4000), 1, 7, axis=1)
    got = mig.evaluate(split(factors, factors[:, [0, 2]]), factor_names=("a", "still", "b", "c"))
    assert got.keys() == {"score", "information", "gap_a", "gap_b", "gap_c"}
    assert got["gap_a"] > 0.99 and got["gap_b"] > 0.99 and got["gap_c"] < 0.01
    np.testing.assert_allclose(got["score"], (got["gap_a"] + got["gap_b"] + got["gap_c"]) / 3)


def test_mutual_information_of_a_joint_distribution_by_hand():
    """P = [[.5, 0], [.25, .25]]."""
    a, b = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    expected = 0.5 * np.log(0.5 / (0.5 * 0.75)) + 0.25 * np.log(0.25 / (0.5 * 0.75))
    expected += 0.25 * np.log(0.25 / (0.5 * 0.25))
    np.testing.assert_allclose(mig.mutual_information(a, b), expected)


# -------------------------------------------------------------------------------------------- DCI


def test_concentration_is_one_minus_the_weighted_entropy():
    rng = np.random.default_rng(0)
    importance = rng.uniform(size=(5, 3)) * rng.integers(0, 2, size=(5, 3))
    importance[2] = 0  # a code that nothing uses
    per_code = 1 - scipy.stats.entropy(importance.T + 1e-11, base=3)
    expected = np.sum(per_code * importance.sum(1)) / importance.sum()
    np.testing.assert_allclose(dci.concentration(importance), expected, rtol=1e-9)


def test_concentration_of_known_matrices():
    assert dci.concentration(np.eye(4)) == pytest.approx(1, abs=1e-6)
    assert dci.concentration(np.ones((4, 3))) == pytest.approx(0, abs=1e-9)
    assert dci.concentration(np.zeros((4, 3))) == pytest.approx(0, abs=1e-9)
    # Two codes share each factor: every code serves one factor, but no factor has one code.
    shared = np.kron(np.eye(2), np.ones((2, 1)))
    assert dci.concentration(shared) == pytest.approx(1, abs=1e-6)
    assert dci.concentration(shared.T) == pytest.approx(0.5, abs=1e-6)


def test_dci_of_known_codes():
    factors, test_factors = grid(300), grid(200, seed=1)
    perfect = dci.evaluate(split(factors, 3 * factors), split(test_factors, 3 * test_factors))
    for name in ("disentanglement", "completeness", "informativeness"):
        assert perfect[name] == pytest.approx(1, abs=1e-3), name
    mixed = dci.evaluate(
        split(factors, rotated(factors)), split(test_factors, rotated(test_factors))
    )
    assert mixed["disentanglement"] < 0.6 and mixed["completeness"] < 0.6


def test_dci_matches_scikit_learn_and_scipy():
    train, test = noisy(150, 0), noisy(80, 1)
    importance, accuracy = [], []
    for number in range(3):
        model = GradientBoostingClassifier(random_state=4)
        model.fit(train["h"], train["factors"][:, number].astype(int))
        importance.append(model.feature_importances_)
        accuracy.append(model.score(test["h"], test["factors"][:, number].astype(int)))
    importance = np.array(importance).T  # (4, 3)
    got = dci.evaluate(train, test, seed=4)
    for name, matrix in (("disentanglement", importance), ("completeness", importance.T)):
        entropy = scipy.stats.entropy(matrix.T + 1e-11, base=matrix.shape[1])
        expected = np.average(1 - entropy, weights=matrix.sum(1))
        np.testing.assert_allclose(got[name], expected, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(got["informativeness"], np.mean(accuracy))
    assert got["informativeness_train"] > got["informativeness"]


# -------------------------------------------------------------------------------------------- SAP


def test_sap_matches_a_score_matrix_by_hand():
    rng = np.random.default_rng(0)
    splits = []
    for n in (200, 120):
        part = noisy(n, n)
        continuous = part["h"] @ rng.normal(size=4) + rng.normal(size=n)
        factors = np.column_stack([part["factors"], continuous]).astype(np.float32)
        # The last code never varies.
        splits.append({"h": np.column_stack([part["h"], np.ones(n)]), "factors": factors})
    train, test = splits
    scores = np.zeros((5, 4))
    for i in range(5):
        for j in range(3):
            model = LinearSVC(C=0.01, class_weight="balanced", random_state=3)
            model.fit(train["h"][:, [i]], train["factors"][:, j].astype(int))
            scores[i, j] = model.score(test["h"][:, [i]], test["factors"][:, j].astype(int))
        if i < 4:
            scores[i, 3] = np.corrcoef(train["h"][:, i], train["factors"][:, 3])[0, 1] ** 2
    ordered = np.sort(scores, axis=0)
    expected = np.mean(ordered[-1] - ordered[-2])
    np.testing.assert_allclose(sap.evaluate(train, test, seed=3)["score"], expected, rtol=1e-5)


def test_sap_of_known_codes():
    rng = np.random.default_rng(0)
    factors, test_factors = rng.uniform(size=(2, 500, 3)).astype(np.float32)
    perfect = sap.evaluate(split(factors, -factors), split(test_factors, -test_factors))
    assert perfect["score"] > 0.97
    twice = [split(f, np.concatenate([f, f], axis=1)) for f in (factors, test_factors)]
    assert sap.evaluate(*twice)["score"] == pytest.approx(0, abs=1e-6)
    mixed = sap.evaluate(
        split(factors, rotated(factors)), split(test_factors, rotated(test_factors))
    )
    assert mixed["score"] < 0.1


# ---------------------------------------------------------------------------------- what they share


def test_continuous_factors_are_cut_alike_in_all_splits():
    train = np.array([[0.0, 2.5], [5.0, 0.5], [10.0, 1.0]])
    test = np.array([[5.0, 4.5], [10.0, 0.5]])
    classes, test_classes = as_classes([train, test], bins=4)
    np.testing.assert_array_equal(classes, [[0, 2], [1, 0], [2, 0]])
    np.testing.assert_array_equal(test_classes, [[1, 3], [2, 0]])
    # A column that never varies is left out.
    (alone,) = as_classes([np.array([[1.0, 7.0], [2.0, 7.0]])], bins=4)
    np.testing.assert_array_equal(alone, [[0], [1]])


@pytest.mark.parametrize("evaluation", [mig, dci, sap])
def test_factors_that_never_vary_are_named(evaluation):
    rows = {"h": np.random.default_rng(0).normal(size=(20, 3)), "factors": np.ones((20, 2))}
    arguments = (rows,) if evaluation is mig else (rows, rows)
    with pytest.raises(UserError, match="no factor varies"):
        evaluation.evaluate(*arguments)


def test_dci_needs_two_codes():
    rows = split(grid(30), grid(30)[:, :1])
    with pytest.raises(UserError, match="two codes and two factors.*1 and 3"):
        dci.evaluate(rows, rows)


def test_they_run_by_name_with_options_of_the_config():
    config = {"dci": {"max_train_examples": 40, "factor_bins": 2}, "mig": {"max_examples": 50}}
    got = evals.evaluate(["mig", "sap"], noisy(60, 0), noisy(60, 1), config=config)
    assert {"mig/score", "sap/score"} <= got.keys()
    rows = np.linspace(0, 59, 50).astype(int)
    few = {name: array[rows] for name, array in noisy(60, 1).items()}
    assert got["mig/score"] == mig.evaluate(few)["score"]
    assert evals.load("dci", config).options["max_train_examples"] == 40
    assert evals.describe("dci/completeness").heading == "DCI C"


# ------------------------------------------------------------------------------------ active units


def test_active_units():
    rng = np.random.default_rng(0)
    h = 5 + rng.normal(size=(4000, 4)) * np.sqrt([0.005, 0.02, 1.0, 0.0])
    got = active_units.evaluate({"h": h.astype(np.float32)})
    assert got == {"count": 2.0, "share": 0.5}
    assert active_units.evaluate({"h": h}, threshold=0.5)["count"] == 1
