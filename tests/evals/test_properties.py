"""The pure functions of the desiderata: known codes, and loops as oracles."""

import itertools
import math

import numpy as np
import pytest

from ssl_jax.evals.properties import (
    clusters,
    linear_probes,
    midpoints,
    response,
    sparsity,
    units,
)
from ssl_jax.evals.properties.linear_probes import Target

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(40, 6))


# --------------------------------------------------------------------------------------- sparsity


def test_hoyer_of_known_codes():
    codes = np.array([[0, 0, -3.0, 0], [1, -1, 1, 1], [0, 0, 0, 0], [2, 2, 0, 0]])
    expected = [1, 0, 0, (2 - math.sqrt(2)) / (2 - 1)]
    np.testing.assert_allclose(sparsity.hoyer(codes), expected, atol=1e-12)
    assert sparsity.hoyer(np.array([[3.0], [0.0]])).tolist() == [0, 0]


def test_hoyer_is_its_formula_and_ignores_scale():
    for row, got in zip(NOISE, sparsity.hoyer(NOISE), strict=True):
        l1, l2 = sum(abs(v) for v in row), math.sqrt(sum(v * v for v in row))
        assert got == pytest.approx((math.sqrt(6) - l1 / l2) / (math.sqrt(6) - 1), abs=1e-12)
    np.testing.assert_allclose(sparsity.hoyer(1e-3 * NOISE), sparsity.hoyer(NOISE))
    wide = np.random.default_rng(1).normal(size=(50, 4096))
    assert sparsity.hoyer(wide).mean() == pytest.approx(1 - math.sqrt(2 / math.pi), abs=0.01)


def test_a_unit_is_active_relative_to_its_own_largest_magnitude():
    codes = np.array([[100.0, 0.0, -1.0], [4.0, 0.0, 0.04], [6.0, 0.0, 0.06]])
    expected = [[True, False, True], [False, False, False], [True, False, True]]
    np.testing.assert_array_equal(sparsity.active(codes, 0.05), expected)


# --------------------------------------------------------------------------------------- clusters


def blobs(n=30, classes=3, noise=0.01, width=5):
    label = np.arange(n) % classes
    rng = np.random.default_rng(2)
    return np.eye(width)[label] + noise * rng.normal(size=(n, width)), label


def test_perfect_clusters_score_one():
    codes, label = blobs()
    unit = clusters.directions(codes)
    assigned = clusters.assign(unit, 3, seed=0)
    assert clusters.agreement(assigned, label) == (pytest.approx(1), pytest.approx(1))
    assert clusters.silhouette(unit, label) > 0.95
    assert clusters.purity(unit, label, 9) == 1


def test_noise_scores_chance():
    rng = np.random.default_rng(3)
    unit, label = clusters.directions(rng.normal(size=(600, 8))), rng.integers(0, 4, 600)
    nmi, ari = clusters.agreement(clusters.assign(unit, 4, seed=0), label)
    assert abs(ari) < 0.02 and 0 <= nmi < 0.03
    assert abs(clusters.silhouette(unit, label)) < 0.02
    assert clusters.purity(unit, label, 10) == pytest.approx(0.25, abs=0.03)


def test_nmi_and_ari_are_their_formulas():
    a, b = np.random.default_rng(4).integers(0, 3, (2, 50))
    joint = np.array([[np.sum((a == i) & (b == j)) for j in range(3)] for i in range(3)]) / 50
    rows, columns = joint.sum(1), joint.sum(0)
    information = sum(
        p * math.log(p / (rows[i] * columns[j])) for (i, j), p in np.ndenumerate(joint) if p
    )
    entropy = [-sum(p * math.log(p) for p in marginal) for marginal in (rows, columns)]
    pairs = list(itertools.combinations(range(50), 2))
    same_a, same_b = (sum(x[i] == x[j] for i, j in pairs) for x in (a, b))
    both = sum(a[i] == a[j] and b[i] == b[j] for i, j in pairs)
    expected = same_a * same_b / len(pairs)
    adjusted = (both - expected) / ((same_a + same_b) / 2 - expected)
    nmi, ari = clusters.agreement(a, b)
    assert nmi == pytest.approx(2 * information / sum(entropy), abs=1e-12)
    assert ari == pytest.approx(adjusted, abs=1e-12)


