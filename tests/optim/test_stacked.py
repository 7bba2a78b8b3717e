"""A scanned transformer learns as the unrolled one does: its stacked arrays are single layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.models.layers import restack
from ssl_jax.models.transformer import TextEncoder
from ssl_jax.optim import make_optimizer
from tests.marks import slow_unless

STEPS = 5
RUN = dict(batch_size=256, total_steps=STEPS, steps_per_epoch=STEPS)
SIZES = dict(vocab_size=11, dim=8, depth=2, num_heads=2, max_length=6)


def part_of_net(path):
    part = path.partition("/")[0]
    return part if part == "embed" or part.startswith("layer") else "head"


@pytest.fixture(scope="module")
def nets():
    """scan_layers -> (parameters, gradient of a loss), with the same weights in both forms."""
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 11, (4, 6)), jnp.int32)
    text = {
        "tokens": tokens,
        "segment": jnp.ones_like(tokens),
        "position": jnp.broadcast_to(jnp.arange(6), tokens.shape),
    }
    target = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
    nets = {
        scan: TextEncoder(**SIZES, dropout=0.0, attention_dropout=0.0, scan_layers=scan)
        for scan in (False, True)
    }
    shapes = {
        scan: jax.eval_shape(lambda net=net: net.init(jax.random.key(0), text, train=False))
        for scan, net in nets.items()
    }
    unrolled = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32) / 3, shapes[False]["params"]
    )
    stacked = shapes[True]["params"]
    stacked = replace(stacked, restack(by_path(unrolled), list(by_path(stacked))))

    def gradient(net):
        def loss(params):
            h, _ = net.apply({"params": params}, text, train=False)
            return jnp.mean((h - target) ** 2)

        return jax.grad(loss)

    return {False: (unrolled, gradient(nets[False])), True: (stacked, gradient(nets[True]))}


@pytest.mark.parametrize(
    ("name", "per"),
    slow_unless(
        [("sgd", "group"), ("lars", "tensor")].__contains__,
        [(name, per) for name in ("sgd", "adamw", "lamb", "lars") for per in ("tensor", "group")],
    ),
)
def test_five_steps_are_the_same(nets, name, per):
    """With layer-wise decay, clipping and trust ratios."""
    section = dict(
        name=name, base_lr=0.2, lr_scaling="none", warmup_epochs=0.0, weight_decay=0.1, eps=1e-3,
        trust_coefficient=0.1, clip=dict(norm=0.02, per=per),
        groups=dict(layerwise=dict(decay=0.5)),
    )  # fmt: skip
    last = {}
    for scan, (params, grad) in nets.items():
        tx = make_optimizer(section, **RUN, param_group=part_of_net)

        @jax.jit
        def run(params, tx=tx, grad=grad):
            def step(_, carry):
                params, state = carry
                updates, state = tx.update(grad(params), state, params)
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(0, STEPS, step, (params, tx.init(params)))[0]

        last[scan] = by_path(run(params))
    first = by_path(nets[True][0])
    unrolled = {path: np.asarray(leaf) for path, leaf in last[False].items()}
    expected = restack(unrolled, list(first))
    assert set(expected) == set(last[True])
    for path, leaf in last[True].items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-3, atol=1e-5, err_msg=path)
    moved = np.abs(last[True]["layers/mlp/fc1/kernel"] - first["layers/mlp/fc1/kernel"])
    assert moved.max() > 1e-3
