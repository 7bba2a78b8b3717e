"""BERT (Devlin et al. 2018), https://arxiv.org/abs/1810.04805

    ssl_jax train --config=bert:VARIANT --workdir=runs/bert

Variants:
  pydoc      a small BERT on the documentation that comes with Python: minutes on two CPU cores
  base       first phase of BERT-base: 900,000 steps of 256 pairs of 128 tokens
  large      first phase of BERT-large
  base_512   second phase of BERT-base: 100,000 steps at 512 tokens, started from the first phase
             by --config.init_from=WORKDIR
  large_512  second phase of BERT-large

All but pydoc take a prepared corpus, `--config.data.name=tokens:DIR` (made by `ssl_jax
prepare_text`), or a raw one, e.g. `text:/data/wiki/*.txt`. The paper used BooksCorpus and English
Wikipedia, 3.3 billion words. --config.data.options.tokenizer=vocab.txt takes its vocabulary.

The paper applies dropout to attention weights, which fused kernels cannot do. At 512 tokens,
--config.model.attention_dropout=0 saves a fifth of the memory traffic (compiled for TPU v5e). A run
continues only with the `model.scan_layers` it began with; `init_from` takes weights of both kinds.

Published: GLUE 79.6 (base) and 82.1 (large) on average; SQuAD 1.1 F1 88.5 and 90.9 (dev).
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("pydoc", "base", "large", "base_512", "large_512")
PHASES = {128: (900_000, 20), 512: (100_000, 77)}  # length -> steps, masked tokens of a row at most


def get_config(variant: str = "pydoc") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("bert", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="bert",
            next_sentence=True,  # needs data.options.rows=pairs
            mask_rate=0.15,
            rounding="nearest",
            whole_words=False,  # True: needs data.options.word_start=True
            num_masks=10,  # of a text, drawn beforehand; 0: a new one at every visit
        )
    )
    if variant == "pydoc":
        _pydoc(config)
    else:
        size, _, length = variant.partition("_")
        _paper(config, f"bert_{size}", int(length or 128))
    return config


def _pydoc(config: ConfigDict) -> None:
    """Masked tokens only: 0.4 million tokens are too few to learn sentence pairs."""
    common.pydoc(config)
    config.data.options.update(tokenizer="wordpiece", rows="packed")
    config.method.update(next_sentence=False, num_masks=0)
    config.model.name = "bert_tiny"


def _paper(config: ConfigDict, model: str, length: int) -> None:
    """Paper, App. A.2, and the released code. The rate decays along one line over both phases.

    The second phase begins with new Adam statistics and without the paper's short warm-up.
    """
    steps, predictions = PHASES[length]
    total = sum(steps for steps, _ in PHASES.values())
    config.batch_size = 256
    config.steps = steps
    config.dtype = "bfloat16"
    config.data.name = "tokens:/data/books_and_wikipedia"
    # Pairs as the released code would cut them from 3.3 billion words, about; known once prepared.
    config.data.num_examples = {128: 26_000_000, 512: 7_000_000}[length]
    config.data.options = ConfigDict(
        dict(
            tokenizer="wordpiece", vocab_size=30_522, rows="pairs", sequence_length=length,
            short_probability=0.1,
        )
    )  # fmt: skip
    config.method.max_predictions = predictions
    config.model.update(
        name=model, dropout=0.1, attention_dropout=0.1, scan_layers=True, remat="dots"
    )
    first = length == 128
    rest = PHASES[512][0] / total
    config.optimizer.update(
        name="adamw",
        base_lr=1e-4 if first else 1e-4 * rest,
        lr_scaling="none",
        schedule="linear_unshifted",
        warmup_steps=10_000 if first else 0,
        final_lr_factor=rest if first else 0.0,
        weight_decay=0.01,
        bias_correction=False,
        eps=1e-6,
        clip=dict(norm=1.0),
    )
    common.text_at_scale(config)
