"""The arithmetic of a step: as its definition asks for it, as it is traced, as it is compiled."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from benchmarks import bert_tpu
from ssl_jax import data, hlo, parallel
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.flops import model_flops, traced_flops
from ssl_jax.run.loop import Run
from tests.hlo.test_programs import CONVOLUTIONS, convolution, multiply_adds, shape
from tests.methods.table import ROWS

# Wide and short, so that logits are as small a part of it as in BERT-base.
TINY = {
    "model.name": "bert_tiny",
    "model.depth": 1,
    "model.dropout": 0.0,
    "model.attention_dropout": 0.0,
    "data.options.vocab_size": 400,
    "dtype": "float32",
    **bert_tpu.UNROLLED,
}
BATCH = 8


def beside(experiment):
    """FLOPs of making the logits again for the gradient, and of the mean over the text, `h`."""
    method = experiment.method
    module = method.encoder.module
    places = method.max_predictions if method.hyper.gather else method.length
    return 2 * BATCH * module.dim * (places * module.vocab_size + method.length)


def asked(experiment, everywhere=False):
    method = experiment.method
    return bert_tpu.analytic_flops(
        method.encoder.module,
        rows=BATCH,
        length=method.length,
        predictions=method.length if everywhere else method.max_predictions,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"method.gather": False},
        {"model.scan_layers": True, "model.remat": "full", "micro_batch_size": 4},
    ],
    ids=("all logits", "again and again"),
)
def test_a_language_models_step_is_its_analytic_count(changes):
    experiment = bert_tpu.build(None, BATCH, TINY | {"model.attention_dropout": 0.1} | changes)
    everywhere = not experiment.method.hyper.gather
    assert model_flops(experiment) == asked(experiment, everywhere) + beside(experiment)


@pytest.mark.slow
def test_the_compiled_step_computes_little_else_and_far_less_than_logits_of_all_tokens():
    experiment = bert_tpu.build(None, BATCH, TINY)
    ours = hlo.read(experiment.compiled_train_step)
    assert ours.flops <= 1.02 * asked(experiment)
    everywhere = bert_tpu.build(None, BATCH, TINY | {"method.gather": False})
    assert model_flops(everywhere) >= 1.2 * ours.flops


def next_token_step(**changes):
    """A wide GPT on short rows, its step, and 6 FLOPs per weight and token with attention's."""
    row = ROWS["gpt"].load(
        model__dim=128,
        model__depth=2,
        model__dropout=0.0,
        data__num_examples=64,
        data__options__vocab_size=300,
        **changes,
    )
    experiment = Experiment.build(
        row, data.spec_from_config(row.data), parallel.make_mesh(devices=jax.devices()[:1])
    )
    module, length = experiment.method.encoder.module, experiment.method.length
    layers = module.depth * (6 * 12 * module.dim**2 * length + 12 * length**2 * module.dim)
    head = 6 * module.dim * module.vocab_size * length
    return experiment, row.batch_size * layers, row.batch_size * head


def test_stored_logits_are_computed_once():
    experiment, layers, head = next_token_step()
    again = head // 3
    mean = 2 * experiment.config.batch_size * experiment.method.length * 128  # over the text, `h`
    assert model_flops(experiment) == layers + head + again + mean
    stored, *_ = next_token_step(method__chunk_size=0)
    assert model_flops(stored) == layers + head + mean
    assert model_flops(stored) <= 1.03 * (layers + head)


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_convolutions_count_real_products_forward_and_backward(options):
    expected = 2 * multiply_adds(options, (9, 8), (3, 4), batch=4, inputs=6, outputs=10)
    convolve = convolution(options)
    x, w = shape(4, 9, 8, 6), shape(3, 4, 6, 10)
    assert traced_flops(convolve, x, w) == expected
    for argument in (0, 1):
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w))), argnums=argument)
        assert traced_flops(gradient, x, w) == 2 * expected


def test_loops_branches_and_devices_multiply():
    one = 2 * 8**3
    x = shape(8, 8)

    def looped(x):
        return lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ x), x)

    assert traced_flops(jax.jit(looped), x) == 5 * one

    def branched(i, x):
        return lax.switch(i, [lambda x: x @ x, lambda x: (x @ x) @ x, jnp.sin], x)

    assert traced_flops(branched, shape(dtype=jnp.int32), x) == 2 * one
    mesh = parallel.make_mesh(devices=jax.devices()[:4])
    rows = P("data")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=rows)
    def on_each(x):
        return x @ x.T

    assert traced_flops(on_each, shape(32, 8)) == 4 * one


def test_a_run_measures_its_utilisation_against_all_its_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "peak_flops", lambda kind: 1e12)
    monkeypatch.setattr("ssl_jax.run.loop.model_flops", lambda experiment: 3e9)
    run = Run(ROWS["simclr"].load(), str(tmp_path))
    assert run.mesh.size == 8
    measured = run._meter(0).measure(3)
    expected = measured["train/steps_per_s"] * 3e9 / 8e12
    assert measured["train/mfu"] == pytest.approx(expected)
