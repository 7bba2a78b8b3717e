"""BERT in ssl_jax and in PyTorch, of equal size and on the same texts, for the benchmarks.

PyTorch's is `transformers.BertForMaskedLM` with its default attention (sdpa). It takes the hidden
places before its head, as ssl_jax does; called as its documentation says, it makes the logits of
all tokens, with a label of -100 where nothing is hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.experiment.build import Experiment

VOCAB_SIZE = 30_522
_FIRST_WORD = 1000  # special and unused tokens precede it in BERT's vocabulary
_MASK = 103


def experiment(
    model: str, rows: int, length: int, *, dtype: str, dropout: float = 0.0, **options: Any
) -> Experiment:
    """`bert:base` without sentence pairs, in full rows.

    Args:
      model: e.g. "bert_small".
      rows, length: of a batch.
      dtype: of activations.
      dropout: of embeddings and branches; there is none of the attention weights.
      **options: of the encoder.
    """
    config = config_lib.load("bert:base")
    config.batch_size, config.dtype = rows, dtype
    config.data.options.update(rows="packed", sequence_length=length)
    config.method.update(next_sentence=False, max_predictions=None)
    config.model.update(name=model, dropout=dropout, attention_dropout=0.0, **options)
    config = config_lib.resolve(config)
    return Experiment.build(config, data.spec_from_config(config.data))


def texts(rows: int, length: int, predictions: int) -> dict[str, np.ndarray]:
    """Random words, some of which are hidden, int32.

    Returns:
      `words` [n l]; `tokens` [n l], the same with masks; `positions` and `targets` [n p].
    """
    rng = np.random.default_rng(0)
    words = rng.integers(_FIRST_WORD, VOCAB_SIZE, (rows, length), dtype=np.int32)
    places = [rng.choice(length, predictions, replace=False) for _ in range(rows)]
    positions = np.sort(np.stack(places)).astype(np.int32)
    tokens = words.copy()
    np.put_along_axis(tokens, positions, _MASK, axis=1)
    targets = np.take_along_axis(words, positions, axis=1)
    return {"words": words, "tokens": tokens, "positions": positions, "targets": targets}


def batch(rows: int, length: int) -> dict[str, np.ndarray]:
    """A batch of a train step with random words: full rows of one text each."""
    shape = (rows, length)
    return {
        "tokens": texts(rows, length, 1)["words"],
        "segment": np.ones(shape, np.int32),
        "position": np.broadcast_to(np.arange(length, dtype=np.int32), shape),
        "label": np.full(rows, -1, np.int32),
        "index": np.arange(rows, dtype=np.int32),
    }


def torch_net(like: Experiment, *, dropout: float = 0.0) -> Any:
    """A `BertForMaskedLM` of the experiment's size, in training mode."""
    import transformers

    encoder = like.method.encoder.module
    config = transformers.BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.num_heads,
        intermediate_size=round(encoder.mlp_ratio * encoder.dim),
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.BertForMaskedLM(config).train()


def torch_loss(net: Any, like: Experiment, *, everywhere: bool = False) -> Callable[[], Any]:
    """A function that computes the loss, a scalar tensor, on the device that the net is on.

    Args:
      net: the result of `torch_net`.
      like: the experiment that defines the batches.
      everywhere: whether to compute the logits of all tokens.
    """
    import torch

    config, method = like.config, like.method
    arrays = texts(config.batch_size, method.length, method.max_predictions)
    rows = {name: torch.from_numpy(x.astype(np.int64)).to(net.device) for name, x in arrays.items()}
    labels = torch.full_like(rows["tokens"], -100)
    labels.scatter_(1, rows["positions"], rows["targets"])

    def loss() -> Any:
        if everywhere:
            return net(input_ids=rows["tokens"], labels=labels).loss
        hidden = net.bert(input_ids=rows["tokens"]).last_hidden_state
        places = rows["positions"][..., None].expand(-1, -1, hidden.shape[-1])
        logits = net.cls(hidden.gather(1, places)).flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits.float(), rows["targets"].flatten())

    return loss
