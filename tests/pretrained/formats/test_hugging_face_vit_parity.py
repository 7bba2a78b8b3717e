"""Vision Transformers compute the same in transformers and here, with the same weights.

Every weight is away from 0 and 1, so none can be forgotten or swapped unseen.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ssl_jax.core.method import Weights  # noqa: E402
from ssl_jax.core.tree_paths import by_path, replace  # noqa: E402
from ssl_jax.models.positions import sincos_positions  # noqa: E402
from ssl_jax.pretrained import formats, init_from, torch_models  # noqa: E402
from ssl_jax.pretrained.formats import (  # noqa: E402
    hugging_face_vit,
    hugging_face_vit_config,
    method_nets,
)
from ssl_jax.pretrained.matching import flat  # noqa: E402
from tests.pretrained.formats.nets import images, perturbed  # noqa: E402
from tests.pretrained.formats.vits import (  # noqa: E402
    MODELS,
    SETTINGS,
    SIDE,
    experiment_of,
    mae,
    model_type,
)

TOLERANCE = 1e-4


def library_net(case):
    """A net of transformers whose every parameter is random, except MAE's fixed positions."""
    kind = model_type(case)
    config = transformers.AutoConfig.for_model(kind, **SETTINGS[case])
    if kind == "vit_mae":
        net = transformers.ViTMAEForPreTraining(config)
        # The library leaves the positions of a net that starts from random weights at zero.
        net.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
        net.vit.embeddings.initialize_weights()
        net.decoder.initialize_weights(16)
    elif kind in ("vit", "ijepa"):
        net = transformers.AutoModel.from_config(config, add_pooling_layer=False)
    else:
        net = transformers.AutoModel.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for name, x in net.named_parameters():
        if not x.requires_grad:
            continue
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        spread = 0.3 if x.ndim == 1 or "token" in name else 1.4 * x[0].numel() ** -0.5
        x.data = around + spread * torch.randn(x.shape, generator=generator)
    return net.eval()


def features(net, x):
    with torch.no_grad():
        return net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()


def assert_close(ours, theirs):
    assert np.abs(np.asarray(ours) - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def tokens(net, params, x):
    """(h, patch tokens) of our encoder."""
    apply = jax.jit(lambda params, x: net.apply(params, {}, x, train=False)[0])
    h, out = apply(params, x)
    return np.asarray(h), np.asarray(out["patch_tokens"])


@pytest.mark.parametrize("case", [case for case in MODELS if case != "vit_mae"])
def test_a_folder_of_the_library_gives_its_features(case, tmp_path):
    theirs = library_net(case)
    theirs.save_pretrained(tmp_path)
    loaded, lines = init_from.load(str(tmp_path), experiment_of(MODELS[case]))
    assert lines[0].startswith(f"{tmp_path}: {model_type(case)}, ")
    assert not [line for line in lines if "not found" in line or "initialised" in line]
    net, blank, _ = perturbed(SIDE, channels=1, **MODELS[case])
    arrays = {path.removeprefix("encoder/"): x for path, x in loaded["params"].items()}
    assert arrays.keys() == by_path(blank).keys()
    x = images(SIDE)[..., :1]
    h, patches = tokens(net, replace(blank, arrays), x)
    expected = features(theirs, x)
    assert_close(patches, expected[:, -patches.shape[1] :])
    assert_close(h, expected[:, 0] if case != "ijepa" else expected.mean(axis=1))


@pytest.mark.parametrize("case", [case for case in MODELS if case != "vit_mae"])
def test_a_written_folder_gives_our_features_in_the_library(case, tmp_path):
    net, params, _ = perturbed(SIDE, channels=1, **MODELS[case])
    config = hugging_face_vit_config.description(net.module, (SIDE, SIDE, 1))
    state = formats.to_torch(params, {})
    if case in ("dinov2", "swiglu", "dinov2_with_registers"):
        state["mask_token"] = np.zeros((1, 16), np.float32)
    hugging_face_vit.write(str(tmp_path), state, config)
    options = dict(add_pooling_layer=False) if case in ("vit", "ijepa") else {}
    theirs, report = transformers.AutoModel.from_pretrained(
        tmp_path, output_loading_info=True, **options
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[problem], (problem, report[problem])
    assert type(theirs).__name__ == config["architectures"][0]
    x = images(SIDE)[..., :1]
    _, patches = tokens(net, params, x)
    assert_close(patches, features(theirs.eval(), x)[:, -patches.shape[1] :])
    assert_close(patches, torch_models.transformers_patches(str(tmp_path), x))


def loss_and_gradients(theirs, x, noise):
    theirs.zero_grad()
    out = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), noise=torch.from_numpy(noise))
    out.loss.backward()
    gradients = {n: p.grad.numpy() for n, p in theirs.named_parameters() if p.grad is not None}
    return out.loss.item(), gradients


