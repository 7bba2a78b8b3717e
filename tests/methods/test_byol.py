"""BYOL's own facts: its target, its forward passes, its recipes, and how it collapses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import data, losses, parallel
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import count_parameters
from ssl_jax.views.recipe import read_recipes
from tests.methods import paper_scale
from tests.methods.collapsing import watch
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.table import ROWS
from tests.methods.test_methods import build, run


@pytest.fixture(scope="module")
def tiny():
    config = ROWS["byol"].load(optimizer__warmup_steps=0)
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    return Experiment.build(config, source.spec, mesh), source


def drawn(tiny, n=8):
    """Parameters, other parameters for the target, buffers, views."""
    experiment, source = tiny
    state = experiment.init_state()
    other = experiment.init_state(seed=9).params
    target = {name: other[name] for name in ("encoder", "projector")}
    keys = jax.random.split(jax.random.key(0), n)
    views = views_of(experiment.method, keys, source.batch(np.arange(n)))
    return state.params, target, state.buffers, views


def forward(method, params, buffers, view):
    """h, z and the buffers after one forward pass of one view."""
    (h, _), encoder = method.encoder.apply(params["encoder"], buffers["encoder"], view, train=True)
    z, projector = method.projector.apply(params["projector"], buffers["projector"], h, train=True)
    return h, z, {**buffers, "encoder": encoder, "projector": projector}


@pytest.mark.slow
def test_every_view_has_its_own_forward_pass_online_and_in_the_target(tiny):
    method = tiny[0].method
    params, target, buffers, views = drawn(tiny)
    loss, aux = loss_and_aux(
        method, Weights(params, buffers, target), views, key=jax.random.key(1), step=jnp.int32(0)
    )
    p, t, z, h, after = [], [], [], [], buffers
    for view in (views[:, 0], views[:, 1]):
        h_view, z_view, after = forward(method, params, after, view)
        p_view, after["predictor"] = method.predictor.apply(
            params["predictor"], after["predictor"], z_view, train=True
        )
        p.append(p_view)
        z.append(z_view)
        h.append(h_view)
        t.append(forward(method, target, buffers, view)[1])
    expected = losses.byol(jnp.stack(p, axis=1), jnp.stack(t, axis=1))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(aux.outputs["h"], h[0], rtol=1e-6)
    np.testing.assert_allclose(aux.outputs["z"][:, 1], z[1], rtol=1e-6)
    # The running statistics are the online network's, moved by view 1 and then by view 2.
    for path, leaf in by_path(after).items():
        np.testing.assert_allclose(by_path(aux.buffers)[path], leaf, rtol=1e-6, err_msg=path)


def test_no_gradient_reaches_the_target(tiny):
    method = tiny[0].method
    params, target, buffers, views = drawn(tiny)

    @jax.jit
    @jax.value_and_grad
    def loss(target):
        return loss_and_aux(
            method,
            Weights(params, buffers, target),
            views,
            key=jax.random.key(1),
            step=jnp.int32(0),
        )[0]

    value, grads = loss(target)
    for path, grad in by_path(grads).items():
        assert not np.any(grad), path
    # It does depend on it.
    moved = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), target)
    assert abs(loss(moved)[0] - value) > 1e-4


def test_the_target_follows_encoder_and_projector_but_not_the_predictor(tiny):
    experiment, source = tiny
    before = experiment.init_state()
    assert set(before.weights.ema) == {"encoder", "projector"}
    for path, leaf in by_path(before.weights.ema).items():
        np.testing.assert_array_equal(leaf, by_path(before.params)[path], err_msg=path)
    after, history = run(experiment, source, 1)
    decay = experiment.method.hyper.target_decay
    assert history[0][0]["target_decay"] == np.float32(decay)
    new = by_path(after.params)
    assert any(np.any(np.asarray(new[p]) != leaf) for p, leaf in by_path(before.params).items())
    for path, leaf in by_path(after.weights.ema).items():
        expected = decay * by_path(before.params)[path] + (1 - decay) * new[path]
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-7, err_msg=path)


def test_tau_rises_from_its_base_to_one_along_half_a_cosine():
    method = paper_scale.build("byol.py:imagenet").method
    total = method.total_steps
    assert total == 1000 * (1_281_167 // 4096)
    tau = [float(method.ema_decay(jnp.int32(step))) for step in (0, total // 2, total)]
    np.testing.assert_allclose(tau, [0.996, 0.998, 1.0], atol=1e-6)
    k = total // 5
    expected = 1 - (1 - 0.996) * (1 + np.cos(np.pi * k / total)) / 2
    np.testing.assert_allclose(method.ema_decay(jnp.int32(k)), expected, atol=1e-6)


def test_a_constant_tau(tiny):
    config = ROWS["byol"].load(method__target_schedule="constant", method__target_decay=0.9)
    method = Experiment.build(config, tiny[1].spec, tiny[0].mesh).method
    assert method.ema_decay == 0.9
    z = jnp.ones((4, 2, 8))
    encoded = {"h": z[:, 0], "z": z, "p": z, "t": z}
    _, aux = method.objective(Weights({}, {}), encoded, key=None, step=jnp.int32(50))
    assert aux.metrics["target_decay"] == np.float32(0.9)
    assert "decay 0.9" in dict(method.preflight(16))["target"]


@pytest.mark.slow
def test_one_micro_batch_is_the_whole_batch():
    """The target's parameters pass through the shard_map that splits the batch."""
    sgd = dict(optimizer__name="sgd", optimizer__base_lr=0.1, optimizer__warmup_steps=0)
    whole, _ = run(*build("byol", 1, **sgd), 1)
    split, _ = run(*build("byol", 8, micro_batch_size=16, **sgd), 1)
    for path, leaf in by_path((whole.params, whole.weights.ema, whole.buffers)).items():
        got = by_path((split.params, split.weights.ema, split.buffers))[path]
        np.testing.assert_allclose(got, leaf, rtol=1e-3, atol=2e-5, err_msg=path)


