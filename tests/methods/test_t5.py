"""T5's own facts: its loss, its inputs and targets, its answers, and mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Vocabulary, Weights
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods import t5
from ssl_jax.pretrained.trained_run import TrainedRun
from tests.methods import descent, table
from tests.methods.contract import loss_and_aux, views_of

BATCH, LENGTH, V, EOT = 16, 24, 40, 3
TINY = {
    "steps": 100,
    "method.name": "t5",
    "method.chunk_size": 7,
    "model.name": "t5_tiny",
    "model.dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.head_dim": 8,
    "model.hidden_dim": 16,
}


def spec(sentinels=8, rows="stream", modality="text"):
    row, one = jax.ShapeDtypeStruct((LENGTH,), np.int32), jax.ShapeDtypeStruct((), np.int32)
    arrays = dict(tokens=row, segment=row, position=row, label=one, index=one)
    if rows == "stream":
        arrays["next_token"] = row
    last = tuple(range(V - 1, V - 1 - sentinels, -1))
    words = Vocabulary(
        V, pad=0, unk=1, cls=2, sep=EOT, mask=4, special=(0, 1, 2, 3, 4, *last), sentinels=last
    )
    return DataSpec(arrays=arrays, num_examples=1000, vocabulary=words, modality=modality)


def make(of=None, **overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    config = config_lib.apply(config_lib.base_config(), TINY)
    config = config_lib.resolve(config_lib.apply(config, changes))
    return t5.make(config, of or spec(), 100)


def texts(n=BATCH, seed=0):
    """Rows of a stream; some are not full."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, V - 8, (n, LENGTH + 1))
    end = np.where(np.arange(n) % 4 == 0, 15, LENGTH)[:, None]
    real = np.arange(LENGTH) < end
    batch = {
        "tokens": np.where(real, tokens[:, :-1], 0),
        "next_token": np.where(real, tokens[:, 1:], -1),
        "segment": real,
        "position": np.where(real, np.arange(LENGTH), 0),
        "index": np.arange(n),
        "label": np.full(n, -1),
    }
    return {name: x.astype(np.int32) for name, x in batch.items()}


KEYS = jax.random.split(jax.random.key(0), BATCH)


@functools.partial(jax.jit, static_argnums=0)
def loss(method, params, batch):
    views = views_of(method, KEYS, batch)
    step = jnp.zeros((), jnp.int32)
    w = Weights(params, {})
    return views, loss_and_aux(method, w, views, key=jax.random.key(1), step=step)


@functools.cache
def begun(**overrides):
    """A method and parameters that make confident predictions."""
    method = make(**overrides)
    params, buffers = jax.jit(method.init)(jax.random.key(0), texts())
    assert buffers == {}
    return method, jax.tree.map(lambda p: 2 * np.asarray(p), params)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_all_tokens_of_the_targets(tied):
    method, params = begun(model__tied=tied, method__z_weight=0.02)
    batch = texts()
    views, (value, aux) = loss(method, params, batch)
    targets = np.asarray(views["targets"])
    # 24 tokens: 4 are noise, in 1 span; 15 tokens: 2 in 1.
    assert (targets >= 0).sum(axis=1).tolist() == [4, 6, 6, 6] * 4
    assert (targets[:, 0] == V - 1).all() and (targets.max(axis=1) == V - 1).all()
    written = np.pad(np.maximum(targets, 0), ((0, 0), (1, 0)))[:, :-1]
    text = {**views["text"], "written": written}
    (_, out), _ = method.encoder.apply(params["encoder"], {}, text, train=False)
    net = params["encoder"]
    e = np.float64((net["embed"]["token"] if tied else net["output"])["embedding"])
    losses, plain, hits = [], [], []
    for row, place in np.argwhere(targets >= 0):
        logits = e @ np.float64(out["written"][row, place])
        log_z = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
        plain.append(log_z - logits[targets[row, place]])
        losses.append(plain[-1] + 0.02 * log_z**2)
        hits.append(logits.argmax() == targets[row, place])
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["accuracy"], np.mean(hits), rtol=1e-6)
    assert aux.weight == len(losses)
    rows = jax.jit(method.held_out)(Weights(params, {}), KEYS, batch)
    # Held-out scores are without the z-loss, of missing tokens alone.
    missing = (targets >= 0) & (targets != V - 1) & (targets != EOT)
    of_missing = missing[targets >= 0]
    np.testing.assert_array_equal(rows["weights"], missing)
    np.testing.assert_allclose(rows["loss"].sum(), np.sum(np.array(plain)[of_missing]), rtol=1e-5)
    assert rows["hits"].sum() == np.sum(np.array(hits)[of_missing])
    assert rows["count"].sum() == of_missing.sum()


