"""MoCo's own facts: its queue, its key encoder, its three dictionaries, its shuffling BatchNorm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import checkpoint, data, hlo, losses, optim, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.norm import interleave
from ssl_jax.optim import EmaState
from tests.methods import paper_scale
from tests.methods.contract import encode, loss_and_aux, views_of
from tests.methods.rows.row import BATCH
from tests.methods.table import ROWS
from tests.methods.test_methods import batches, build, run

SGD = dict(
    optimizer__name="sgd",
    optimizer__base_lr=0.1,
    optimizer__warmup_steps=0,
    optimizer__weight_decay=1e-4,
)


@pytest.fixture(scope="module")
def tiny():
    return build("moco-v1")


def loss_of(experiment, state, batch):
    """(params, ema_params) -> the method's loss of that batch."""
    method, n = experiment.method, len(batch["index"])
    views = views_of(method, jax.random.split(jax.random.key(1), n), batch)

    def loss(params, ema_params):
        w = Weights(params, state.buffers, ema_params)
        return loss_and_aux(method, w, views, key=jax.random.key(2), step=state.step)[0]

    return loss


def with_ema(state, change):
    """The state with another moving average."""
    is_ema = lambda node: isinstance(node, EmaState)  # noqa: E731
    opt_state = jax.tree.map(
        lambda node: node._replace(ema=jax.tree.map(change, node.ema)) if is_ema(node) else node,
        state.opt_state,
        is_leaf=is_ema,
    )
    return state.replace(opt_state=opt_state)


# --- The loss's closed forms, through the method's objective


def objective_of(q, k, queue, temperature=0.07):
    experiment, _ = build("moco-v1", method__temperature=temperature)
    buffers = {"queue": jnp.asarray(queue), "pointer": jnp.int32(0)}
    encoded = {"h": q, "q": q, "k": k, "index": jnp.arange(len(q))}
    method = experiment.method
    return method.objective(Weights({}, buffers), encoded, key=jax.random.key(0), step=jnp.int32(0))


def test_a_query_equal_to_its_key_and_orthogonal_to_the_queue():
    """log(1 + K exp(-1/t)) = 0.040135 at K = 65536, t = 0.07."""
    q = np.zeros((16, 8), np.float32)
    q[:, 0] = 1
    queue = np.random.default_rng(0).normal(size=(65536, 8)).astype(np.float32)
    queue[:, 0] = 0
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    loss, aux = objective_of(q, q, queue)
    np.testing.assert_allclose(loss, 0.040135, atol=1e-6)
    np.testing.assert_allclose(loss, np.log1p(65536 * np.exp(-1 / 0.07)), rtol=1e-4)
    assert aux.metrics["contrastive_accuracy"] == 1


def test_equal_logits_give_the_log_of_their_number():
    same = np.tile(np.eye(1, 8, dtype=np.float32), (16, 1))
    for temperature in (0.07, 0.2):
        loss, _ = objective_of(same, same, np.tile(same[:1], (48, 1)), temperature)
        np.testing.assert_allclose(loss, np.log(1 + 48), rtol=1e-6)


# --- The queue


def test_keys_take_the_place_of_the_oldest(tiny):
    experiment, source = tiny
    state, step = experiment.init_state(), experiment.compiled_train_step
    first = np.asarray(state.buffers["queue"])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    history = [first]
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, 4):
            pointer = int(state.buffers["pointer"])
            state, _, outputs = step(state, batch)
            queue = np.asarray(state.buffers["queue"])
            taken = np.arange(pointer, pointer + BATCH)
            np.testing.assert_array_equal(queue[taken], outputs["z"][:, 1])
            rest = np.setdiff1d(np.arange(48), taken)
            np.testing.assert_array_equal(queue[rest], history[-1][rest])
            np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
            assert int(state.buffers["pointer"]) == (pointer + BATCH) % 48
            history.append(queue)
    # After K / B = 3 steps none of the first keys is left; before, some were.
    kept = [np.any(np.all(queue[:, None] == first[None], axis=2)) for queue in history]
    assert kept == [True, True, True, False, False]


