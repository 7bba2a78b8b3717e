"""RoBERTa (Liu et al. 2019), https://arxiv.org/abs/1907.11692

    ssl_jax train --config=roberta:VARIANT --workdir=runs/roberta

Variants:
  pydoc  a small RoBERTa on the documentation that comes with Python: minutes on two CPU cores
  base   RoBERTa-base: 500,000 steps of 8,192 rows of 512 tokens
  large  RoBERTa-large

BERT without next-sentence prediction, with rows of full sentences, a new mask at every visit and a
byte-level vocabulary. base and large take a prepared corpus, `--config.data.name=tokens:DIR` (made
by `ssl_jax prepare_text --tokenizer=DIR_OF_VOCAB_JSON_AND_MERGES`); the paper's has 160 GB.

Published (large): SQuAD 2.0 F1 89.4, MNLI-m 90.2, SST-2 96.4 (dev); base: MNLI 87.6, SST-2 94.8.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("pydoc", "base", "large")
# Model -> learning rate, steps of warm-up.
RATES = {"base": (6e-4, 24_000), "large": (4e-4, 30_000)}


def get_config(variant: str = "pydoc") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("roberta", variant, VARIANTS)
    config = base_config()
    config.method = ConfigDict(
        dict(
            name="bert",
            next_sentence=False,
            mask_rate=0.15,
            rounding="random",
            whole_words=False,
            num_masks=0,
        )
    )
    if variant == "pydoc":
        common.pydoc(config)
        config.data.options.update(tokenizer="bpe", rows="full_sentences")
        config.model.name = "roberta_tiny"
    else:
        _paper(config, variant)
    return config


def _paper(config: ConfigDict, size: str) -> None:
    """Paper, Sec. 3 and 5 and Table 9; the learning rates of its appendix. No clipping."""
    rate, warmup = RATES[size]
    config.batch_size = 8192
    config.steps = 500_000
    config.dtype = "bfloat16"
    config.data.name = "tokens:/data/roberta"
    config.data.num_examples = 75_000_000  # rows of about 39 billion tokens; known once prepared
    config.data.options = ConfigDict(
        dict(tokenizer="bpe", vocab_size=50_265, rows="full_sentences", sequence_length=512)
    )
    config.model.update(
        name=f"roberta_{size}", dropout=0.1, attention_dropout=0.1, scan_layers=True, remat="dots"
    )
    config.optimizer.update(
        name="adamw",
        base_lr=rate,
        lr_scaling="none",
        schedule="linear",
        warmup_steps=warmup,
        weight_decay=0.01,
        b2=0.98,
        eps=1e-6,
    )
    common.text_at_scale(config)
