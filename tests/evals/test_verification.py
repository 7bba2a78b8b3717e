"""Verification against loops over folds and thresholds, and its pairs from files and labels."""

import types

import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.evals import verification
from ssl_jax.run.probing import Prober
from tests.data.kinds.test_published import faces, tuple_file
from tests.methods.table import ROWS


def _distances(seed=0, n=400):
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.5
    distance = np.clip(np.where(same, 1.0, 1.6) + 0.4 * rng.normal(size=n), 0, 4)
    return distance, same, np.arange(n) // 40


def test_ten_folds():
    distance, same, fold = _distances()
    got = verification.of_distances(distance, same, fold)
    accuracies, chosen = [], []
    for number in range(10):
        best, threshold = -1.0, None
        for candidate in np.arange(0, 4, 0.01):
            rows = [i for i in range(400) if fold[i] != number]
            right = np.mean([(distance[i] < candidate) == same[i] for i in rows])
            if right > best:
                best, threshold = right, candidate
        rows = [i for i in range(400) if fold[i] == number]
        accuracies.append(np.mean([(distance[i] < threshold) == same[i] for i in rows]))
        chosen.append(threshold)
    assert 0.6 < got["accuracy"] < 0.95
    assert got["accuracy"] == pytest.approx(np.mean(accuracies))
    assert got["accuracy_std"] == pytest.approx(np.std(accuracies))
    assert got["threshold"] == pytest.approx(np.mean(chosen))
    for exponent in (1, 2, 3):
        accepted = [
            np.mean(distance[same] <= t)
            for t in [-1, *distance] if np.mean(distance[~same] <= t) <= 10.0**-exponent
        ]  # fmt: skip
        assert got[f"tar_far_{exponent}"] == pytest.approx(max(accepted))
    perfect = verification.of_distances(np.where(same, 0.1, 2.0), same, fold)
    assert perfect["accuracy"] == perfect["auroc"] == perfect["tar_far_3"] == 1
    with pytest.raises(UserError, match="pairs of the same and of different things"):
        verification.of_distances(distance, np.ones(400, bool), fold)


def test_squared_distances():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 5, 3))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    expected = [sum((p - q) ** 2) for p, q in zip(*unit, strict=True)]
    np.testing.assert_allclose(verification.squared_distances(a, b), expected, rtol=1e-5)


def test_drawn_pairs():
    labels = np.array([0] * 30 + [1] * 5 + [-1] * 7 + [2] * 1 + [3] * 20)
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    pairs = verification.drawn(labels, 4000, seed=0)
    assert pairs.same.sum() == 2000 and (pairs.first != pairs.second).all()
    first, second = labels[pairs.first], labels[pairs.second]
    assert (first >= 0).all() and (second >= 0).all()
    assert ((first == second) == pairs.same).all()
    for kind in (pairs.same, ~pairs.same):
        assert np.bincount(pairs.fold[kind]).tolist() == [200] * 10
    # Uniform over pairs: a class counts by its number of pairs, every example alike.
    share = np.bincount(first[pairs.same], minlength=4) / 2000
    number = np.array([30 * 29, 5 * 4, 0, 20 * 19])
    np.testing.assert_allclose(share, number / number.sum(), atol=0.03)
    both = np.sort(np.stack([first, second])[:, ~pairs.same], axis=0)
    mixed = np.mean((both[0] == 0) & (both[1] == 3))
    assert mixed == pytest.approx(600 / (30 * 5 + 30 + 600 + 5 + 100 + 20), abs=0.04)
    np.testing.assert_array_equal(verification.drawn(labels, 4000, 0).first, pairs.first)
    assert (verification.drawn(labels, 4000, 1).first != pairs.first).any()
    for bad in (np.zeros(9, int), np.arange(9)):
        with pytest.raises(UserError, match="two examples of one class, and another class"):
            verification.drawn(bad, 100, 0)


NAMES = tuple(f"P{i}/P{i}_{j:04d}.jpg" for i in range(4) for j in (1, 2))