def test_the_loss_is_info_nce_against_the_queue_before_its_keys_enter(tiny):
    experiment, source = tiny
    state = experiment.init_state()
    (batch,) = batches(experiment, source, 1)
    with jax.set_mesh(experiment.mesh):
        after, metrics, outputs = experiment.compiled_train_step(experiment.init_state(), batch)
    q, k = np.asarray(outputs["z"][:, 0], np.float64), np.asarray(outputs["z"][:, 1], np.float64)
    positive = np.sum(q * k, axis=1) / 0.5
    negative = q @ np.asarray(state.buffers["queue"], np.float64).T / 0.5
    together = np.concatenate([positive[:, None], negative], axis=1)
    expected = np.mean(np.log(np.exp(together).sum(axis=1)) - positive)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert not np.array_equal(after.buffers["queue"], state.buffers["queue"])


# --- The key encoder


def test_the_key_encoder_approaches_the_query_encoder_geometrically():
    """theta_k = theta_q + m^t (theta_k0 - theta_q) while theta_q stands still."""
    experiment, source = build("moco-v1", optimizer__base_lr=0.0, optimizer__weight_decay=0.0)
    momentum, steps = experiment.method.hyper.momentum, 5
    assert 0.5 < momentum < 1
    state = with_ema(experiment.init_state(), lambda leaf: leaf + 0.1)
    query, key = by_path(state.params), by_path(state.weights.ema)
    # The step donates its state.
    query, key = ({p: np.asarray(x) for p, x in tree.items()} for tree in (query, key))
    step = experiment.compiled_train_step
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, steps):
            state, _, _ = step(state, batch)
    for path, leaf in by_path(state.params).items():
        np.testing.assert_array_equal(leaf, query[path])
        expected = query[path] + momentum**steps * (key[path] - query[path])
        np.testing.assert_allclose(by_path(state.weights.ema)[path], expected, atol=1e-6)


def test_a_steps_keys_come_from_an_average_with_the_steps_parameters_in_it(tiny):
    """As where the average is updated first: after one step it holds 1 - m of its update."""
    experiment, source = tiny
    start, _ = run(experiment, source, 0)
    after, _ = run(experiment, source, 1)
    momentum = experiment.method.hyper.momentum
    for path, leaf in by_path(after.weights.ema).items():
        first, second = by_path(start.params)[path], by_path(after.params)[path]
        expected = momentum * first + (1 - momentum) * second
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-7)
    assert set(by_path(after.weights.ema)) == set(by_path(after.params))  # no statistics


def test_no_gradient_reaches_the_key_encoder(tiny):
    experiment, source = tiny
    state = experiment.init_state()
    loss = loss_of(experiment, state, source.batch(np.arange(16)))
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=1))(state.params, state.weights.ema)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))
    # Although the loss depends on it.
    other = jax.tree.map(lambda leaf: leaf * 1.1 + 0.05, state.weights.ema)
    assert abs(jax.jit(loss)(state.params, other) - value) > 1e-3


# --- The other dictionaries


def test_end_to_end_has_one_encoder_and_a_gradient_through_the_keys():
    experiment, source = build("moco-end-to-end")
    method, state = experiment.method, experiment.init_state()
    assert state.weights.ema is None
    assert set(state.buffers) == {"encoder", "projector"}
    batch = source.batch(np.arange(16))
    images = views_of(method, jax.random.split(jax.random.key(1), 16), batch)["image"]

    def reference(params, through_keys):
        encode_key, _ = jax.random.split(jax.random.key(2))
        query_key, key_key = jax.random.split(encode_key)
        _, q, _ = method.embed(params, state.buffers, images[:, 0], key=query_key)
        dealt = interleave(images[:, 1], 8)
        _, k, _ = method.embed(params, state.buffers, dealt, key=key_key)
        k = interleave(k, 8)
        k = k if through_keys else jax.lax.stop_gradient(k)
        return losses.info_nce(q, k, temperature=method.hyper.temperature)[0]

    loss = loss_of(experiment, state, batch)
    found, found_grads = jax.jit(jax.value_and_grad(lambda p: loss(p, None)))(state.params)
    gradient = jax.jit(jax.value_and_grad(reference), static_argnums=1)
    value, grads = gradient(state.params, True)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    for path, leaf in by_path(grads).items():
        got = by_path(found_grads)[path]
        np.testing.assert_allclose(got, leaf, rtol=1e-3, atol=1e-5, err_msg=path)
    _, queries_only = gradient(state.params, False)
    kernel = "encoder/stage2/kernel"
    assert np.abs(by_path(queries_only)[kernel] - by_path(grads)[kernel]).max() > 1e-3


