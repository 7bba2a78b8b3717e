"""What the tests of GPT's and T5's folders share: random weights, logits and gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.models import make_encoder
from ssl_jax.models.layers import restack
from ssl_jax.models.transformer import output_table
from ssl_jax.pretrained import formats


def perturbed(options, text, *, embedding):
    """A net and parameters away from 0 and 1, so that none can be forgotten or swapped unseen.

    Args:
      options: of `make_encoder`.
      text: inputs of the net.
      embedding: standard deviation of the embeddings.
    """
    net = make_encoder(**options)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name == "scale":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        known = {"bias": 0.3, "embedding": embedding}
        spread = known[name] if name in known else leaf.shape[-2] ** -0.5
        return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    shapes, _ = jax.eval_shape(net.init, jax.random.key(0), text)
    return net.module, jax.tree_util.tree_map_with_path(draw, shapes)


def logits_and_gradients(module, params, text, targets, *, output, names):
    """Logits, and the gradients of the mean cross-entropy by the names of transformers.

    Args:
      module, params: of the encoder.
      text: its inputs.
      targets: int [n t].
      output: which output gives the logits, "tokens" or "written".
      names: (weights, module) -> arrays by name, of a module in `ssl_jax.pretrained.formats`.
    """

    def loss(params):
        out = module.apply({"params": params}, text, train=False)[1]
        found = jnp.einsum("ntd,vd->ntv", out[output], output_table(params))
        log_p = jax.nn.log_softmax(found)
        return -jnp.take_along_axis(log_p, jnp.asarray(targets)[..., None], -1).mean(), found

    (_, found), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(found), names({"encoder": grads}, module)


def theirs(folder, targets, **inputs):
    """The same by transformers, from a folder of which nothing may be missing or left over."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    net, said = kind.from_pretrained(folder, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not said[what], (what, said[what])
    given = {name: torch.from_numpy(x.astype(np.int64)) for name, x in inputs.items()}
    out = net.eval()(**given).logits
    loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    return out.detach().numpy(), {name: x.grad.numpy() for name, x in net.named_parameters()}


def assert_equal(found, expected):
    (found, grads), (expected, their_grads) = found, expected
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    assert grads.keys() == their_grads.keys()
    for name, g in grads.items():
        scale = max(np.abs(their_grads[name]).max(), 1e-3)
        np.testing.assert_allclose(g, their_grads[name], atol=1e-4 * scale, err_msg=name)


def assert_same(arrays, params):
    """Whether arrays by path are the parameters, all of them and no more."""
    again = restack(arrays, by_path({"encoder": params}))
    for path, x in by_path({"encoder": params}).items():
        np.testing.assert_array_equal(again.pop(path), x)
    assert not again


def read(folder, module, params, from_hugging_face):
    """The parameters in a folder, every one of which is in `params` too."""
    state = formats.read(str(folder / "model.safetensors"))
    saved = json.loads((folder / "config.json").read_text())
    arrays, unused = from_hugging_face(state, saved, module)
    assert not unused
    whole = {"encoder": params}
    return replace(whole, restack(arrays, by_path(whole)))["encoder"]