def test_spans_are_a_function_of_key_and_text():
    method, batch = make(method__noise_rate=0.5), texts()
    draw = jax.jit(lambda keys: views_of(method, keys, batch))
    one, again, other = draw(KEYS), draw(KEYS), draw(KEYS[::-1])
    np.testing.assert_array_equal(one["targets"], again["targets"])
    assert (np.asarray(one["targets"]) != np.asarray(other["targets"])).any(axis=1).sum() > 8


@functools.cache
def descend(devices, micro_batch_size):
    """Metrics and parameters after a step of plain descent."""
    method = make()
    tx, first = descent.begin(method, texts())
    return descent.descend(
        method, tx, first, texts(), devices=devices, micro_batch_size=micro_batch_size
    )


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "micro_batch_size"), [(1, 4), (8, 8)])
def test_devices_and_micro_batches_take_one_mean_over_all_targets(devices, micro_batch_size):
    expected, params = descend(1, None)
    metrics, other = descend(devices, micro_batch_size)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for path, leaf in params.items():
        np.testing.assert_allclose(other[path], leaf, atol=2e-6, err_msg=path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained model of the text of a licence, whose every token is made confident."""
    config = table.ROWS["t5"].load(model__dropout=0.0)
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    weights = experiment.init_state().weights
    weights = weights._replace(params=jax.tree.map(lambda p: 3 * p, weights.params))
    folder = tmp_path_factory.mktemp("run")
    (folder / "tokenizer.json").write_text(source.tokenizer_json())
    return TrainedRun(config, experiment, 0, weights, str(folder))


def test_an_answer_is_that_of_the_prompt_alone(run):
    prompts = ["Licensed under <extra_id_0> the", "each Contributor<extra_id_1>", "a"]
    options = dict(max_new_tokens=8, temperature=0.0)
    together = run.generate(prompts, **options)
    assert len(together) == 3 and any(together)
    assert [run.generate([prompt], batch_size=3, **options)[0] for prompt in prompts] == together
    assert run.generate(prompts[:1], max_new_tokens=200, temperature=0)  # no limit of its own
    with pytest.raises(UserError, match="the end token included; it does not fit .* of 30 tokens"):
        run.generate(["word " * 40], **options)
    with pytest.raises(UserError, match="the tokenizer has 8 sentinels, counted from 0"):
        run.generate(["<extra_id_8>"], **options)


def test_sentinels_are_read_and_written_by_name(run):
    """A decoder that always writes the same token writes its name."""
    vocabulary = run.experiment.spec.vocabulary
    first = vocabulary.sentinels[0]
    params = jax.tree.map(np.array, run.weights.params)
    embedding = params["encoder"]["embed"]["token"]["embedding"]
    norm = params["encoder"]["decoder"]["norm"]["scale"]
    # Only one channel is left of each vector: its sign chooses between two tokens.
    norm[1:] = 0
    embedding[:, 0] = np.where(np.arange(len(embedding)) == first, 1, 0)
    params["encoder"]["decoder"] = jax.tree.map(np.zeros_like, params["encoder"]["decoder"])
    params["encoder"]["decoder"]["norm"]["scale"] = norm
    embedding[vocabulary.pad, 0] = 1  # the start token: what the decoder's vectors are then
    embedding[vocabulary.pad, 1:] = 0
    embedding[first] = 2 * embedding[vocabulary.pad]
    other = TrainedRun(
        run.config, run.experiment, 0, run.weights._replace(params=params), run.workdir
    )
    (text,) = other.generate(["a"], max_new_tokens=2, temperature=0)
    assert text == "<extra_id_0><extra_id_0>"


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        (spec(modality="image"), {}, "t5 is for data of modality text"),
        (spec(), {"model__name": "gpt2_tiny"}, "'gpt2_tiny' is no encoder-decoder; use t5_tiny"),
        (spec(rows="packed"), {}, "set data.options.rows=stream"),
        (spec(sentinels=0), {}, "miss 1 spans, .* has 0 sentinels .*data.options.sentinels=100"),
        (spec(), {"method__noise_rate": 1.0}, "method.noise_rate is 1.0"),
    ],
)
def test_mistakes_are_named(of, change, message):
    with pytest.raises(UserError, match=message):
        make(of, **{**{"model__name": "t5_tiny"}, **change})