def test_the_nets_are_the_papers():
    params = paper_scale.build("byol.py:imagenet").abstract_state.params
    counts = {name: count_parameters(net) for name, net in params.items()}
    assert counts == {"encoder": 23_508_032, "projector": 9_449_472, "predictor": 2_109_440}


@pytest.mark.parametrize(
    ("variant", "epochs", "peak", "weight_decay", "tau"),
    [
        ("imagenet", 1000, 3.2, 1.5e-6, 0.996),
        ("imagenet300", 300, 4.8, 1e-6, 0.99),
        ("imagenet100", 100, 7.2, 1e-6, 0.99),
        ("imagenet40", 40, 7.2, 1e-6, 0.97),
    ],
)
def test_the_imagenet_recipes_are_the_released_codes(variant, epochs, peak, weight_decay, tau):
    experiment = paper_scale.build(f"byol.py:{variant}")
    optimizer = experiment.config.optimizer
    assert experiment.length.total_steps == epochs * (1_281_167 // 4096)
    warm = 10 * experiment.length.steps_per_epoch
    np.testing.assert_allclose(experiment.schedule(warm), peak, rtol=1e-5)
    assert (optimizer.name, optimizer.momentum_order) == ("lars", "lr_outside")
    assert optimizer.weight_decay == weight_decay
    np.testing.assert_allclose(experiment.method.ema_decay(0), tau, rtol=1e-6)


def test_the_second_view_differs_in_blur_and_solarisation_alone():
    config = paper_scale.build("byol.py:imagenet").config
    one, two = read_recipes(config.views, 2)
    assert [step.op for step in one] == [step.op for step in two]
    for a, b in zip(one, two, strict=True):
        assert (a == b) == (a.op not in ("gaussian_blur", "solarize")), a.op
    chances = {step.op: (step.parameters["p"], other.parameters["p"])
               for step, other in zip(one, two, strict=True) if "p" in step.parameters}  # fmt: skip
    assert chances["gaussian_blur"] == (1.0, 0.1) and chances["solarize"] == (0.0, 0.2)


def test_normalised_views_are_normalised_in_evaluation_and_shown_as_they_were():
    """The row's digits with the recipe's last step."""
    plain, source = build("byol")
    config = ROWS["byol"].load(views__ops=("center_crop", "normalize"))
    with config.unlocked():
        config.views.normalize = dict(mean=(0.4,), std=(0.2,))
    normal = Experiment.build(config, source.spec, plain.mesh).method
    plain = plain.method
    batch = source.batch(np.arange(4))
    keys = jax.random.split(jax.random.key(0), 4)
    seen = views_of(normal, keys, batch)
    np.testing.assert_allclose(seen, (views_of(plain, keys, batch) - 0.4) / 0.2, atol=1e-5)
    assert float(seen.min()) < -0.5
    shown, as_they_were = (
        jax.jit(method.show)(None, keys, batch)["Augmented views"].pixels
        for method in (normal, plain)
    )
    np.testing.assert_allclose(shown, as_they_were, atol=1e-6)
    expected = (jax.jit(plain.eval_view)(batch["image"]) - 0.4) / 0.2
    np.testing.assert_allclose(jax.jit(normal.eval_view)(batch["image"]), expected, atol=1e-5)


def test_without_a_predictor_the_projections_are_compared(tiny):
    method = build("byol-no-predictor")[0].method
    params, buffers = jax.jit(method.init)(jax.random.key(0), tiny[1].batch(np.arange(4)))
    assert set(params) == set(buffers) == {"encoder", "projector"}
    z, t = jax.random.normal(jax.random.key(1), (2, 4, 2, 8))
    encoded = {"h": jnp.zeros((4, 8)), "z": z, "t": t}
    loss, _ = method.objective(Weights(params, buffers), encoded, key=None, step=jnp.int32(0))
    np.testing.assert_allclose(loss, losses.byol(z, t), rtol=1e-6)
    assert "collapses" in dict(method.preflight(16))["note"]


def test_the_preflight_tells_of_the_target(tiny):
    assert "decay 0.97 to 1 over 100 steps" in dict(tiny[0].method.preflight(16))["target"]
    assert "note" not in dict(tiny[0].method.preflight(16))


# The same settings, but for the predictor. The projector ends in a dense layer, without BatchNorm.
COLLAPSE = dict(
    steps=80,
    model__widths=(8, 16, 32),
    method__hidden_dim=64,
    method__output_dim=32,
    method__target_decay=0.9,
    optimizer__base_lr=0.02,
    optimizer__lr_scaling="none",
    optimizer__schedule="constant",
    optimizer__warmup_steps=0,
)


@pytest.mark.slow
def test_byol_does_not_collapse():
    seen = watch("byol", **COLLAPSE)
    assert seen.causes == []
    assert seen.std[-1] > 0.5 and seen.rank[-1] > 0.3 * seen.rank[0]
    assert seen.losses[-1] < 0.5 * seen.losses[0]


@pytest.mark.slow
def test_without_a_predictor_byol_collapses_and_the_monitor_says_so():
    seen = watch("byol-no-predictor", **COLLAPSE)
    assert seen.causes == ["complete"]
    assert seen.std[0] > 0.5 and seen.std[-1] < 0.1
    assert seen.rank[-1] < 0.15 * seen.rank[0]
    assert seen.losses[-1] < 0.05