def test_silhouette_and_purity_are_their_definitions(monkeypatch):
    label = np.random.default_rng(5).integers(0, 3, 40)
    unit = clusters.directions(NOISE)
    distance = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    scores, shares = [], []
    for i in range(40):
        others = np.arange(40) != i
        a = distance[i, others & (label == label[i])].mean()
        b = min(distance[i, label == c].mean() for c in set(label) - {label[i]})
        scores.append((b - a) / max(a, b))
        order = sorted(np.flatnonzero(others), key=lambda j: (distance[i, j], j))
        shares.append(np.mean([label[j] == label[i] for j in order[:7]]))
    assert clusters.silhouette(unit, label) == pytest.approx(np.mean(scores), abs=1e-9)
    monkeypatch.setattr(clusters, "_BLOCK", 16)
    assert clusters.purity(unit, label, 7) == pytest.approx(np.mean(shares), abs=1e-12)
    assert clusters.silhouette(unit, np.zeros(40, int)) is None
    assert clusters.silhouette(unit, np.arange(40)) is None


def test_directions_ignore_offset_and_scale():
    np.testing.assert_allclose(
        clusters.directions(1e3 * NOISE + 7), clusters.directions(NOISE), atol=1e-9
    )
    assert not clusters.directions(np.ones((3, 2))).any()


# --------------------------------------------------------------------------------------- response


def test_pair_distance_is_that_of_all_pairs():
    squares = [np.sum((a - b) ** 2) for a, b in itertools.combinations(NOISE, 2)]
    assert response.pair_distance(NOISE) == pytest.approx(math.sqrt(np.mean(squares)))


def test_the_quotient_of_a_scaled_copy_is_one_and_of_a_constant_zero():
    moved = np.abs(RNG.normal(size=40))
    moved[3] = 0.0  # an image that did not change
    scale = response.pair_distance(NOISE)
    for factor in (1.0, 50.0):
        got = response.expansion(
            factor * moved, moved, code_scale=factor * scale, image_scale=scale
        )
        np.testing.assert_allclose(got, np.ones(39))
    still = response.expansion(0 * moved, moved, code_scale=1.0, image_scale=scale)
    np.testing.assert_array_equal(still, np.zeros(39))


def test_cosine_under_change():
    mean = NOISE.mean(axis=0)
    assert response.similarity(NOISE, NOISE, mean) == pytest.approx(1)
    assert response.similarity(NOISE, 2 * mean - NOISE, mean) == pytest.approx(-1)
    # Different examples have about 0, however far the codes are from the origin.
    far = NOISE + 100
    others = response.similarity(far, np.roll(far, 1, axis=0), far.mean(axis=0))
    assert abs(others) < 0.15
    changed = NOISE + RNG.normal(size=NOISE.shape)
    loop = [
        (a - mean) @ (b - mean) / (np.linalg.norm(a - mean) * np.linalg.norm(b - mean))
        for a, b in zip(NOISE, changed, strict=True)
    ]
    assert response.similarity(NOISE, changed, mean) == pytest.approx(np.mean(loop))


# -------------------------------------------------------------------------------------- probes


def splits(width=5, n=150):
    rng = np.random.default_rng(6)
    return rng.normal(size=(n, width)), rng.normal(size=(80, width))


def test_a_linear_target_is_read_and_noise_is_not():
    train, test = splits()
    rng = np.random.default_rng(7)
    weights = rng.normal(size=5)
    targets = {
        "linear": Target(train @ weights + 3, test @ weights + 3),
        "class": Target((train[:, 0] > 0) + 1.0, (test[:, 0] > 0) + 1.0),
        "noise": Target(rng.normal(size=150), rng.normal(size=80)),
        "constant": Target(np.ones(150), np.ones(80)),
    }
    skills = linear_probes.skills(train, test, targets)
    assert list(skills) == ["linear", "class", "noise"]
    assert skills["linear"] > 0.999 and skills["class"] > 0.8 and skills["noise"] < 0.05
    shuffled = linear_probes.skills(train @ rng.normal(size=(5, 5)) * 1e3 + 1, test, {})
    assert shuffled == {}


