import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import knn, nearest


def _clusters(rng, n, d=16, classes=7, noise=1.2):
    label = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    return {"h": (centres[label] + noise * rng.normal(size=(n, d))).astype(np.float32),
            "label": label.astype(np.int32)}  # fmt: skip


def _brute_force(train, test, classes, k, temperature, exclude_self=False):
    """Weighted vote in float64, one test example at a time."""
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    hits = {1: 0, 5: 0}
    for i, (query, label) in enumerate(
        zip(test["h"].astype(np.float64), test["label"], strict=True)
    ):
        similarity = np.array([unit(query) @ unit(row) for row in train["h"].astype(np.float64)])
        if exclude_self:
            similarity[i] = -np.inf
        votes = dict.fromkeys(range(classes), 0.0)
        for j in np.argsort(-similarity, kind="stable")[:k]:
            votes[train["label"][j]] += np.exp(similarity[j] / temperature)
        ranking = sorted((c for c in votes if votes[c] > 0), key=lambda c: (-votes[c], c))
        for m in hits:
            hits[m] += label in ranking[:m]
    return {f"top{m}": count / len(test["label"]) for m, count in hits.items()}


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (20, 0.07), (50, 1.0)])
@pytest.mark.parametrize("devices", [1, 8])
def test_brute_force(k, temperature, devices):
    rng = np.random.default_rng(0)
    train, test = _clusters(rng, 150), _clusters(rng, 60)
    got = knn.evaluate(
        train, test, num_classes=7, k=k, temperature=temperature, devices=jax.devices()[:devices]
    )
    expected = _brute_force(train, test, 7, k, temperature)
    assert 0.2 < expected["top1"] < 0.99  # neither trivial nor hopeless
    assert got == pytest.approx(expected | {"k": k})


def test_one_neighbour_is_the_nearest_one():
    rng = np.random.default_rng(1)
    train, test = _clusters(rng, 90), _clusters(rng, 40)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    nearest = train["label"][(unit(test["h"]) @ unit(train["h"]).T).argmax(axis=1)]
    got = knn.evaluate(train, test, num_classes=7, k=1)
    assert got["top1"] == pytest.approx((nearest == test["label"]).mean())
    assert got["top5"] == got["top1"]  # one class has all votes; silent classes are never right


def test_exclude_self():
    data = _clusters(np.random.default_rng(2), 120, noise=2.5)
    assert knn.evaluate(data, data, num_classes=7, k=1)["top1"] == 1.0
    for devices in (1, 8):
        got = knn.evaluate(
            data, data, num_classes=7, k=10, exclude_self=True, devices=jax.devices()[:devices]
        )
        expected = _brute_force(data, data, 7, 10, 0.07, exclude_self=True)
        assert got == pytest.approx(expected | {"k": 10})
        _, index = nearest.neighbours(
            data["h"], data["h"], 119, exclude_self=True, devices=jax.devices()[:devices]
        )
        assert not (index == np.arange(120)[:, None]).any()


def test_copies_of_train_are_all_right():
    rng = np.random.default_rng(3)
    train = {"h": rng.normal(size=(64, 8)).astype(np.float32), "label": rng.integers(0, 9, 64)}
    test = {"h": 5 * train["h"], "label": train["label"]}  # cosine: the scale does not matter
    assert knn.evaluate(train, test, num_classes=9, k=5, temperature=0.01)["top1"] == 1.0


