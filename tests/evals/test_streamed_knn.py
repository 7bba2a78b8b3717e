"""The bank on the devices: the value of `knn` on any number of devices, and what each holds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import streamed_knn
from ssl_jax.evals.model import Model
from tests.evals.stub_prober import StubProber

CLASSES, D = 7, 12
MODEL = Model(lambda batch: {"h": batch["x"]})


@dataclasses.dataclass(frozen=True)
class Source:
    x: np.ndarray
    label: np.ndarray

    def __len__(self):
        return len(self.label)


class Prober(StubProber):
    """Batches of 64 that know the numbers of their examples."""

    def batches(self, source, indices=None, *, batch_size=64):
        indices = np.arange(len(source)) if indices is None else np.asarray(indices)
        numbered = dataclasses.replace(source, label=source.label)
        batches = super().batches(numbered, indices, batch_size=batch_size)
        for step, batch in enumerate(batches):
            rows = indices[step * batch_size : (step + 1) * batch_size]
            rows = np.pad(rows, (0, batch_size - len(rows))).astype(np.int32)
            yield {**batch, "index": jax.device_put(rows, batch["label"].sharding)}


def source(n, seed, repeated=False):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, n)
    x = np.eye(CLASSES, D)[label] + 0.5 * rng.normal(size=(n, D))
    if repeated:  # equal similarities, which only the order of the examples can tell apart
        x = x[rng.integers(0, 20, n)]
    return Source(x.astype(np.float32), label.astype(np.int32))


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("k", [1, 25])
def test_the_value_is_that_of_knn_on_any_number_of_devices(k, repeated):
    train, test = source(300, 0, repeated), source(90, 1)
    train.label[[3, 200]] = -1
    test.label[5] = -1
    rows = [{"h": part.x, "label": part.label} for part in (train, test)]
    expected = evals.evaluate(["knn"], *rows, num_classes=CLASSES, config={"knn": {"k": k}})
    for devices in (1, 8):
        prober = Prober(train, test, CLASSES, devices)
        with jax.set_mesh(prober.mesh):
            got = streamed_knn.evaluate_model(MODEL, prober, k=k)
        assert {f"knn/{name}": value for name, value in got.items()} == expected


def test_each_device_keeps_its_part_only():
    train, test = source(1000, 0), source(64, 1)
    prober = Prober(train, test, CLASSES, 8)
    with jax.set_mesh(prober.mesh):
        bank, count = streamed_knn.fill(MODEL, prober, "h")
    assert count == 1000
    sizes = [sum(part.addressable_shards[i].data.nbytes for part in bank) for i in range(8)]
    assert sizes == [128 * (D + 2) * 4] * 8  # 1,024 rows over 8 devices
    examples = np.asarray(bank.example).reshape(8, 128)
    assert (np.diff(examples[examples < 1000].reshape(1, -1)) != 0).all()
    for row in examples:  # in order, as equal similarities need it
        assert (np.diff(row[row < 1000]) > 0).all()
    kept = np.sort(examples[examples < 1000])
    np.testing.assert_array_equal(kept, np.arange(1000))


def test_more_neighbours_than_examples_and_bad_features():
    train, test = source(40, 0), source(20, 1)
    prober = Prober(train, test, CLASSES, 8)
    with jax.set_mesh(prober.mesh):
        assert streamed_knn.evaluate_model(MODEL, prober)["k"] == 40
        for split in ("train", "test"):
            bad = {"train": train, "test": test}
            x = bad[split].x.copy()
            x[3, 0] = np.nan
            bad[split] = Source(x, bad[split].label)
            with pytest.raises(UserError, match=f"features of the {split} split are not finite"):
                streamed_knn.evaluate_model(MODEL, Prober(*bad.values(), CLASSES, 8))
        nothing = Source(train.x, np.full(40, -1, np.int32))
        with pytest.raises(UserError, match="needs labelled train examples"):
            streamed_knn.evaluate_model(MODEL, Prober(nothing, test, CLASSES, 8))
        tokens = Model(lambda batch: {"h": jnp.stack([batch["x"]] * 2, axis=1)})
        with pytest.raises(UserError, match="takes one vector an example"):
            streamed_knn.evaluate_model(tokens, prober)