def _lfw(path, text):
    path.write_text(text)
    return str(path)


def test_lfw_pairs(tmp_path):
    rows = "P0\t1\t2\nP1\t1\tP2\t2\n", "P3\t2\t1\nP2\t1\tP0\t1\n"
    pairs = verification.of_lfw(_lfw(tmp_path / "two", "2\t1\n" + "".join(rows)), NAMES)
    assert pairs.first.tolist() == [0, 2, 7, 4] and pairs.second.tolist() == [1, 5, 6, 0]
    assert pairs.same.tolist() == [True, False] * 2 and pairs.fold.tolist() == [0, 0, 1, 1]
    one = "2\nP0 1 2\nP3 2 1\nP1 1 P2 2\nP2 1 P0 1\n"  # of one fold: ten are made
    pairs = verification.of_lfw(_lfw(tmp_path / "one", one), NAMES)
    assert pairs.same.tolist() == [True, True, False, False] and len(set(pairs.fold)) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("P0 1 2\n", "does not begin with the numbers of folds and of pairs"),
        ("", "does not begin with"),
        ("1 2\nP0 1 2\n", "announces 4 pairs and has 1"),
        ("1 1\nP0 1 2\nP0 1 2\n", "line 3 is no other pair: 'P0 1 2'"),
        ("1 1\nP0 1 3\nP0 1 P1 2\n", "names P0_0003, which is not among the 8 images"),
    ],
)
def test_bad_pairs_files(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        verification.of_lfw(_lfw(tmp_path / "pairs.txt", text), NAMES)
    assert message in str(error.value)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        verification.of_lfw(str(tmp_path / "none"), NAMES)


def _pixels(batch):
    image = batch["image"].astype(np.float32).reshape(len(batch["image"]), -1)
    return {"h": image + np.float32(1)}


def test_through_a_prober(tmp_path):
    """Drawn pairs of digits, pairs of a folder of faces, and a file of pairs."""
    config = ROWS["simclr"].load(data__name="digits", eval__verification__num_pairs=500)
    mesh = parallel.make_mesh()
    got = Prober(config, mesh).evaluate(_pixels, ["verification"])
    assert got["verification/pairs"] == 500 and 0.7 < got["verification/accuracy"] < 1
    with config.unlocked():
        config.eval.verification.flip = True
    flipped = Prober(config, mesh).evaluate(_pixels, ["verification"])
    assert 0.5 < flipped["verification/accuracy"] < got["verification/accuracy"]
    faces(tmp_path / "faces")
    lines = ["2 2\n"] + [
        f"Person_{i} 1 2\n" if i % 4 < 2 else f"Person_{i} 1 Person_{i + 9} 1\n" for i in range(8)
    ]
    (tmp_path / "faces" / "pairs.txt").write_text("".join(lines))
    with config.unlocked():
        config.data.image_size, config.data.channels = 8, 1
    prober = Prober(config, mesh, f"faces:{tmp_path / 'faces'}")
    # Grey images of one value each: equal directions, so nothing can be told.
    assert prober.evaluate(_pixels, ["verification"])["verification/pairs"] == 8
    path = tuple_file(tmp_path, "photos/0.png photos/1.png 1\nphotos/2.png photos/3.png 0\n" * 10)
    with config.unlocked():
        config.eval.test_split = "train"
    prober = Prober(config, mesh, f"pairs:{path}")
    assert prober.evaluate(_pixels, ["verification"])["verification/pairs"] == 20


def test_pairs_or_labels_are_needed():
    source = types.SimpleNamespace(name="x", names=None, read_labels=lambda: None)
    with pytest.raises(UserError, match="x has neither pairs nor labels"):
        verification.pairs_of(source, None, 100, 0)
    with pytest.raises(UserError, match="x has no names of files"):
        verification.pairs_of(source, "pairs.txt", 100, 0)
    digits = data.load("digits", "test")
    assert len(verification.pairs_of(digits, None, 100, 0).same) == 100
