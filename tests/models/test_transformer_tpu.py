"""What the TPU compiler makes of a text encoder's training step."""

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("libtpu", reason="the TPU compiler is in the extra `aot`")

from ssl_jax import hlo, parallel
from ssl_jax.hardware import tpu
from ssl_jax.models import make_encoder


def program(tensor=1, **options):
    """Value and gradient over four chips, 64 texts of 512 tokens."""
    net = make_encoder(
        "bert_tiny", dim=256, num_heads=4, vocab_size=1000, dtype="bfloat16", dropout=0.0,
        scan_layers=True, **options,
    )  # fmt: skip
    mesh = parallel.make_mesh(devices=tpu.devices("v5e:2x2"), tensor=tensor)
    rows = parallel.batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((64, 512), jnp.int32, sharding=rows)
    text = dict(tokens=x, segment=x, position=x)
    params = jax.eval_shape(net.init, jax.random.key(0), text)[0]
    placed = parallel.state_shardings({"params": {"encoder": params}}, mesh)["params"]["encoder"]
    params = parallel.abstract_with(placed, params)

    def loss(params, text):
        (h, _), _ = net.apply(params, {}, text, train=True)
        return jnp.sum(jnp.sin(h))

    with jax.set_mesh(mesh), tpu.quiet():
        return jax.jit(jax.value_and_grad(loss)).lower(params, text).compile()


@pytest.mark.slow
def test_the_fused_kernel_runs_in_scanned_layers_and_saves_the_matrix_of_a_head():
    fused, plain = program(remat="dots"), program(remat="dots", attention="xla")
    # Forwards, once more for the backward pass, backwards.
    assert fused.as_text().count("tpu_custom_call") == 3
    assert plain.as_text().count("tpu_custom_call") == 0
    fused, plain = hlo.read(fused), hlo.read(plain)
    assert 0.95 < fused.flops / plain.flops < 1.15
    assert fused.unknown_loops == 0
    assert fused.temp_bytes < plain.temp_bytes
    assert fused.bytes_accessed < 0.7 * plain.bytes_accessed
    assert not [c for c in fused.collectives if c.kind == "all-gather"]


@pytest.mark.slow
def test_a_split_over_heads_sends_sums_and_weights_but_no_outputs_of_heads():
    split = hlo.read(program(tensor=2, remat="dots"))
    gathered = [c for c in split.collectives if c.kind == "all-gather"]
    outputs = 32 * 512 * 3 * 256 * 2  # bytes of queries, keys and values of a device's texts
    weights = 256 * 3 * 256 * 4
    assert gathered and max(c.bytes for c in gathered) <= weights < outputs
    # The sum behind attention and the one behind the MLP, forwards and backwards, in two layers.
    sums = [c for c in split.collectives if c.bytes == 32 * 512 * 256 * 2]
    assert {c.kind for c in sums} == {"all-reduce"} and sum(c.trips for c in sums) <= 2 * 4
