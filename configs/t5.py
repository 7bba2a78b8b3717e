"""T5 (Raffel et al. 2020), https://arxiv.org/abs/1910.10683

    ssl_jax train --config=t5:VARIANT --workdir=runs/t5

Variants:
  pydoc               a small T5 on the documentation that comes with Python: minutes on two CPU
                      cores
  small, base, large  60M, 223M and 738M parameters, version 1.0

All but pydoc take a prepared corpus, `--config.data.name=tokens:DIR` (made by `ssl_jax prepare_text
--tokenizer=bpe --vocab_size=32100 --sentinels=100`), or a raw one, e.g. `text:/data/c4/*.txt`.

The schedule is that of the paper's baseline (Sec. 3.1): 2^19 steps of 128 rows, 34 billion tokens.
The released models of these sizes were trained for 2^20 steps of 2048 rows (Sec. 3.7), on a mixture
with labelled tasks: --config.steps=1048576 --config.batch_size=2048. Version 1.1 is
--config.model.name=t5_1_1_base, with --config.model.dropout=0 and
--config.model.attention_dropout=0. The tokenizer is byte-level BPE here, SentencePiece there.

Published: base GLUE 83.28 on average after fine-tuning (baseline of Table 1).
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

SIZES = ("small", "base", "large")
VARIANTS = ("pydoc", *SIZES)


def get_config(variant: str = "pydoc") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("t5", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(dict(name="t5"))
    if variant == "pydoc":
        _pydoc(config)
    else:
        _paper(config, f"t5_{variant}")
    return config


def _pydoc(config: ConfigDict) -> None:
    """Rows of 128 tokens of a small vocabulary, whose table takes a small share of the time."""
    common.pydoc(config)
    common.next_token(config)
    config.data.options.update(
        tokenizer="bpe", vocab_size=1024, sentinels=16, rows="stream", sequence_length=128
    )
    config.model.update(name="t5_tiny", dropout=0.0)
    config.batch_size = 16
    config.epochs = 8.0
    config.checkpoint.every_epochs = config.eval.every_epochs = 2.0
    # Embeddings are drawn from N(0, 1). Adafactor's steps, relative to the size of an array, move
    # them; those of Adam at the rate of gpt:pydoc hardly do.
    config.optimizer.update(
        name="adafactor", schedule="cosine", base_lr=0.03, warmup_epochs=0.5, weight_decay=0.0
    )


def _paper(config: ConfigDict, name: str) -> None:
    """Sec. 3.1 and the released configuration: a constant rate, then one over a square root."""
    config.dtype = "bfloat16"
    config.batch_size = 128
    config.steps = 2**19
    config.data.name = "tokens:/data/c4"
    config.data.num_examples = 275_000_000  # rows of 750 GB of text; known once prepared
    config.data.options = ConfigDict(
        dict(
            tokenizer="bpe",
            vocab_size=32_100,
            sentinels=100,
            rows="stream",
            sequence_length=568,  # inputs of 512 tokens and targets of 114
        )
    )
    config.model.update(
        name=name, dropout=0.1, attention_dropout=0.1, scan_layers=True, remat="dots"
    )
    # 1 / sqrt(max(step, 10,000))
    config.optimizer.update(
        name="adafactor",
        base_lr=0.01,
        lr_scaling="none",
        schedule="inverse_sqrt",
        warmup_steps=10_000,
        warmup_start=1.0,
        weight_decay=0.0,
    )
    common.text_at_scale(config)
    common.next_token(config)
