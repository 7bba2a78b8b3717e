"""Features of which each process has its own rows, and the linear probe on them."""

import ast
import types

import jax
import numpy as np
import pytest

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import linear, on_features, scores
from ssl_jax.evals.features import extract
from ssl_jax.evals.split_rows import Layout, SplitRows
from ssl_jax.run import probing
from tests.evals.two_processes import run_in_two_processes


def parts(x, own=(range(0, 4), range(4, 10))):
    """The rows of two processes."""
    return [SplitRows(x[list(rows)], np.array(rows), len(x)) for rows in own]


def joined(rows):
    whole = np.full(rows[0].shape, np.nan)
    for part in rows:
        whole[part.numbers] = part.values
    return whole


def test_rows_are_kept_and_frames_flattened_as_in_the_whole():
    x = np.arange(60.0).reshape(10, 3, 2)
    mask = np.array([0, 1, 1, 0, 0, 1, 0, 1, 1, 1], bool)
    own = ((0, 3, 4, 9), (1, 2, 5, 6, 7, 8))
    kept = [part.kept(mask) for part in parts(x, own)]
    np.testing.assert_array_equal(joined(kept), x[mask])
    flat = [part.flattened() for part in kept]
    assert flat[0].shape == (18, 2) and flat[1].ndim == 2 and len(flat[0]) == 18
    np.testing.assert_array_equal(joined(flat), x[mask].reshape(-1, 2))
    assert all((np.diff(part.numbers) > 0).all() for part in flat)


def test_extraction_keeps_the_rows_of_a_process():
    """Batches in any order with padding; the rows of two processes are every other two."""
    rng = np.random.default_rng(0)
    index = rng.permutation(21)
    x = rng.normal(size=(21, 3)).astype(np.float32)
    batches = []
    for first in range(0, 24, 8):
        rows = np.minimum(np.arange(first, first + 8), 20)
        mask = np.arange(first, first + 8) < 21
        batches.append({"x": x[rows], "index": index[rows], "mask": mask, "label": rows % 3})

    def encode(batch):
        return {"h": jax.numpy.asarray(batch["x"])}

    whole = extract(encode, batches)
    halves = []
    for process in range(2):
        numbers = np.flatnonzero(np.arange(8) // 2 % 2 == process)
        got = extract(
            encode, batches, split=("h",), own_rows=lambda a, n=numbers: (n, np.asarray(a)[n])
        )
        np.testing.assert_array_equal(got["label"], whole["label"])
        assert got["h"].shape == (21, 3) and len(got["h"].values) < 13
        halves.append(got["h"])
    np.testing.assert_array_equal(joined(halves), whole["h"])


def data(n, seed, classes=5):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n).astype(np.int32)
    h = np.eye(classes, 8)[label] + 0.5 * rng.normal(size=(n, 8))
    return {"h": h.astype(np.float32), "label": label}


def all_of(rows):
    h = rows["h"]
    return {**rows, "h": SplitRows(h, np.arange(len(h)), len(h))}


def test_one_process_with_all_rows_is_the_same_bit_for_bit():
    train, test = data(203, 0), data(60, 1)
    options = dict(num_l2=3, max_iterations=20)
    whole, apart = {}, {}
    expected = linear.evaluate(
        train, test, num_classes=5, devices=jax.devices(), outcomes=whole, **options
    )
    got = linear.evaluate(all_of(train), all_of(test), num_classes=5, outcomes=apart, **options)
    assert got == expected
    np.testing.assert_array_equal(apart["predicted"], whole["predicted"])


@pytest.mark.parametrize("n, max_rows", [(7, 128), (203, 4), (16, 1)])
def test_a_layout_gives_back_the_order_of_the_examples(n, max_rows):
    mesh = scores.shared_mesh(None, None)
    values = np.arange(10, 10 + n)
    for h in (np.zeros((n, 2)), SplitRows(np.zeros((n, 2)), np.arange(n), n)):
        layout = Layout.of(h, mesh, max_rows)
        placed = layout.put(values, np.int32, fill=-1)
        assert placed.shape[1] <= max_rows and placed.shape[0] % mesh.size == 0
        np.testing.assert_array_equal(layout.restored(placed), values)
        padding = np.asarray(placed).size - n
        assert (np.asarray(placed) == -1).sum() == padding


def test_bad_features_and_missing_labels_of_split_rows():
    train, test = data(40, 0), data(20, 1)
    bad = {**train, "h": train["h"].copy()}
    bad["h"][3] = np.nan
    with pytest.raises(UserError, match="1 of 40 train examples are not finite"):
        evals.evaluate(["linear"], all_of(bad), all_of(test), num_classes=5)
    some = {**train, "label": np.where(np.arange(40) % 4, train["label"], -1)}
    config = {"linear": {"num_l2": 1, "max_iterations": 5}}
    got = evals.evaluate(["linear"], all_of(some), all_of(test), num_classes=5, config=config)
    expected = evals.evaluate(
        ["linear"], some, test, num_classes=5, config=config, devices=jax.devices()
    )
    assert got == expected


