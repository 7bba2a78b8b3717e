"""What the TPU compiler makes of a text encoder's training step."""

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("libtpu", reason="the TPU compiler is in the extra `aot`")

from ssl_jax import hlo, parallel
from ssl_jax.hardware import tpu
from ssl_jax.models import make_encoder


def program(**options):
    """Value and gradient over four chips, 16 texts of 512 tokens on each."""
    net = make_encoder(
        "bert_tiny", dim=256, num_heads=4, vocab_size=1000, dtype="bfloat16", dropout=0.0,
        scan_layers=True, **options,
    )  # fmt: skip
    mesh = parallel.make_mesh(devices=tpu.devices("v5e:2x2"))
    rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    x = jax.ShapeDtypeStruct((64, 512), jnp.int32, sharding=rows)
    text = dict(tokens=x, segment=x, position=x)
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=whole),
        jax.eval_shape(net.init, jax.random.key(0), text)[0],
    )

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