def test_skills_ignore_scale_and_offset_of_units():
    train, test = splits()
    targets = {"y": Target(train[:, 0] + train[:, 1] ** 2, test[:, 0] + test[:, 1] ** 2)}
    scale, offset = np.array([1e-4, 1.0, 1e4, 3.0, 0.5]), 10.0
    constant = np.ones((150, 1)), np.ones((80, 1))
    got = linear_probes.skills(
        np.hstack([train * scale + offset, constant[0]]),
        np.hstack([test * scale + offset, constant[1]]),
        targets,
    )
    assert got["y"] == pytest.approx(linear_probes.skills(train, test, targets)["y"], abs=1e-6)


@pytest.mark.parametrize("width", [4, 60])  # fewer and more units than examples
def test_ridge_solves_its_equations(width):
    rng = np.random.default_rng(8)
    x, y, new = rng.normal(size=(30, width)), rng.normal(size=(30, 3)), rng.normal(size=(7, width))
    for penalty, got in zip(
        (1e-3, 1.0), linear_probes._predictions(x, y, new, (1e-3, 1.0)), strict=True
    ):
        gram = x.T @ x + 30 * penalty * np.eye(width)
        expected = y.mean(0) + new @ np.linalg.solve(gram, x.T @ (y - y.mean(0)))
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_skill_of_classes_and_numbers():
    classes, train = np.array([0.0, 1.0]), np.array([0, 0, 1.0])
    predicted = np.array([[1, 0], [0, 1], [0, 1], [0, 1]])  # 0 1 1 1
    true = np.array([0, 0, 1, 1])
    assert linear_probes._skill(predicted, train, true, classes) == pytest.approx(
        (0.75 - 0.5) / 0.5
    )
    y, guess = np.array([1.0, 2.0, 6.0]), np.array([[1.0], [3.0], [5.0]])
    expected = 1 - 2 / np.sum((y - train.mean()) ** 2)
    assert linear_probes._skill(guess, train, y, None) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------- units


def test_units_of_one_class_are_pure_and_others_are_at_chance():
    rng = np.random.default_rng(9)
    label = np.arange(120) % 4
    codes = np.eye(4)[label] + 0.1 * rng.random((120, 4))
    assert units.purity(codes, label, 9) == 1
    constant = np.hstack([codes, np.ones((120, 2))])
    assert units.purity(constant, label, 9) == 1  # constant units do not count
    assert math.isnan(units.purity(np.ones((120, 2)), label, 9))
    noise = units.purity(rng.normal(size=(120, 2000)), label, 9)
    assert noise == pytest.approx(units.chance(label, 9, seed=0), abs=0.01)


def test_top_examples_and_purity_by_loops():
    label = np.random.default_rng(10).integers(0, 3, 40)
    top, shares = units.top_examples(NOISE, 5), []
    for unit in range(6):
        order = sorted(range(40), key=lambda i: -NOISE[i, unit])[:5]
        assert top[unit].tolist() == order
        labels = [label[i] for i in order]
        shares.append(max(labels.count(c) for c in labels) / 5)
    assert units.purity(NOISE, label, 5) == pytest.approx(np.mean(shares))


def test_shown_units_differ_and_stand_out():
    rng = np.random.default_rng(11)
    base = rng.normal(size=(200, 3))
    spikes = (np.arange(200) < 9)[:, None] * 20.0 + 0.1 * rng.normal(size=(200, 1))
    codes = np.hstack([np.ones((200, 1)), base, base[:, :1] * -2, spikes])
    chosen = units.choose(codes, 8, top=9).tolist()
    assert chosen[0] == 5 and len(chosen) == 4
    assert 0 not in chosen and not {1, 4} <= set(chosen)
    assert len(units.choose(codes, 2, top=9)) == 2


# -------------------------------------------------------------------------------------- midpoints


def test_distances_to_data_by_loops():
    data, images = RNG.normal(size=(30, 4)), RNG.normal(size=(8, 4))
    nearest = [sorted(np.linalg.norm(image - row) for row in data)[:3] for image in images]
    got = midpoints.distance_to_data(images, data, 3)
    assert got == pytest.approx(np.mean(nearest), rel=1e-9)
    assert midpoints.distance_to_data(data, data, 1) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("count", "limit", "expected"), [(9, 10, 4), (9, 2, 2), (2, 5, 1)])
def test_pairs_do_not_share_examples(count, limit, expected):
    pairs = midpoints.pairs(count, limit, seed=1)
    assert pairs.shape == (expected, 2)
    assert len(set(pairs.ravel().tolist())) == pairs.size and pairs.max() < count