def test_the_bank_serves_keys_and_is_updated_by_queries():
    experiment, source = build("moco-bank")
    state = experiment.init_state()
    assert state.weights.ema is None
    bank = np.asarray(state.buffers["bank"])
    (batch,) = batches(experiment, source, 1)
    with jax.set_mesh(experiment.mesh):
        after, metrics, outputs = experiment.compiled_train_step(state, batch)
    q, index = np.asarray(outputs["z"][:, 0]), np.asarray(batch["index"])
    assert outputs["z"].shape == (16, 1, 8)  # one view
    mixed = 0.5 * bank[index] + 0.5 * q
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    found = np.asarray(after.buffers["bank"])
    np.testing.assert_allclose(found[index], mixed, rtol=1e-4, atol=1e-6)
    others = np.setdiff1d(np.arange(len(bank)), index)
    np.testing.assert_array_equal(found[others], bank[others])
    assert np.isfinite(metrics["loss"])


def test_of_the_bank_an_images_own_row_is_the_key_and_drawn_rows_are_the_others():
    """InfoNCE in float64; the rows of other images would give another loss."""
    experiment, _ = build("moco-bank")
    method, rng = experiment.method, np.random.default_rng(0)
    unit = lambda *shape: losses.unit_length(rng.normal(size=shape).astype(np.float32))  # noqa: E731
    bank, q = unit(method.num_examples, 8), unit(16, 8)
    index = rng.permutation(method.num_examples)[:16]
    q = losses.unit_length(q + 0.5 * bank[index])
    key = jax.random.key(5)
    encoded = {"h": q, "q": q, "index": jnp.asarray(index)}
    loss, aux = method.objective(Weights({}, {"bank": bank}), encoded, key=key, step=jnp.int32(0))
    drawn = np.asarray(jax.random.randint(key, (40,), 0, method.num_examples))

    def info_nce(own, others):
        queries, rows = np.asarray(q, np.float64), np.asarray(bank, np.float64)
        positive = np.sum(queries * rows[own], axis=1) / 0.5
        logits = np.concatenate([positive[:, None], queries @ rows[others].T / 0.5], axis=1)
        value = np.mean(np.log(np.exp(logits).sum(axis=1)) - positive)
        return value, np.mean(logits.argmax(axis=1) == 0)

    expected, accuracy = info_nce(index, drawn)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["contrastive_accuracy"], accuracy)
    for wrong in ((np.arange(16), drawn), (np.roll(index, 1), drawn), (index, drawn[::2])):
        assert abs(info_nce(*wrong)[0] - expected) > 1e-3


# --- Shuffling BatchNorm


