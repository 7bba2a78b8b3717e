"""The memory bank's losses against float64 oracles, their closed forms, and eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, parallel
from ssl_jax.losses import instance
from ssl_jax.losses.implementation import choose_one_sided

T = 0.2


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def problem(n=16, d=8, examples=50, drawn=7, seed=0):
    """Embeddings, bank, own rows, candidates (the own row first)."""
    rng = np.random.default_rng(seed)
    v = unit(rng.normal(size=(n, d))).astype(np.float32)
    bank = unit(rng.normal(size=(examples, d))).astype(np.float32)
    index = rng.permutation(examples)[:n].astype(np.int32)
    negatives = rng.integers(0, examples, (n, drawn)).astype(np.int32)
    return v, bank, index, np.concatenate([index[:, None], negatives], axis=1)


def nce_oracle(v, bank, candidates, log_z):
    """Eq. 7 as the paper writes it, probability by probability, in float64."""
    v, bank = np.asarray(v, np.float64), np.asarray(bank, np.float64)
    examples, drawn = len(bank), candidates.shape[1] - 1
    total = 0.0
    for i, row in enumerate(candidates):
        p = np.exp(bank[row] @ v[i] / T) / np.exp(log_z)
        h = p / (p + drawn / examples)
        total -= np.log(h[0]) + np.log(1 - h[1:]).sum()
    return total / len(v)


def softmax_oracle(v, bank, candidates):
    """The first candidate among all, in float64."""
    v, bank = np.asarray(v, np.float64), np.asarray(bank, np.float64)
    total = 0.0
    for i, row in enumerate(candidates):
        s = bank[row] @ v[i] / T
        total += np.log(np.exp(s).sum()) - s[0]
    return total / len(v)


def everyone(index, examples):
    """All rows of the bank as candidates, the own one first."""
    return np.stack([[i, *np.delete(np.arange(examples), i)] for i in index])


def nce_loss(v, bank, candidates, log_z):
    logits = losses.bank_logits(v, bank, candidates, temperature=T)
    return losses.nce(logits, log_z=log_z, num_examples=len(bank))


def candidates_loss(v, bank, candidates):
    logits = losses.bank_logits(v, bank, candidates, temperature=T)
    return losses.softmax_over_candidates(logits)


def bank_loss(v, bank, index):
    return losses.softmax_over_bank(v, bank, index, temperature=T)


def test_values_match_the_oracles():
    v, bank, index, candidates = problem()
    found, _ = nce_loss(v, bank, candidates, 3.0)
    np.testing.assert_allclose(found, nce_oracle(v, bank, candidates, 3.0), rtol=1e-5)
    found, _ = candidates_loss(v, bank, candidates)
    np.testing.assert_allclose(found, softmax_oracle(v, bank, candidates), rtol=1e-5)
    found, _ = bank_loss(v, bank, index)
    np.testing.assert_allclose(found, softmax_oracle(v, bank, everyone(index, 50)), rtol=1e-5)


@pytest.mark.parametrize("name", ["nce", "candidates", "bank"])
def test_gradients_match_finite_differences_of_the_oracles(name):
    v, bank, index, candidates = problem(n=3, d=4, examples=9, drawn=5)
    loss, oracle = {
        "nce": (
            lambda v: nce_loss(v, bank, candidates, 2.0)[0],
            lambda v: nce_oracle(v, bank, candidates, 2.0),
        ),
        "candidates": (
            lambda v: candidates_loss(v, bank, candidates)[0],
            lambda v: softmax_oracle(v, bank, candidates),
        ),
        "bank": (
            lambda v: bank_loss(v, bank, index)[0],
            lambda v: softmax_oracle(v, bank, everyone(index, 9)),
        ),
    }[name]
    found = jax.grad(loss)(jnp.asarray(v))
    expected = np.zeros(v.shape)
    for at in np.ndindex(v.shape):
        step = np.zeros(v.shape)
        step[at] = 1e-5
        expected[at] = (oracle(v + step) - oracle(v - step)) / 2e-5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_nce_of_uniform_probabilities():
    """All P = 1/n: log(1 + K) + K log(1 + 1/K), whatever n."""
    drawn = 4096
    logits = jnp.full((2, 1 + drawn), 1.5)
    for examples in (10_000, 1_281_167):
        loss, _ = losses.nce(logits, log_z=1.5 + np.log(examples), num_examples=examples)
        np.testing.assert_allclose(loss, 9.31789, atol=2e-5)
    np.testing.assert_allclose(np.log(1 + drawn) + drawn * np.log1p(1 / drawn), 9.31789, atol=5e-6)


def test_softmax_of_equal_logits_is_the_log_of_their_number():
    loss, metrics = losses.softmax_over_candidates(jnp.full((4, 1 + 99), 0.3))
    np.testing.assert_allclose(loss, np.log(100), rtol=1e-6)
    assert metrics["contrastive_accuracy"] == 1  # nothing is closer
    v = np.eye(4, 8, dtype=np.float32)
    loss, _ = losses.softmax_over_bank(
        v, np.zeros((100, 8), np.float32), np.arange(4), temperature=T
    )
    np.testing.assert_allclose(loss, np.log(100), rtol=1e-6)


def test_accuracy_counts_the_embeddings_whose_own_row_is_the_nearest():
    v, bank, index, _ = problem()
    bank[index] = unit(bank[index] + 0.9 * v)
    s = v @ bank.T
    s[np.arange(16), index] -= 1e-9  # a tie would not count
    expected = np.mean(s.argmax(axis=1) == index)
    assert 0 < expected < 1
    np.testing.assert_allclose(bank_loss(v, bank, index)[1]["contrastive_accuracy"], expected)
    found = candidates_loss(v, bank, everyone(index, 50))[1]
    np.testing.assert_allclose(found["contrastive_accuracy"], expected)


def test_z_is_the_mean_over_the_batch_times_the_number_of_images():
    v, bank, _, candidates = problem()
    logits = losses.bank_logits(v, bank, candidates, temperature=T)
    expected = np.log(np.exp(np.asarray(logits, np.float64)).mean() * 50)
    np.testing.assert_allclose(losses.log_normalizer(logits, 50), expected, rtol=1e-6)
    # Low temperatures do not overflow.
    assert np.isfinite(losses.log_normalizer(logits * 100, 50))
    assert not np.any(jax.grad(lambda s: losses.log_normalizer(s, 50))(logits))


def test_the_bank_has_no_gradient():
    v, bank, index, candidates = problem()
    for loss in (
        lambda bank: nce_loss(v, bank, candidates, 2.0)[0],
        lambda bank: candidates_loss(v, bank, candidates)[0],
        lambda bank: bank_loss(v, bank, index)[0],
        lambda bank: losses.update_bank(bank, index, v, momentum=0.5).sum(),
    ):
        assert not np.any(jax.grad(loss)(jnp.asarray(bank)))
    assert not np.any(
        jax.grad(lambda v: losses.update_bank(bank, index, v, momentum=0.5).sum())(jnp.asarray(v))
    )


def test_gathering_few_rows_at_a_time_changes_nothing(monkeypatch):
    v, bank, _, candidates = problem(drawn=10)

    def value_and_gradient():
        def loss(v):
            return jnp.sum(jnp.sin(losses.bank_logits(v, bank, candidates, temperature=T)))

        return jax.jit(jax.value_and_grad(loss))(jnp.asarray(v))

    whole = value_and_gradient()
    monkeypatch.setattr(instance, "GATHERED_BYTES", 4 * 16 * 8 * 3)  # three candidates of eleven
    few = value_and_gradient()
    np.testing.assert_allclose(few[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(few[1], whole[1], rtol=1e-4, atol=1e-6)


def test_a_large_bank_goes_tile_by_tile():
    n, examples = 64, 70_000
    assert choose_one_sided(n, examples)[0] == "blockwise"
    v, bank, index, _ = problem(n=n, d=4, examples=examples)
    s = v.astype(np.float64) @ bank.T.astype(np.float64) / T
    expected = np.mean(np.log(np.exp(s).sum(axis=1)) - s[np.arange(n), index])
    np.testing.assert_allclose(bank_loss(v, bank, index)[0], expected, rtol=1e-5)


def test_updated_rows_move_half_way_and_keep_unit_length():
    v, bank, index, _ = problem()
    after = np.asarray(losses.update_bank(bank, index, v, momentum=0.5))
    np.testing.assert_allclose(after[index], unit(bank[index] + v), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-6)
    others = np.setdiff1d(np.arange(50), index)
    np.testing.assert_array_equal(after[others], bank[others])
    latest = losses.update_bank(bank, index, v, momentum=0.0)
    np.testing.assert_allclose(latest[index], v, rtol=1e-6, atol=1e-7)


def test_the_first_bank_is_uniform_with_rows_of_about_unit_length():
    bank = np.asarray(losses.init_bank(jax.random.key(0), 5000, 128))
    bound = np.sqrt(3 / 128)
    assert np.abs(bank).max() <= bound and np.abs(bank).max() > 0.99 * bound
    np.testing.assert_allclose(np.square(bank).sum(axis=1).mean(), 1, atol=0.01)
    # A row that was only half way to unit length has it after its first update.
    after = losses.update_bank(bank, np.arange(4), unit(bank[4:8]), momentum=0.5)
    np.testing.assert_allclose(np.linalg.norm(after[:4], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}], ids=str)
def test_eight_devices_equal_one_in_value_gradient_and_bank(sizes):
    v, bank, index, candidates = problem()

    def step(v, bank, index, candidates):
        value = nce_loss(v, bank, candidates, 2.0)[0] + bank_loss(v, bank, index)[0]
        logits = losses.bank_logits(v, bank, candidates, temperature=T)
        bank = losses.update_bank(bank, index, v, momentum=0.5)
        return value, (losses.log_normalizer(logits, 50), bank)

    f = jax.value_and_grad(step, has_aux=True)
    (value, aux), grad = jax.jit(f)(v, bank, index, candidates)
    mesh = parallel.make_mesh(**sizes)
    rows, whole = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
    with jax.set_mesh(mesh):
        placed = jax.device_put((v, bank, index, candidates), (rows, whole, rows, rows))
        (value8, aux8), grad8 = jax.jit(f, out_shardings=((None, whole), rows))(*placed)
    np.testing.assert_allclose(value8, value, rtol=1e-6)
    np.testing.assert_allclose(grad8, grad, rtol=1e-5, atol=1e-6)
    for found, expected in zip(aux8, aux, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_bad_input_is_named():
    v, bank, index, candidates = problem()
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        losses.bank_logits(v, bank, candidates, temperature=0)
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        losses.softmax_over_bank(v, bank, index, temperature=-1)
    with jax.set_mesh(parallel.make_mesh()), pytest.raises(ValueError, match="12 embeddings"):
        losses.softmax_over_bank(v[:12], bank, index[:12], temperature=T)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_nearest_keys_are_those_of_the_largest_product(monkeypatch, devices):
    """Also where a device compares a few rows at a time."""
    v, bank, *_ = problem()
    expected = bank[np.argmax(v.astype(np.float64) @ bank.T.astype(np.float64), axis=1)]
    monkeypatch.setattr(instance, "GATHERED_BYTES", 4 * 50 * 3)
    mesh = parallel.make_mesh(data=devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        rows = jax.device_put(v, NamedSharding(mesh, P("data")))
        got = jax.jit(losses.nearest_keys)(rows, bank)
    np.testing.assert_array_equal(got, expected)
    grad = jax.grad(lambda v: losses.nearest_keys(v, bank).sum())(v)
    assert not np.any(grad)