def test_vote_on_three_points():
    similarity = np.array([[0.9, 0.8, 0.7]])
    votes = knn.vote(similarity, np.array([[0, 1, 1]]), num_classes=3, temperature=0.1)
    expected = np.array([np.exp(9.0), np.exp(8.0) + np.exp(7.0), 0.0])
    np.testing.assert_allclose(votes[0] / votes[0].sum(), expected / expected.sum(), rtol=1e-12)
    # At a temperature that overflows exp(s / tau) the nearest neighbour still decides.
    votes = knn.vote(similarity, np.array([[2, 1, 1]]), num_classes=3, temperature=1e-4)
    assert np.isfinite(votes).all() and votes.argmax() == 2


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_equal_neighbours_come_in_bank_order(devices):
    bank = np.zeros((20, 4), np.float32)
    bank[:, 0] = 1.0
    bank[7] = [0.0, 1.0, 0.0, 0.0]
    query = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], np.float32)
    similarity, index = nearest.neighbours(query, bank, 6, devices=jax.devices()[:devices])
    np.testing.assert_array_equal(index, [[0, 1, 2, 3, 4, 5], [7, 0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(similarity, [[1.0] * 6, [1.0] + [0.0] * 5])


def test_many_blocks_of_queries(monkeypatch):
    rng = np.random.default_rng(4)
    bank, queries = rng.normal(size=(50, 6)), rng.normal(size=(23, 6))
    whole = nearest.neighbours(queries, bank, 9)
    monkeypatch.setattr(nearest, "SIMILARITIES", 50 * 5)
    blocks = nearest.neighbours(queries, bank, 9)
    np.testing.assert_array_equal(whole[1], blocks[1])
    np.testing.assert_allclose(whole[0], blocks[0], atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "queries", "rows", "expected"),
    (
        ("cpu", 10_000, 5_000, 419),
        ("cpu", 10_000, 60_000, 64),
        ("cpu", 10_000, 2**22, 32),
        ("cpu", 7, 5_000, 7),
        ("tpu", 10_000, 5_000, 1024),
        ("tpu", 10_000, 1_281_167, 104),
        ("tpu", 10_000, 2**28, 1),
    ),
)
def test_blocks_fit_the_memory_of_a_device(platform, queries, rows, expected):
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([device], object))
    assert nearest._queries_at_once(queries, rows, mesh) == expected


def test_votes_are_counted_in_blocks(monkeypatch):
    rng = np.random.default_rng(6)
    train, test = ({"h": rng.normal(size=(n, 6)), "label": rng.integers(0, 3, n)} for n in (50, 23))
    whole = knn.evaluate(train, test, num_classes=3, k=9)
    monkeypatch.setattr(knn, "_VOTES", 9 * 5)
    assert knn.evaluate(train, test, num_classes=3, k=9) == whole


def test_extreme_scales_and_zero_features():
    rng = np.random.default_rng(5)
    bank = rng.normal(size=(30, 6)).astype(np.float32)
    plain = nearest.neighbours(bank, bank, 4)
    for scale in (1e30, 1e-30):  # their squares are outside float32
        scaled = nearest.neighbours(bank * np.float32(scale), bank, 4)
        np.testing.assert_array_equal(plain[1], scaled[1])
    similarity, _ = nearest.neighbours(np.zeros((1, 6), np.float32), bank, 4)
    np.testing.assert_array_equal(similarity, np.zeros((1, 4)))


def test_under_another_ambient_mesh():
    rng = np.random.default_rng(6)
    train, test = _clusters(rng, 150), _clusters(rng, 60)
    expected = knn.evaluate(train, test, num_classes=7, k=20)
    mesh = jax.make_mesh((8, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        assert knn.evaluate(train, test, num_classes=7, k=20) == expected


def test_k_is_clipped_with_a_note(caplog):
    data = _clusters(np.random.default_rng(7), 30)
    got = knn.evaluate(data, data, num_classes=7, k=200, exclude_self=True)
    assert got["k"] == 29
    assert "k=200 is more than the 29 train examples" in caplog.text


def test_errors():
    data = _clusters(np.random.default_rng(8), 30)
    half = {name: array[:15] for name, array in data.items()}
    with pytest.raises(UserError, match="temperature is 0"):
        evals.load("knn", {"knn": {"temperature": 0.0}})
    with pytest.raises(UserError, match="k is 0"):
        knn.evaluate(data, data, num_classes=7, k=0)
    with pytest.raises(UserError, match="not 15 with 30"):
        knn.evaluate(data, half, num_classes=7, k=3, exclude_self=True)
