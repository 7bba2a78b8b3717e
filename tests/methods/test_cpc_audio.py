"""CPC on audio: its loss through the method, its features, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Weights
from ssl_jax.methods import cpc_audio
from tests.methods import contract, table

LENGTH = Length(total_steps=10, steps_per_epoch=10, eval_every=10, checkpoint_every=10)


def made(**overrides):
    config = table.ROWS["cpc-audio"].load(**overrides)
    return cpc_audio.make(config, data.spec_from_config(config.data), LENGTH), config


def with_weights(method, config, n=4):
    source = data.from_config(config.data, seed=0)
    batch = source.batch(np.arange(0, 13 * n, 13))  # each of another utterance
    params, buffers = jax.jit(method.init)(jax.random.key(0), batch)
    return Weights(params, buffers), batch


def expected_loss(predictions, z, groups, negatives):
    """The loss of Eq. 4, one prediction at a time; and the accuracy of each step."""
    n, frames, _ = z.shape
    losses, accuracies = {}, {}
    for k, p in predictions.items():
        step, hits = [], []
        for i in range(n):
            for t in range(frames - k):
                allowed = {
                    "mixed": [(j, s) for j in range(n) for s in range(frames)],
                    "same": [(j, s) for j in range(n) for s in range(frames)
                             if groups[j] == groups[i]],
                    "current": [(i, s) for s in range(frames)],
                }[negatives]  # fmt: skip
                scores = np.array([p[i, t] @ z[j, s] for j, s in allowed])
                positive = p[i, t] @ z[i, t + k]
                step.append(np.log(np.exp(scores).sum()) - positive)
                hits.append(positive >= scores.max() - 1e-9)
        losses[k], accuracies[k] = np.mean(step), np.mean(hits)
    return np.mean(list(losses.values())), accuracies


@pytest.mark.parametrize("negatives", ["mixed", "same", "current"])
def test_the_loss_is_that_of_the_paper(negatives):
    method, config = made(method__negatives=negatives)
    w, batch = with_weights(method, config)
    batch["speaker"] = np.repeat(np.array([[0], [1], [0], [1]], np.int32), 20, axis=1)
    # Larger maps, so that scores differ.
    w.params["predictors"]["kernel"] *= 20
    views = contract.views_of(method, jax.random.split(jax.random.key(1), 4), batch)
    loss, aux = contract.loss_and_aux(method, w, views, key=jax.random.key(2), step=0)
    outputs = jax.jit(method.features)(w, batch)
    c, z = (np.asarray(outputs[name], np.float64) for name in ("frames", "latents"))
    kernel = np.asarray(w.params["predictors"]["kernel"], np.float64)
    predictions = {k: c[:, : c.shape[1] - k] @ kernel[k - 1] for k in (1, 2, 3)}
    expected, accuracies = expected_loss(predictions, z, batch["speaker"][:, 0], negatives)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for k, value in accuracies.items():
        np.testing.assert_allclose(aux.metrics[f"accuracy_step_{k}"], value, atol=0.03)
    if negatives != "current":
        return
    held_out = jax.jit(method.held_out)(w, jax.random.split(jax.random.key(0), 4), batch)
    for k, p in predictions.items():
        assert (np.asarray(held_out[f"step_{k}_count"]) == p.shape[1]).all()
        share = np.sum(held_out[f"step_{k}_hits"]) / np.sum(held_out[f"step_{k}_count"])
        np.testing.assert_allclose(share, accuracies[k], atol=0.03)
    assert set(held_out) == {
        *("count", "hits"),
        *(f"step_{k}_{name}" for k in predictions for name in ("count", "hits")),
    }


def test_constant_scores_have_the_loss_log_n():
    method, config = made()
    w, batch = with_weights(method, config)
    views = contract.views_of(method, jax.random.split(jax.random.key(1), 4), batch)
    untrained, _ = contract.loss_and_aux(method, w, views, key=jax.random.key(2), step=0)
    w.params["predictors"]["kernel"] *= 0
    constant, _ = contract.loss_and_aux(method, w, views, key=jax.random.key(2), step=0)
    np.testing.assert_allclose(constant, np.log(4 * 20), rtol=1e-5)
    assert abs(untrained - constant) < 0.1


def test_silence_and_extreme_samples_are_finite():
    method, config = made()
    w, batch = with_weights(method, config)
    for value in (0, 32_767, -32_768):
        audio = np.full_like(batch["audio"], value)
        views = contract.views_of(
            method, jax.random.split(jax.random.key(1), 4), {**batch, "audio": audio}
        )

        def loss(params, views=views):
            encoded, _ = method.encode(
                w._replace(params=params), views, key=jax.random.key(0), step=jnp.int32(0)
            )
            return method.objective(w, encoded, key=jax.random.key(0), step=jnp.int32(0))[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(w.params)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_what_does_not_fit_is_one_line():
    with pytest.raises(UserError, match="num_steps is 20, but a window has 20 frames"):
        made(method__num_steps=20)
    with pytest.raises(UserError, match="too short for the encoder"):
        made(data__options=ConfigDict(dict(num_generated=2, window=160)), model__padded=False)
    with pytest.raises(UserError, match="model 'convnet' does not read audio"):
        table_config = table.ROWS["cpc-audio"].load()
        table_config.model = ConfigDict(dict(name="convnet", widths=(4,)))
        cpc_audio.make(table_config, data.spec_from_config(table_config.data), LENGTH)
    with pytest.raises(UserError, match="negatives is 'same', but speech does not know its speak"):
        made(
            method__negatives="same",
            data__options=ConfigDict(dict(num_generated=2, window=3_200, targets=("phone",))),
        )
    with pytest.raises(UserError, match="cpc_audio is for data of modality audio, but digits"):
        config = table.ROWS["cpc-audio"].load()
        spec = data.spec_from_config(table.ROWS["simclr"].load().data)
        config.data.name = "digits"
        cpc_audio.make(config, spec, LENGTH)