@pytest.mark.parametrize("shape", ((0, 3), (0, 2, 3)))
def test_a_process_may_have_no_row_of_a_split(shape):
    rows = {"h": SplitRows(np.zeros(shape), np.zeros(0, int), 5)}
    on_features._check_features("test", rows, "h")


def test_which_outputs_stay_with_their_processes(monkeypatch):
    many = scores.ROWS_PER_DEVICE * jax.device_count()
    chosen = evals.load_all(["linear", "knn"], {"linear": {"feature": "z"}})
    assert probing.split_outputs(chosen, "h", many) == frozenset()  # one process
    monkeypatch.setattr(probing, "jax", types.SimpleNamespace(process_count=lambda: 2))
    assert probing.split_outputs(chosen, "h", many) == {"z"}
    assert probing.split_outputs(chosen, "z", many) == frozenset()  # kNN needs it whole
    assert probing.split_outputs(chosen, "h", many - 1) == frozenset()
    assert probing.split_outputs(evals.load_all(["linear"]), "h", many) == {"h"}


_PROCESS = """
import zlib
import numpy as np
from ssl_jax import evals, parallel
from ssl_jax.evals import linear, scores
from ssl_jax.evals.features import extract
from tests.evals.test_split_rows import data

mesh = parallel.make_mesh()
encode = jax.jit(lambda batch: {"h": batch["x"] * 2})


def batches(part):
    n = len(part["label"])
    local = parallel.local_rows(mesh, 16)
    order = np.random.default_rng(5).permutation(n)
    for first in range(0, n, 16):  # the last one is padded
        number = first + local
        rows = order[np.minimum(number, n - 1)]
        batch = {"x": part["h"][rows], "label": part["label"][rows], "index": rows,
                 "mask": number < n}
        yield parallel.to_global(batch, mesh, local, 16)


def features(part, split):
    own = lambda array: parallel.own_rows(array, mesh)
    return extract(encode, batches(part), gather=parallel.gather, split=split, own_rows=own)


train, test = data(203, 0), data(61, 1)
train["label"][[3, 50]] = -1
splits = [features(part, ("h",)) for part in (train, test)]
whole = [features(part, ()) for part in (train, test)]
np.testing.assert_array_equal(whole[0]["h"], 2 * train["h"])
own = splits[0]["h"]
assert own.shape == (203, 8) and 90 < len(own.values) < 113, len(own.values)
np.testing.assert_array_equal(own.values, whole[0]["h"][own.numbers])

config = {"linear": {"num_l2": 2, "max_iterations": 6}}  # each step waits for both
found = []
for part, devices in ((splits, None), (whole, None), (whole, jax.local_devices()[:1])):
    outcomes = {}
    values = evals.evaluate(
        ["linear"], *part, num_classes=5, config=config, devices=devices, outcomes=outcomes
    )
    found.append((values, outcomes["linear"]["predicted"]))
# From here on the features of both are enough for the devices of both.
scores.ROWS_PER_DEVICE = 8
assert scores.shared_mesh(203, None).size == 4
found.append((evals.evaluate(["linear"], *whole, num_classes=5, config=config), found[0][1]))
for values, predicted in found[1:]:
    np.testing.assert_array_equal(predicted, found[0][1])
    for name in ("top1", "mean_class", "val_top1", "best_l2"):
        assert values[f"linear/{name}"] == found[0][0][f"linear/{name}"], name


def probe(h, label, mesh):
    with jax.set_mesh(mesh):
        layout = linear.layout_of(h, 5, mesh)
        rows = linear.place(h, label, np.ones(len(h)), layout)
        rows = rows._replace(x=linear.rescale(rows.x, *linear.moments(rows, standardize=True)))
        return linear.fit(rows, 5, 1.0, mesh=mesh, tolerance=1e-7, max_iterations=500)


label = np.maximum(whole[0]["label"], 0)
apart = probe(own, label, scores.shared_mesh(None, None))
alone = probe(whole[0]["h"], label, scores.row_mesh(1, None))
close = dict(rtol=0, atol=5e-6)  # both stop where the float32 gradient ends
np.testing.assert_allclose(apart.kernel, alone.kernel, **close)
np.testing.assert_allclose(apart.bias - apart.bias[0], alone.bias - alone.bias[0], **close)
print([zlib.crc32(apart.kernel.tobytes()), found[0][0]["linear/top1"], len(own.values)])
"""


@pytest.mark.slow
def test_two_processes_fit_the_probe_of_one():
    outputs = run_in_two_processes(_PROCESS, timeout=300)
    first, second = (ast.literal_eval(out.splitlines()[-1]) for out in outputs)
    assert first[:2] == second[:2]  # bit for bit, so that both take the same steps
    assert first[1] > 0.5 and first[2] + second[2] == 203