def test_keys_come_back_in_the_order_of_their_queries(tiny):
    """Against every group of keys encoded alone."""
    experiment, source = tiny
    method, state = experiment.method, experiment.init_state()
    views = views_of(method, jax.random.split(jax.random.key(1), 16), source.batch(np.arange(16)))
    ema = jax.tree.map(lambda leaf: leaf * 1.1 + 0.05, state.weights.ema)
    encoded, updates = encode(
        method, Weights(state.params, state.buffers, ema), views, key=jax.random.key(0)
    )

    @jax.jit
    def alone(params, x):
        (h, _), buffers = method.encoder.apply(
            params["encoder"], state.buffers["encoder"], x, train=True
        )
        z, _ = method.projector.apply(
            params["projector"], state.buffers["projector"], h, train=True
        )
        return losses.unit_length(z), buffers

    order = np.asarray(interleave(jnp.arange(16), 8))
    for rows, image, params, name in (
        (np.arange(16), views["image"][:, 0], state.params, "q"),
        (order, views["image"][:, 1], ema, "k"),
    ):
        for group in rows.reshape(8, 2):
            expected, _ = alone(params, image[group])
            np.testing.assert_allclose(encoded[name][group], expected, rtol=1e-3, atol=1e-4)
    # The running statistics are the queries' alone.
    groups = views["image"][:, 0].reshape(8, 2, *views["image"].shape[2:])
    each = [alone(state.params, group)[1] for group in groups]
    for path, leaf in by_path(updates["encoder"]).items():
        mean = np.mean([by_path(one)[path] for one in each], axis=0)
        np.testing.assert_allclose(leaf, mean, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("batch_size", [256, 64])
def test_a_query_and_its_key_never_have_the_same_neighbours(batch_size):
    """At the paper's 8 groups: at most 1 in 8 of a query's group is in its key's group."""
    before = np.arange(batch_size).reshape(8, -1)
    after = np.asarray(interleave(jnp.arange(batch_size), 8)).reshape(8, -1)
    rows = batch_size // 8
    for example in range(batch_size):
        of_query = set(next(group for group in before if example in group))
        of_key = set(next(group for group in after if example in group))
        assert len(of_query & of_key) == rows // 8 < rows


@pytest.mark.parametrize("micro_batch_size", [None, pytest.param(128, marks=pytest.mark.slow)])
def test_images_are_sent_once_and_never_gathered(micro_batch_size):
    experiment, _ = build(
        "moco-v1", 8, batch_size=256, method__num_negatives=512, micro_batch_size=micro_batch_size
    )
    program = hlo.read(experiment.compiled_train_step)
    images = 32 * 16 * 16 * 4  # bytes of one view on a device
    keys = 32 * 8 * 4
    exchanged = [c for c in program.collectives if c.kind == "all-to-all"]
    assert sorted({c.bytes * c.trips for c in exchanged}) == [keys, images]
    assert sum(c.trips for c in exchanged) == 2 * (256 // (micro_batch_size or 256))
    gathered = [c for c in program.collectives if c.kind == "all-gather"]
    assert sum(c.bytes * c.trips for c in gathered) == 8 * keys  # into the queue
    reduced = [c for c in program.collectives if c.kind == "all-reduce"]
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_state.params))
    statistics = 4 * sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_state.buffers))
    assert sum(c.bytes * c.trips for c in reduced) < 2 * parameters + 2 * statistics
    assert not [c for c in program.collectives if c.kind in ("collective-permute",)]


@pytest.mark.slow
def test_micro_batches_have_groups_of_their_own_on_any_devices():
    options = dict(batch_size=32, micro_batch_size=16, method__num_negatives=64, **SGD)
    one, history1 = run(*build("moco-v1", 1, **options), 2)
    eight, history8 = run(*build("moco-v1", 8, **options), 2)
    np.testing.assert_allclose(history8[-1][0]["loss"], history1[-1][0]["loss"], rtol=1e-4)
    for (path, a), b in zip(
        by_path((one.params, one.buffers)).items(),
        jax.tree.leaves((eight.params, eight.buffers)),
        strict=True,
    ):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-5, err_msg=path)


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_on_fewer_devices(tmp_path):
    """Queue, pointer, key encoder and groups: eight devices for two steps, then 8, 4 and 1."""
    experiment, source = build("moco-v1", 8, **SGD)
    straight, history = run(experiment, source, 4)
    half, _ = run(experiment, source, 2)
    assert int(half.buffers["pointer"]) == 32
    with checkpoint.Checkpointer(tmp_path) as saves:
        saves.save(2, half, wait=True)
        for devices in (8, 4, 1):
            other, _ = build("moco-v1", devices, **SGD)
            state, _ = saves.restore(other.abstract_state)
            step = other.compiled_train_step
            with jax.set_mesh(other.mesh):
                for i, batch in enumerate(batches(other, source, 4)):
                    if i >= 2:
                        state, metrics, _ = step(state, batch)
            exact = devices == 8
            compare = np.testing.assert_array_equal if exact else _close
            compare(metrics["loss"], history[-1][0]["loss"])
            for (path, leaf), want in zip(
                by_path(state).items(), jax.tree.leaves(straight), strict=True
            ):
                compare(leaf, want, err_msg=f"{path} on {devices} devices")


