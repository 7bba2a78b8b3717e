import ast
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core.errors import UserError
from ssl_jax.evals.features import extract
from tests.evals.two_processes import run_in_two_processes


def _rows(rng, n):
    return {
        "image": rng.integers(0, 256, (n, 4, 4, 1)).astype(np.uint8),
        "label": rng.integers(-1, 3, n).astype(np.int32),
        "index": rng.permutation(n).astype(np.int32),
    }


def _encode(batch):
    flat = batch["image"].reshape(batch["image"].shape[0], -1) / 255.0
    return {"h": flat, "z": (2 * flat[:, :3]).astype(jnp.bfloat16)}


def _batches(rows, size):
    """Batches of `size`, the last one padded with rows that must not survive."""
    n = len(rows["label"])
    for first in range(0, n, size):
        index = np.arange(first, first + size)
        batch = {name: array[np.minimum(index, n - 1)] for name, array in rows.items()}
        yield batch | {"mask": index < n}


def test_rows_are_complete_unpadded_and_sorted_by_index():
    rows = _rows(np.random.default_rng(0), 21)
    seen = []

    def encode(batch):
        seen.append(set(batch))
        return _encode(batch)

    got = extract(encode, _batches(rows, 8))
    order = np.argsort(rows["index"])
    np.testing.assert_array_equal(got["index"], np.arange(21))
    np.testing.assert_array_equal(got["label"], rows["label"][order])
    expected = rows["image"][order].reshape(21, -1) / np.float32(255)
    np.testing.assert_allclose(got["h"], expected, rtol=1e-6)
    assert got["z"].dtype == np.float32 and got["label"].dtype == np.int32
    assert all("mask" not in names for names in seen)  # one signature, so one compilation


def test_order_and_size_of_batches_do_not_matter():
    rows = _rows(np.random.default_rng(1), 24)
    shuffled = np.random.default_rng(2).permutation(24)
    one = extract(_encode, _batches(rows, 24))
    many = extract(_encode, _batches({k: v[shuffled] for k, v in rows.items()}, 5))
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])


@pytest.mark.parametrize("gather", [None, "allgather"])
def test_sharded_batches(gather):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P("data"))
    rows = _rows(np.random.default_rng(3), 21)
    if gather:
        gather = functools.partial(multihost_utils.process_allgather, tiled=True)
    batches = ({k: jax.device_put(v, sharding) for k, v in b.items()} for b in _batches(rows, 8))
    got = extract(jax.jit(_encode), batches, gather=gather)
    expected = extract(_encode, _batches(rows, 8))
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)


def test_gather_sees_everything_that_has_rows():
    rows = _rows(np.random.default_rng(4), 6)
    asked = []

    def gather(arrays):
        asked.append(set(arrays))
        return jax.device_get(arrays)

    extract(_encode, _batches(rows, 6), gather=gather)
    assert asked == [{"h", "z", "label", "index", "mask"}]


def test_errors():
    with pytest.raises(UserError, match="the split is empty"):
        extract(_encode, [])
    empty = {**_rows(np.random.default_rng(0), 4), "mask": np.zeros(4, bool)}
    with pytest.raises(UserError, match="the split is empty"):
        extract(_encode, [empty])
    with pytest.raises(ValueError, match=r"'h' have shape \(3, 2\) for a batch of 4"):
        extract(lambda batch: {"h": jnp.zeros((3, 2))}, [_rows(np.random.default_rng(0), 4)])


_PROCESS = """
import functools
import numpy as np
from jax.experimental import multihost_utils
from ssl_jax import evals
from ssl_jax.evals.features import extract

mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.sharding.NamedSharding(mesh, jax.P("data"))
rng = np.random.default_rng(0)
label = rng.integers(0, 3, 20)
image = (np.eye(3)[label] + 0.3 * rng.normal(size=(20, 3))).astype(np.float32)
batches = []
for first in range(0, 20, 8):  # the last batch is half padding
    mine = first + 4 * process + np.arange(4)
    rows = np.minimum(mine, 19)
    local = {"image": image[rows], "label": label[rows], "index": rows, "mask": mine < 20}
    put = functools.partial(jax.make_array_from_process_local_data, sharding)
    batches.append({name: put(array) for name, array in local.items()})
encode = jax.jit(lambda batch: {"h": 2 * batch["image"]})
try:
    extract(encode, batches)
except ValueError as error:
    assert "spans several processes" in str(error)
else:
    raise AssertionError("no error without gather")
gather = functools.partial(multihost_utils.process_allgather, tiled=True)
got = extract(encode, batches, gather=gather)
np.testing.assert_array_equal(got["h"], 2 * image)
np.testing.assert_array_equal(got["label"], label)
with jax.set_mesh(mesh):  # the other process's devices are in the ambient mesh
    config = {"knn": {"k": 3}, "linear": {"num_l2": 2}, "few_shot": {"shots": (1, 2), "draws": 2}}
    print(evals.evaluate(["knn", "linear", "few_shot"], got, got, config=config))

# With enough rows for the devices of both processes, each process has the rows of its own devices.
from ssl_jax.evals import nearest, ranking, scores

rows = ranking.Rows(got["h"], got["label"])
alone = ranking.score(rows), nearest.neighbours(got["h"], got["h"], 3)
scores.ROWS_PER_DEVICE = 2
assert scores.shared_mesh(20, None).size == 4
for own, shared in zip(alone[0], ranking.score(rows), strict=True):
    np.testing.assert_array_equal(own, shared)
for own, shared in zip(alone[1], nearest.neighbours(got["h"], got["h"], 3), strict=True):
    np.testing.assert_allclose(own, shared, rtol=1e-6)
"""


@pytest.mark.slow
def test_two_processes_evaluate_alike():
    outputs = run_in_two_processes(_PROCESS)
    first, second = (ast.literal_eval(out.splitlines()[-1]) for out in outputs)
    assert first == second and first["linear/top1"] > 0.8
