"""Methods of text whose every number is away from 0 and 1, and a folder made of one."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.method import Vocabulary
from ssl_jax.models import Net, PairHead, make_encoder, token_head

WORDPIECE = Vocabulary(size=60, pad=0, unk=1, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4))
BPE = Vocabulary(size=60, pad=1, unk=3, cls=0, sep=2, mask=4, special=(0, 1, 2, 3, 4))
TINY = dict(vocab_size=60, dim=24, depth=2, num_heads=3, mlp_ratio=2.0, max_length=20)
# (model, whether there are pairs)
CASES = {
    "pairs": (dict(TINY, name="bert_tiny", pooler=True, activation="gelu_tanh"), True),
    "masked": (dict(TINY, name="bert_tiny", activation="gelu", scan_layers=True), False),
    "roberta": (dict(TINY, name="roberta_tiny"), False),
}


def vocabulary_of(model):
    return BPE if model["name"].startswith("roberta") else WORDPIECE


def perturbed(model, pairs):
    """(module, params) with every weight, bias and scale random."""
    net = make_encoder(**model)
    nets = {"encoder": (net, texts(net.module)), "token_head": (token_head(net), None)}
    if pairs:
        nets["pair_head"] = (Net(PairHead()), None)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "scale":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        spread = {"bias": 0.3, "embedding": 0.5}.get(name, 1 / np.sqrt(leaf.shape[-2:][0]))
        return (spread * rng.standard_normal(leaf.shape, np.float32)).astype(np.float32)

    params = {}
    for name, (part, x) in nets.items():
        x = jax.ShapeDtypeStruct((1, net.module.dim), jnp.float32) if x is None else x
        shapes = jax.eval_shape(part.init, jax.random.key(0), x)[0]
        params[name] = jax.tree_util.tree_map_with_path(draw, shapes)
    return net.module, params


def texts(module, n=3, seed=1):
    """A text a row, of several lengths, with types if there are any."""
    rng = np.random.default_rng(seed)
    length = min(module.max_length, 32)
    lengths = np.linspace(length // 2, length, n).astype(int)[:, None]
    place = np.arange(length)
    real = place < lengths
    text = {
        "tokens": np.where(real, rng.integers(5, module.vocab_size, real.shape), 0),
        "segment": real,
        "position": np.where(real, place, 0),
        "type": np.where(real & (place > 5), module.num_types - 1, 0),
    }
    return {name: x.astype(np.int32) for name, x in text.items()}


def outputs(module, params, text):
    """Every layer's tokens [n l d], the logits of all tokens and of pairs (None without)."""

    @jax.jit
    def apply(params, text):
        _, out = Net(module).apply(params["encoder"], {}, text, train=False)[0]
        head = token_head(Net(module))
        x, bias = head.apply(params["token_head"], {}, out["tokens"], train=False)[0]
        logits = x @ params["encoder"]["embed"]["token"]["embedding"].T + bias
        of_pairs = None
        if "pair_head" in params:
            head = Net(PairHead())
            of_pairs = head.apply(params["pair_head"], {}, out["pooler"], train=False)[0]
        layers = [out[f"layer{i + 1}"] for i in range(module.depth)]
        return layers, logits, of_pairs

    return jax.tree.map(np.asarray, apply(params, text))