def _close(found, expected, err_msg=""):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5, err_msg=err_msg)


# --- Configs


@pytest.mark.slow
def test_the_imagenet_recipes_are_the_papers():
    v1, v2 = (paper_scale.build(f"moco_v{version}.py:imagenet") for version in (1, 2))
    epoch = v1.length.steps_per_epoch
    rates = [float(v1.schedule(e * epoch)) for e in (0, 119, 121, 159, 161)]
    np.testing.assert_allclose(rates, [0.03, 0.03, 0.003, 0.003, 0.0003], rtol=1e-4)
    assert (v1.method.hyper.temperature, v2.method.hyper.temperature) == (0.07, 0.2)
    np.testing.assert_allclose(float(v2.schedule(100 * epoch)), 0.015, rtol=1e-3)
    assert optim.count_excluded(v1.abstract_state.params, v1.config.optimizer.exclude)[1] == 0
    h = jax.ShapeDtypeStruct((1, 2048), jnp.float32)
    for method, layers in ((v1.method, 1), (v2.method, 2)):
        projector, _ = jax.eval_shape(method.projector.init, jax.random.key(0), h)
        assert set(projector) == {f"dense{i + 1}" for i in range(layers)}
        assert all(set(layer) == {"kernel", "bias"} for layer in projector.values())
        assert projector[f"dense{layers}"]["kernel"].shape == (2048, 128)
        assert (method.hyper.num_negatives, method.ema_decay) == (65536, 0.999)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method__num_negatives": 40}, "num_negatives 40.*batch_size 16.*use 32 or 48"),
        ({"method__num_negatives": 8}, "num_negatives 8 must be a multiple.*use 16"),
        ({"method__bn_groups": 3}, "bn_groups 3 has to cut 16 examples"),
        ({"method__bn_groups": 16}, "bn_groups 16 has to cut 16 examples.*at least two"),
        ({"micro_batch_size": 8}, "bn_groups 8 has to cut 8 examples"),
    ],
)
def test_bad_values_are_named(change, message):
    config = ROWS["moco-v1"].load(**change)
    with pytest.raises(UserError, match=message):
        Experiment.build(config, data.spec_from_config(config.data), parallel.make_mesh())


def test_groups_have_to_be_a_multiple_of_the_devices():
    experiment, _ = build(
        "moco-v1", 8, method__bn_groups=4, batch_size=32, method__num_negatives=64
    )
    with pytest.raises(UserError, match="bn_groups 4.*multiple of the 8 devices.*use 8"):
        _ = experiment.compiled_train_step


def test_the_preflight_says_what_the_dictionary_is(tiny):
    said = dict(tiny[0].method.preflight(16))
    assert said["dictionary"] == "queue of 48 keys, the oldest 3 steps old"
    assert said["batch statistics"] == "of 8 groups, keys in other groups than their queries"
    for groups in (None, 1):
        said = dict(build("moco-v1", method__bn_groups=groups)[0].method.preflight(16))
        assert said["batch statistics"] == (
            "of the whole batch, the same examples for queries and keys"
        )
    for groups, of in ((None, "the whole batch"), (1, "the whole batch"), (8, "8 groups")):
        said = dict(build("moco-bank", method__bn_groups=groups)[0].method.preflight(16))
        assert said["dictionary"] == "40 random rows of a bank of 1,438"
        assert said["batch statistics"] == f"of {of}, of queries only: keys are rows of the bank"
    said = dict(build("moco-end-to-end")[0].method.preflight(16))
    assert said["dictionary"] == "the batch's 15 other keys, with gradient"