def our_gradients(experiment, params, x, noise):
    method = experiment.method
    views = {"x": x, "order": np.argsort(noise, axis=1).astype(np.int32)}
    buffers = experiment.abstract_state.buffers

    def loss(params):
        key = jax.random.key(0)
        encoded, _ = method.encode(Weights(params, buffers, None), views, key=key, step=0)
        return encoded["loss"].mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), by_path(gradients)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_mae_has_the_librarys_loss_and_gradients(norm_pix_loss, tmp_path):
    theirs = library_net("vit_mae")
    theirs.config.norm_pix_loss = norm_pix_loss
    theirs.save_pretrained(tmp_path)
    experiment = mae(method__norm_pix_loss=norm_pix_loss)
    loaded, lines = init_from.load(str(tmp_path), experiment)
    assert len(lines) == 1
    shapes = experiment.abstract_state.params
    assert loaded["params"].keys() == by_path(shapes).keys()
    params = replace(shapes, loaded["params"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, SIDE, SIDE, 1)).astype(np.float32)
    noise = rng.random((3, 16), np.float32)

    expected, their_gradients = loss_and_gradients(theirs, x, noise)
    value, gradients = our_gradients(experiment, params, x, noise)
    assert abs(value - expected) <= TOLERANCE * expected
    state, unused = hugging_face_vit.from_hugging_face(their_gradients, "vit_mae")
    assert not unused
    own = {f"params/{path}": leaf for path, leaf in by_path(shapes).items()}
    decoder, _, _ = method_nets.convert(state, own)
    state.pop("mask_token")
    encoder, missing, unused = formats.from_torch(state, shapes["encoder"], {}, positions="sincos")
    assert not missing and not [name for name in unused if not name.startswith("decoder")]
    found = {path.removeprefix("params/"): x for path, x in decoder.items()}
    found |= {f"encoder/{path}": x for path, x in encoder["params"].items()}
    assert found.keys() == gradients.keys()
    for path, gradient in found.items():
        error = np.abs(np.asarray(gradients[path]) - gradient).max()
        assert error <= TOLERANCE * np.abs(gradient).max(), path


def test_a_run_of_mae_is_written_whole(tmp_path):
    experiment = mae()
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32),
        experiment.abstract_state.params,
    )
    method = experiment.method
    module, decoder = (method.nets()[role].module for role in ("encoder", "decoder"))
    config = hugging_face_vit_config.description(module, (SIDE, SIDE, 1), decoder, method.hyper)
    state = formats.to_torch(params["encoder"], {}, sincos=sincos_positions((4, 4), 16))
    state |= method_nets.to_torch(flat({"params": params}), "decoder")
    positions = sincos_positions((4, 4), 24).reshape(1, 16, 24)
    state["decoder_pos_embed"] = np.pad(positions, ((0, 0), (1, 0), (0, 0)))
    hugging_face_vit.write(str(tmp_path), state, config)
    theirs, report = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[problem], (problem, report[problem])
    x = rng.normal(size=(2, SIDE, SIDE, 1)).astype(np.float32)
    noise = rng.random((2, 16), np.float32)
    expected, _ = loss_and_gradients(theirs, x, noise)
    value, _ = our_gradients(experiment, params, x, noise)
    assert abs(value - expected) <= TOLERANCE * expected
    patches = tokens(method.nets()["encoder"], params["encoder"], x)[1]
    assert_close(patches, torch_models.transformers_patches(str(tmp_path), x))
